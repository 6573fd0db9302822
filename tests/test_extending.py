"""Tests that the examples of docs/extending.md run."""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from commands import run_command

from scalex.cells.stores import STORES
from scalex.formats.read import READERS
from scalex.model.models import MODELS
from scalex.nn.likelihood import LIKELIHOODS
from scalex.preprocess.profiles import PROFILES

PAGE = (Path(__file__).parents[1] / "docs" / "extending.md").read_text()


def read_blocks(language: str) -> list[str]:
    """Return the blocks of code of the page."""
    return re.findall(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)


def test_the_examples_work_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tables: tuple[dict[str, Any], ...] = (PROFILES, LIKELIHOODS, MODELS, READERS, STORES)
    before = [dict(table) for table in tables]
    # The decorator `dataclass` looks up the module of a class.
    module = ModuleType("example")
    monkeypatch.setitem(sys.modules, "example", module)
    example: dict[str, Any] = module.__dict__
    try:
        for code in read_blocks("python"):
            exec(code, example)
    finally:
        for table, content in zip(tables, before, strict=True):
            table.clear()
            table.update(content)
    assert example["latent"].shape == (50, 4)
    np.testing.assert_array_equal(example["from_format"], example["latent"])
    assert not example["from_store"].in_memory
    np.testing.assert_array_equal(example["from_store"].read(slice(3, 9)).toarray(), example["query"].X[3:9].toarray())
    assert type(example["reference"].module) is example["LinearModule"]
    for text, part in zip(read_blocks("yaml"), (example["SpotRecipe"], example["LinearModule"]), strict=False):
        target, *settings = yaml.safe_load(text).items()
        assert target[1].endswith(f".{part.__name__}")
        assert dict(settings) == {name: parameter.default for name, parameter in inspect.signature(part).parameters.items()}
    query, linear = example["query"], example["reference"].module
    np.testing.assert_array_equal(example["projected"].obsm["latent"][-50:], example["latent"])
    transform = linear.trained_on.preprocessor.for_features(query.var_names)
    inputs = transform(query.X.tocsr(), np.full(50, -1)).toarray() + transform.fill_value
    expected = inputs @ linear.encoder.weight.detach().numpy().T + linear.encoder.bias.detach().numpy()
    np.testing.assert_allclose(example["latent"], expected, atol=1e-5)
    decoded = expected @ linear.decoder.weight.detach().numpy().T + linear.decoder.bias.detach().numpy()
    unit = linear.trained_on.preprocessor.maximum.max(0)
    np.testing.assert_allclose(example["projected"].layers["impute"][-50:], decoded * unit, rtol=1e-4, atol=1e-4)
    assert example["module"].hparams["likelihood"] == "gaussian"
    assert (tmp_path / "gaussian" / "adata.h5ad").exists()


def test_an_added_tracker_gets_the_losses(tmp_path: Path) -> None:
    (tmp_path / "more" / "logger").mkdir(parents=True)
    text = read_blocks("yaml")[-1]
    (tmp_path / "more" / "logger" / "csv_logs.yaml").write_text(text)
    settings = ["dataset.n_cells=200", "model=small", "model.max_steps=3", "callbacks=[latent_export]", "trainer=cpu", "output=run"]
    process = run_command("train.py", f"hydra.searchpath=[file://{tmp_path / 'more'}]", "logger=csv_logs", *settings, cwd=tmp_path)
    assert process.returncode == 0, process.stderr
    (log,) = (tmp_path / "run" / "lightning_logs").rglob("metrics.csv")
    assert pd.read_csv(log)["train/loss"].gt(0).all()
