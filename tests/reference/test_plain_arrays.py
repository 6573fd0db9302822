"""A reference as plain arrays, read by the lines of docs/sharing.md."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from anndata import AnnData
from numpy.typing import NDArray

from scalex import SCALEX, demo_cells
from scalex.projection.reference import Reference

Read = Callable[[NDArray[np.float32], Any, Path], NDArray[np.float64]]


@pytest.fixture(scope="module")
def read() -> Read:
    """Return the function of the page."""
    page = Path(__file__).parents[2] / "docs" / "sharing.md"
    block = re.search(r"^```python\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)
    assert block is not None
    assert set(re.findall(r"^(?:import|from) (\S+)", block[1], re.MULTILINE)) == {"numpy"}
    names: dict[str, Any] = {}
    exec(block[1], names)
    found: Read = names["embed"]
    return found


def compare(read: Read, reference: Reference, query: AnnData, path: Path) -> None:
    reference.to_numpy(path)
    expected = reference.embed(query, statistics="running")
    found = read(query.X.toarray(), query.var_names, path)
    assert expected.std() > 0
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * expected.std())


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"profile": "ATAC"},
        {"profile": "ATAC", "binarize": True, "normalization": "tfidf"},
        {"profile": "ADT"},
        {"processed": True},
    ],
    ids=str,
)
def test_the_page_reads_every_kind_of_preprocessing(read: Read, tmp_path: Path, options: dict[str, Any]) -> None:
    cells = demo_cells(120, 400, 2, seed=1)
    if options.get("processed"):
        cells.X = cells.X / cells.X.max()
    if options.get("profile") != "ADT":
        options |= {"n_top_features": 100}
    SCALEX(cells, min_features=0, max_iteration=30, ignore_umap=True, outdir=tmp_path / "run", show=False, verbose=False, **options)
    query = cells[::3].copy()
    query.obs["batch"] = "another"
    compare(read, Reference.load(tmp_path / "run"), query, tmp_path / "arrays.npz")


def test_features_that_cells_lack_are_replaced(trained: Any, read: Read, tmp_path: Path) -> None:
    reference = Reference.load(trained.folder)
    query = trained.query[:, np.random.default_rng(0).permutation(trained.query.n_vars)[:300]].copy()
    assert 0 < (~reference.trained_on.preprocessor.features.isin(query.var_names)).sum() < 150
    compare(read, reference, query, tmp_path / "arrays.npz")


def test_maxima_are_those_of_all_domains_for_a_new_one(trained: Any, read: Read, tmp_path: Path) -> None:
    reference = Reference.load(trained.folder)
    known = reference.trained_on
    assert (known.preprocessor.maximum[0] != known.preprocessor.maximum[1]).any()
    reference.module.trained_on = replace(known, preprocessor=replace(known.preprocessor, scaling="domain"))
    compare(read, reference, trained.query, tmp_path / "arrays.npz")


def test_cells_without_any_count_are_embedded(trained: Any, read: Read, tmp_path: Path) -> None:
    query = trained.query[:5].copy()
    query.X = query.X.multiply(np.array([[1], [1], [0], [1], [1]])).tocsr()
    compare(read, Reference.load(trained.folder), query, tmp_path / "arrays.npz")


def test_statistics_of_domains_are_not_used(trained_by_domain: Any, read: Read, tmp_path: Path) -> None:
    compare(read, Reference.load(trained_by_domain.folder), trained_by_domain.query, tmp_path / "arrays.npz")


def test_the_file_opens_without_pickle_and_is_not_overwritten(trained: Any, tmp_path: Path) -> None:
    reference = Reference.load(trained.folder)
    reference.to_numpy(tmp_path / "arrays.npz")
    with np.load(tmp_path / "arrays.npz", allow_pickle=False) as arrays:
        assert list(arrays["features"]) == list(reference.trained_on.preprocessor.features)
        assert arrays["hidden"].dtype == np.float32
    with pytest.raises(FileExistsError, match=r"arrays\.npz exists, and is not overwritten\. Choose another name"):
        reference.to_numpy(tmp_path / "arrays.npz")
    with pytest.raises(ValueError, match=r"arrays\.npy: arrays are written as \.npz\. Let the name of the file end so"):
        reference.to_numpy(tmp_path / "arrays.npy")


def test_a_model_of_another_kind_is_refused(trained: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scalex.reference import plain_arrays

    class AnotherModel:
        pass

    monkeypatch.setattr(plain_arrays, "ScalexModule", AnotherModel)
    with pytest.raises(ValueError, match=r"run holds a ScalexModule, and only the encoder of a ScalexModule is written as arrays\."):
        Reference.load(trained.folder).to_numpy(tmp_path / "arrays.npz")
    assert list(tmp_path.iterdir()) == []
