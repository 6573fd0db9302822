from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

import scalex

ROOT = Path(__file__).parents[1]


def read_rows() -> Iterator[list[list[str]]]:
    """Yield the rows of the table of parameters, as what each cell has in backticks."""
    table = (ROOT / "README.md").read_text().split("| `SCALEX(...)` | setting | |\n", 1)[1]
    for line in table.splitlines()[1:]:
        if not line.startswith("|"):
            return
        yield [re.findall(r"`([^`]+)`", cell) for cell in line.strip("|").split("|")]


@pytest.fixture(scope="module")
def configs() -> list[DictConfig]:
    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        train = [compose("train", ["dataset=files", "dataset.path=x", f"preprocess={kind}"]) for kind in ("rna", "atac", "adt", "none")]
        return [*train, compose("project", ["reference=x"])]


def test_the_table_lists_every_parameter_once() -> None:
    listed = [name for names, *_ in read_rows() for name in names]
    assert len(listed) == len(set(listed))
    assert set(listed) == set(inspect.signature(scalex.SCALEX).parameters)


def test_every_setting_of_the_table_exists(configs: list[DictConfig]) -> None:
    missing = object()
    n_settings = 0
    for _, settings, *_ in read_rows():
        for setting in settings:
            n_settings += 1
            group, _, option = setting.partition("=")
            if option:
                assert (ROOT / "conf" / group / f"{option}.yaml").is_file(), setting
            else:
                assert any(OmegaConf.select(cfg, setting, default=missing, throw_on_missing=False) is not missing for cfg in configs), (
                    setting
                )
    assert n_settings >= len(inspect.signature(scalex.SCALEX).parameters) - 1
