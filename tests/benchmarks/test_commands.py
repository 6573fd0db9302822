"""Tests of the commands of benchmarks/, called with --tiny."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import anndata as ad
import numba
import numpy as np
import pandas as pd
import pytest
import torch
from lightning import Trainer

from benchmarks import label_transfer, projection, speed, streaming, timing
from benchmarks.provenance import provenance
from benchmarks.quality import figures, run

ROOT = Path(__file__).parents[2]
# The starts of the titles of each command's tables.
TITLES = {
    "speed": ["training", "step", "dsbn", "precision", "gather"],
    "projection": ["embedding", "memory of project.py"],
    "streaming": ["reading", "work on", "memory of train.py", "plan of an epoch"],
    "processes": ["processes"],
    "gpu": ["training", "peers", "step", "precision", "compiled", "dsbn", "embedding", "whole run"],
    "label_transfer": ["label transfer", "types left out"],
    "differential": ["differential, null", "differential, known"],
    "quality.run": [
        "quality",
        "quality, each metric",
        "quality, few cells",
        "quality, many",
        "quality, null",
        "quality, unshared",
        "quality, projected",
        "quality, adapters: parts of a query",
        "quality, adapters: types",
        "quality, adapters: a condition",
        "quality, labels",
    ],
}
# Options that name interpreters of other packages, for which `answer_as_peer` stands in.
PEERS = {
    "speed": ["--published", "other"],
    "projection": ["--published", "other"],
    "streaming": ["--published", "other"],
    "processes": [],
    "gpu": ["--published", "other", "--scvi", "other"],
    "label_transfer": ["--scvi", "other", "--symphony", "other"],
    "differential": [],
    "quality.run": ["--scvi", "other", "--symphony", "other", "--published", "other", "--umaps", "PCA", "scalex"],
}
# Columns that may be empty, since no type is rare, some comparisons have no target, and some methods no training of their own.
MAY_BE_EMPTY = {
    "speed": {"target"},
    "projection": {"target"},
    "streaming": {"of the first", "ratio", "target", "domain entropy, of a full shuffle's"},
    "processes": set(),
    "gpu": set(),
    "label_transfer": {"called unknown", "left-out cells called unknown"},
    "differential": set(),
    "quality.run": {
        *("seeds", "rare types", "wrong, rare", "wrong, rare types", "training, s", "whole run, s", "of the first", "of the second"),
        *("to all, half scored", "to one half, the other scored", "to 1,000 cells", "to 300 cells", "of the type", "AUROC of unknown"),
        *("left out", "bio", "batch", "wrong neighbours", "share of the loss back"),
    },
}


class Table(NamedTuple):
    title: str
    about: str
    columns: list[str]
    rows: list[list[str]]


@pytest.fixture(autouse=True)
def restore_process() -> Iterator[None]:
    """Restore the threads, variables, loggers and process groups that commands set, each of which expects its own process."""
    n_threads = torch.get_num_threads()
    # The start of numba's threads makes torch use all cores, too, so that it must precede the commands, which set one thread.
    numba.get_num_threads()
    loggers = [logging.getLogger(), *(logging.getLogger(name) for name in logging.root.manager.loggerDict)]
    # Hydra disables existing loggers.
    saved = [(logger, logger.disabled, logger.level) for logger in loggers]
    with patch.dict(os.environ):
        yield
    for logger, disabled, level in saved:
        logger.disabled = disabled
        logger.setLevel(level)
    torch.set_num_threads(n_threads)
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def answer_as_peer(script: str, arguments: Sequence[str]) -> str:
    """Do what a script of benchmarks/peers does, with random latents; return what it prints."""
    if script in ("published_loop.py", "published_embed.py", "scvi_loop.py"):
        assert {"batch"} <= set(ad.read_h5ad(arguments[0]).obs)
        return '{"cells_per_second": 100.0}'
    rng = np.random.default_rng(0)
    if script in ("scvi_query.py", "symphony_query.py"):
        sides = dict(zip(("reference", "query"), (ad.read_h5ad(path) for path in arguments), strict=False))
        np.savez(arguments[2], **{side: rng.normal(size=(cells.n_obs, 10)) for side, cells in sides.items()})
    else:
        assert script in ("scvi.py", "published.py")
        names = ad.read_h5ad(arguments[0]).obs_names.to_numpy(str)
        np.savez(arguments[1], names=names, latent=rng.normal(size=(len(names), 10)), seconds=1.5)
    return ""


@pytest.fixture
def fake_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace other processes, which import for many seconds, by calls in this one."""
    run_process = subprocess.run

    def run(command: Sequence[str], **settings: Any) -> subprocess.CompletedProcess[str]:
        is_measured = command[1] == "-c"
        script = command[3:] if is_measured else command
        if script[:2] == ["other", "-I"]:
            assert Path(script[2]).is_file()
            printed = answer_as_peer(Path(script[2]).name, script[3:])
            return subprocess.CompletedProcess(command, 0, "123456\n" if is_measured else printed, "")
        if command[:2] == [sys.executable, "-m"]:
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                import_module(command[2]).main(command[3:])
            return subprocess.CompletedProcess(command, 0, printed.getvalue(), "")
        return run_process(command, **settings)

    monkeypatch.setattr(subprocess, "run", run)
    # Lightning's strategy for several processes gets one; tests/test_processes.py starts several.
    monkeypatch.setattr(timing, "Trainer", lambda **settings: Trainer(**settings | {"devices": 1}))
    # torch compiles for ten seconds.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    # numba compiles for half a minute before the first UMAP.
    monkeypatch.setattr(
        figures, "_compute_umap", lambda store, cells, method, embedding, obs: embedding.select(obs.index.to_numpy(str))[:, :2]
    )


