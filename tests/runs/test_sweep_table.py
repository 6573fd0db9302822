from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from scalex.runs.folder import COMPOSED, FINISHED
from scalex.runs.sweep_table import write_sweep_table

Add = Callable[..., Path]


def finish(folder: Path, scores: dict[str, float]) -> None:
    (folder / "metrics.json").write_text(json.dumps(scores))
    (folder / FINISHED).touch()


@pytest.fixture
def add(tmp_path: Path) -> Add:
    """Return a function that creates a run folder. Without scores, the run is not finished."""

    def make(name: str, scores: dict[str, float] | None, n_latent: int | None = 10, **settings: Any) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        config = {"output": str(folder), "seed": 1, "model": {"n_latent": n_latent, "lr": 0.001}} | settings
        (folder / COMPOSED).write_text(yaml.safe_dump(config))
        if scores is not None:
            finish(folder, scores)
        return folder

    return make


def test_a_row_holds_the_differing_settings_and_the_scores_of_a_run(add: Add, tmp_path: Path) -> None:
    for i, (n_latent, seed) in enumerate([(8, 1), (8, 2), (16, 1), (16, 2)]):
        add(str(i), {"total": i / 10, "ari": 0.5}, n_latent, seed=seed)
    table = write_sweep_table(tmp_path)
    expected = pd.DataFrame(
        {"seed": [1, 2, 1, 2], "model.n_latent": [8, 8, 16, 16], "total": [0, 0.1, 0.2, 0.3], "ari": 0.5},
        index=pd.Index(list("0123"), name="run"),
    )
    pd.testing.assert_frame_equal(table, expected, check_like=True, check_dtype=False)
    written = pd.read_csv(tmp_path / "sweep.csv", dtype={"run": str}, index_col="run")
    pd.testing.assert_frame_equal(written, expected, check_like=True, check_dtype=False)


def test_runs_are_in_the_order_of_their_numbers(add: Add, tmp_path: Path) -> None:
    for i in (10, 2, 0, 9):
        add(str(i), {"total": i}, n_latent=i)
    assert list(write_sweep_table(tmp_path).index) == ["0", "2", "9", "10"]


def test_unfinished_runs_have_no_row_until_they_finish(add: Add, tmp_path: Path) -> None:
    add("0", {"total": 0.1}, 8)
    stopped = add("1", None, 16)
    assert list(write_sweep_table(tmp_path).index) == ["0"]
    (stopped / "metrics.json").write_text('{"total": 0.2}')
    assert list(write_sweep_table(tmp_path).index) == ["0"]
    finish(stopped, {"total": 0.2})
    table = write_sweep_table(tmp_path)
    assert list(table["total"]) == [0.1, 0.2]
    assert list(table["model.n_latent"]) == [8, 16]


def test_a_missing_score_is_empty(add: Add, tmp_path: Path) -> None:
    add("0", {"total": 0.1, "ari": 0.3}, 8)
    add("1", {"total": 0.2}, 16)
    assert list(write_sweep_table(tmp_path)["ari"].isna()) == [False, True]


def test_a_setting_that_is_null_in_one_run_is_a_column(add: Add, tmp_path: Path) -> None:
    add("0", {"total": 0.1}, None)
    add("1", {"total": 0.2}, 16)
    assert "model.n_latent" in write_sweep_table(tmp_path)


def test_a_setting_that_one_run_lacks_is_a_column(add: Add, tmp_path: Path) -> None:
    add("0", {"total": 0.1})
    add("1", {"total": 0.2}, logger={"project": "scalex"})
    assert list(write_sweep_table(tmp_path).columns) == ["logger.project", "total"]


def test_a_list_that_differs_is_a_column(add: Add, tmp_path: Path) -> None:
    add("0", {"total": 0.1}, path=["a.h5ad", "b.h5ad"])
    add("1", {"total": 0.2}, path=["a.h5ad"])
    assert list(write_sweep_table(tmp_path).columns) == ["path", "total"]


def test_a_single_run_has_only_its_scores(add: Add, tmp_path: Path) -> None:
    add("0", {"total": 0.1})
    assert list(write_sweep_table(tmp_path).columns) == ["total"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "sweep.csv"]


def test_a_run_that_finishes_while_the_table_is_written_has_a_row(add: Add, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add("0", {"total": 0.1}, 8)
    other = add("1", None, 16)
    to_csv = pd.DataFrame.to_csv

    def slow(self: pd.DataFrame, path: Path) -> None:
        to_csv(self, path)
        finish(other, {"total": 0.2})

    monkeypatch.setattr(pd.DataFrame, "to_csv", slow)
    write_sweep_table(tmp_path)
    assert list(pd.read_csv(tmp_path / "sweep.csv")["total"]) == [0.1, 0.2]


def test_without_scores_there_is_no_table(add: Add, tmp_path: Path) -> None:
    add("0", None, 8)
    assert write_sweep_table(tmp_path).empty
    assert [path.name for path in tmp_path.iterdir()] == ["0"]


def test_a_setting_that_only_some_runs_have_differs(add: Add, tmp_path: Path) -> None:
    add("0", {"total": 0.1}, None)
    add("1", {"total": 0.2}, 8)
    assert "model.n_latent" in write_sweep_table(tmp_path)
