from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from lightning import Trainer

import scalex
from scalex.callbacks import Checkpoint, LatentExport
from scalex.cells import AnnDataSource, BackedCells
from scalex.model.module import ScalexModule
from scalex.preprocess import RnaRecipe
from scalex.system.process_id import ProcessId


def train(files: list[Path], folder: Path, cache: Path | None, source: dict[str, Any] | None = None, **recipe: Any) -> AnnData:
    trainer = Trainer(
        accelerator="cpu", max_steps=20, callbacks=[Checkpoint(folder), LatentExport(folder)], logger=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    options: dict[str, Any] = {"path": files, "batch_key": "batch", "source_key": "file"} | (source or {})
    cells = AnnDataSource(backed=True, cache=cache, **options)
    module = ScalexModule(n_latent=3, n_hidden=16, correct_at=[0.5])
    return scalex.fit(cells, RnaRecipe(**({"min_features": 250, "n_top_features": 80} | recipe)), module, trainer, chunk_size=70)


@pytest.fixture
def files(demo: AnnData, tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "a.h5ad", tmp_path / "b.h5ad"]
    for path, half in zip(paths, (demo[:130], demo[130:]), strict=True):
        half.copy().write_h5ad(path)
    return paths


@pytest.fixture
def n_rows_read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the numbers of rows that the reads of the sources have returned so far."""
    rows: list[int] = []
    read = BackedCells.read

    def count(self: BackedCells, wanted: Any) -> Any:
        found = read(self, wanted)
        rows.append(found.shape[0])
        return found

    monkeypatch.setattr(BackedCells, "read", count)
    return rows


def test_later_runs_read_the_cache_and_give_the_results_without_one(
    files: list[Path], tmp_path: Path, n_rows_read: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    expected = train(files, tmp_path / "plain", None)
    caplog.set_level(logging.INFO)
    first = train(files, tmp_path / "first", tmp_path / "cache")
    assert "Writes the inputs of" in caplog.text
    (path,) = (tmp_path / "cache").iterdir()
    written = path.stat().st_mtime_ns
    caplog.clear()
    n_rows_read.clear()
    second = train(files, tmp_path / "second", tmp_path / "cache")
    assert "Writes the inputs of" not in caplog.text
    assert path.stat().st_mtime_ns == written
    # Only a look at some cells reads the sources.
    assert sum(n_rows_read) <= 300
    for found in (first, second):
        np.testing.assert_array_equal(found.obsm["latent"], expected.obsm["latent"])
        assert list(found.obs_names) == list(expected.obs_names)


def test_the_cache_is_an_anndata(files: list[Path], tmp_path: Path) -> None:
    adata = train(files, tmp_path / "run", tmp_path / "cache")
    (path,) = (tmp_path / "cache").iterdir()
    cached = ad.read_h5ad(path)
    assert cached.shape == adata.shape
    assert list(cached.var_names) == list(adata.var_names)
    assert list(cached.obs["domain"]) == list(adata.obs["domain"])
    assert cached.X.min() >= 0
    assert cached.X.max() == 1


@pytest.mark.parametrize("change", ["source", "recipe", "features file"])
def test_other_cells_or_options_have_another_cache(files: list[Path], tmp_path: Path, change: str) -> None:
    cache, recipe = tmp_path / "cache", {}
    names = list(ad.read_h5ad(files[0]).var_names)
    if change == "features file":
        recipe["n_top_features"] = str(tmp_path / "names.txt")
        (tmp_path / "names.txt").write_text("\n".join(names[:80]))
    train(files, tmp_path / "one", cache, **recipe)
    if change == "source":
        os.utime(files[0], (1, 1))
    elif change == "recipe":
        recipe["target_sum"] = 500.0
    else:
        (tmp_path / "names.txt").write_text("\n".join(names[5:80]))
    train(files, tmp_path / "other", cache, **recipe)
    assert len(list(cache.iterdir())) == 2


@pytest.mark.parametrize(("selection", "n_files"), [({}, 1), ({"n_obs": 200}, 2)])
def test_the_seed_matters_if_it_chooses_the_cells(files: list[Path], tmp_path: Path, selection: dict[str, int], n_files: int) -> None:
    for seed in (1, 2):
        train(files, tmp_path / str(seed), tmp_path / "cache", selection | {"seed": seed})
    assert len(list((tmp_path / "cache").iterdir())) == n_files


@pytest.mark.parametrize("damage", ["cut", "empty", "without preprocessing"])
def test_a_damaged_cache_is_written_again(files: list[Path], tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    expected = train(files, tmp_path / "one", tmp_path / "cache")
    (path,) = (tmp_path / "cache").iterdir()
    whole = path.read_bytes()
    # The first run may still have the file open.
    path.unlink()
    if damage == "without preprocessing":
        ad.AnnData(np.zeros((3, 2), np.float32)).write_h5ad(path)
    else:
        path.write_bytes(whole[: len(whole) // 2] if damage == "cut" else b"")
    found = train(files, tmp_path / "other", tmp_path / "cache")
    assert "cannot be read" in caplog.text
    np.testing.assert_array_equal(found.obsm["latent"], expected.obsm["latent"])


def test_a_full_disk_leaves_no_cache(files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("scalex.training.input_cache.BlockWriter.finish", fail)
    with pytest.raises(OSError, match=r"The disk has no space left for .*inputs-"):
        train(files, tmp_path / "run", tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []
    shutil.rmtree(tmp_path / "cache")


def test_files_of_killed_runs_are_removed_from_a_complete_cache(files: list[Path], tmp_path: Path) -> None:
    train(files, tmp_path / "one", tmp_path / "cache")
    killed = subprocess.Popen([sys.executable, "-c", ""])
    killed.wait()
    (tmp_path / "cache" / f".unfinished-{killed.pid}@{ProcessId.own().host}@inputs-1.h5ad").write_text("half")
    train(files, tmp_path / "other", tmp_path / "cache")
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_cache_needs_cells_in_files(files: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cache is for cells that stay in their files: set backed=true"):
        AnnDataSource(path=files, cache=tmp_path)


@pytest.mark.parametrize("kind", [pd.Index, np.array, list])
def test_long_lists_that_differ_in_one_name_have_different_keys(kind: Any) -> None:
    names = [f"gene{i}" for i in range(2000)]
    other = [*names[:1000], "another", *names[1001:]]
    keys = {RnaRecipe(n_top_features=kind(given)).identity() for given in (names, other)}
    assert len(keys) == 2


def test_the_same_names_in_another_type_have_the_same_key(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("a\nb\n")
    given: list[Any] = [["a", "b"], ("a", "b"), np.array(["a", "b"]), pd.Index(["a", "b"]), str(tmp_path / "names.txt")]
    assert len({RnaRecipe(n_top_features=names).identity() for names in given}) == 1
    assert len({RnaRecipe(n_top_features=number).identity() for number in (50, np.int64(50), np.int32(50))}) == 1
    assert RnaRecipe(target_sum=np.float32(500)).identity() == RnaRecipe(target_sum=500.0).identity()


def test_other_names_of_sources_have_another_key(files: list[Path]) -> None:
    def find_key(names: Any) -> str:
        cells = AnnDataSource(path=files, backed=True, batch_categories=names).open()
        assert isinstance(cells, BackedCells)
        return cells.identity

    assert find_key(["a", "b"]) == find_key(np.array(["a", "b"])) != find_key(["a", "c"])