@pytest.fixture
def run_tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Table]]:
    """Return a function that runs a command with --tiny and returns the tables that it adds to a file."""
    monkeypatch.setenv("SCALEX_DATA", str(tmp_path / "no real cells"))
    monkeypatch.setenv("SCALEX_BENCH", str(tmp_path / "no embeddings"))

    def run(name: str, *arguments: str) -> list[Table]:
        output = tmp_path / "tables.md"
        import_module(f"benchmarks.{name}").main(["--tiny", "--output", str(output), *arguments])
        return [parse_table(section) for section in output.read_text().split("### ")[1:]]

    return run


def parse_table(section: str) -> Table:
    """Return the table of a section of markdown."""
    title, about, table = section.strip().split("\n\n")
    columns, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines())
    return Table(title, about, columns, rows)


def test_every_command_has_a_test() -> None:
    folder = ROOT / "benchmarks"
    files = [path for path in folder.rglob("*.py") if "__main__" in path.read_text() and path.parent.name != "peers"]
    # resampled.py runs the other commands.
    found = {".".join(path.relative_to(folder).with_suffix("").parts) for path in files} - {"resampled"}
    assert found == set(TITLES)


# conf/trainer/ddp.yaml uses this name, for torch before 2.13.
@pytest.mark.filterwarnings("ignore:.*broadcast_buffers.*:FutureWarning")
@pytest.mark.usefixtures("fake_processes")
@pytest.mark.parametrize("name", TITLES)
def test_each_table_has_finite_numbers(name: str, run_tiny: Callable[..., list[Table]], tmp_path: Path) -> None:
    found = run_tiny(name, *PEERS[name])
    for table, title in zip(found, TITLES[name], strict=True):
        assert table.title.startswith(title)
        assert "--tiny: these figures mean nothing" in table.about
        assert re.match(r"(commit [0-9a-f]+( with changes)?|unknown commit), torch ", table.about)
        assert table.rows
        for row in table.rows:
            assert len(row) == len(table.columns)
            assert any(re.search(r"\d", cell) for cell in row[1:])
            for column, cell in zip(table.columns, row, strict=True):
                assert not re.search(r"\b(nan|inf)\b", cell, re.IGNORECASE), (column, row)
                assert cell or column in MAY_BE_EMPTY[name], (column, row)
    pictures = {"tables_totals.png", "tables_umaps.png"} if name == "quality.run" else set()
    assert {path.name for path in tmp_path.iterdir()} == {"tables.md"} | pictures


@pytest.mark.parametrize("name", TITLES)
def test_the_import_of_a_command_changes_no_variables(name: str) -> None:
    before = dict(os.environ)
    runpy.run_path(str(ROOT / "benchmarks" / f"{name.replace('.', '/')}.py"), run_name="imported")
    assert dict(os.environ) == before


def test_the_table_names_a_missing_interpreter(run_tiny: Callable[..., list[Table]]) -> None:
    (table,) = run_tiny("speed", "--only", "training")
    assert table.rows[1] == ["published package", "not measured (--published)", "", ""]


def test_a_given_option_overrides_tiny(run_tiny: Callable[..., list[Table]]) -> None:
    table, *others = run_tiny("speed", "--only", "gather", "--gather-cells", "700")
    assert "700 x 100" in table.title
    assert not others


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        (projection, ["--only", "memory"]),
        (streaming, ["--only", "plan"]),
        (label_transfer, []),
        (run, ["--sets", "mop_rna", "--only", "main"]),
    ],
)
def test_missing_real_cells_are_an_error(command: object, arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCALEX_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(SystemExit, match=r"No such folder: .*nowhere. Set SCALEX_DATA"):
        command.main(arguments)  # type: ignore[attr-defined]


def test_the_calibration_error_is_that_of_a_loop() -> None:
    rng = np.random.default_rng(0)
    probability = rng.random(200)
    correct = rng.random(200) < probability
    expected = 0.0
    for i in range(15):
        inside = (probability >= i / 15) & (probability < (i + 1) / 15)
        if inside.any():
            expected += inside.mean() * abs(correct[inside].mean() - probability[inside].mean())
    assert label_transfer.expected_calibration_error(probability, correct) == pytest.approx(expected)


def test_the_loop_of_batch_norms_normalizes_each_domain() -> None:
    x_CF, domain_C = torch.randn(12, 3), torch.tensor([0] * 5 + [1] * 6 + [2])
    out_CF = speed.LoopOfBatchNorms(3, 4)(x_CF, domain_C)
    for code in (0, 1):
        torch.testing.assert_close(out_CF[domain_C == code].mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    assert torch.equal(out_CF[-1], x_CF[-1])


def test_tables_say_that_runs_may_be_of_earlier_code() -> None:
    old = run._about(run._arguments(["--keep-old-code"]))
    assert old == f"{provenance()}; runs of our models may be of earlier code (--keep-old-code)"
    assert run._about(run._arguments([])) == provenance()


def test_means_over_sets_ignore_unknown_values() -> None:
    one = dict.fromkeys(run.COMPACT, 0.5)
    found = {"mop_rna": {"a": [one, one | {"total": 0.7}]}, "mop_atac": {"a": [one | {"training": float("nan")}]}}
    rows = pd.DataFrame(run.make_compact_rows(found), columns=["set", "method", "seeds", *(name for name, _ in run.COMPACT.values())])
    assert rows["set"].tolist() == [
        "mop_rna",
        "mop_atac (untouched)",
        "mean of 1 tuned sets",
        "mean of 1 untouched sets",
        "mean of 2 sets",
    ]
    assert rows["total"].tolist() == ["0.600 ± 0.141", "0.500", "0.600", "0.500", "0.550"]
    assert rows["training, s"].tolist() == ["0.5 ± 0.0", "", "0.5", "", ""]
