from __future__ import annotations

import logging
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from scalex import AnnDataSource
from scalex.genes import make_pseudobulk

N_CELLS = 500


@pytest.fixture
def adata() -> AnnData:
    rng = np.random.default_rng(0)
    donor = rng.choice(["d1", "d2", "d3"], N_CELLS)
    obs = pd.DataFrame(
        {
            "type": pd.Categorical(rng.choice(["T", "B", "rare"], N_CELLS, p=[0.6, 0.38, 0.02])),
            "donor": donor,
            "stim": pd.Categorical(rng.choice(["no", "yes"], N_CELLS)),
            "technology": pd.Series(donor).map({"d1": "v2", "d2": "v3", "d3": "v3"}).to_numpy(),
            "n_umi": rng.integers(1000, size=N_CELLS),
        },
        index=[f"cell{i}" for i in range(N_CELLS)],
    )
    counts = sparse.csr_matrix(rng.poisson(0.4, (N_CELLS, 20)).astype(np.float32))
    return AnnData(counts, obs=obs, var=pd.DataFrame({"id": range(20)}, index=[f"g{i}" for i in range(20)]))


def sum_by_loop(adata: AnnData, columns: list[str]) -> dict[tuple[str, ...], np.ndarray]:
    sums: dict[tuple[str, ...], np.ndarray] = {}
    values = adata.X.toarray()
    for i, names in enumerate(adata.obs[columns].astype(str).itertuples(index=False)):
        sums[tuple(names)] = sums.get(tuple(names), 0) + values[i]
    return sums


@pytest.mark.parametrize("condition", [None, "stim"])
@pytest.mark.parametrize("chunk_size", [4096, 7])
@pytest.mark.parametrize("backed", [False, True])
def test_sums_are_those_of_a_loop(
    adata: AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, condition: str | None, chunk_size: int, backed: bool
) -> None:
    monkeypatch.setattr("scalex.genes.pseudobulk.CHUNK_SIZE", chunk_size)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    source = AnnDataSource(path=tmp_path / "cells.h5ad", backed=backed)
    found = make_pseudobulk(source, label="type", sample="donor", condition=condition, min_cells=1)
    columns = ["type", "donor", *([condition] if condition else [])]
    expected = sum_by_loop(adata, columns)
    sizes = adata.obs.astype(str).value_counts(columns)
    assert found.n_obs == len(expected)
    assert found.X.dtype == np.int64
    for i, names in enumerate(found.obs[columns].astype(str).itertuples(index=False)):
        np.testing.assert_array_equal(found.X[i], expected[tuple(names)])
        row = found.obs.iloc[i]
        assert row.name == "_".join(names)
        assert row["psbulk_cells"] == sizes[tuple(names)]
        assert row["psbulk_counts"] == expected[tuple(names)].sum()
        chosen = np.logical_and.reduce([adata.obs[column].astype(str) == name for column, name in zip(columns, names, strict=True)])
        np.testing.assert_allclose(found.layers["psbulk_props"][i], (adata.X[chosen].toarray() > 0).mean(0), rtol=1e-6)


def test_small_groups_are_dropped_and_listed(adata: AnnData, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="scalex"):
        found = make_pseudobulk(AnnDataSource(path=adata), label="type", sample="donor", min_cells=10)
    sizes = adata.obs.groupby(["type", "donor"], observed=True).size()
    few = sizes[sizes < 10]
    assert 0 < len(few) < len(sizes)
    dropped = found.uns["dropped_groups"]
    assert dict(zip(zip(dropped["type"], dropped["donor"], strict=True), dropped["psbulk_cells"], strict=True)) == few.to_dict()
    assert found.n_obs == len(sizes) - len(few)
    assert set(found.obs["psbulk_cells"]) == set(sizes[sizes >= 10])
    (name, n), *_ = few.items()
    assert f"Groups of fewer than 10 cells are dropped (min_cells): {name[0]}_{name[1]} ({n})" in caplog.text


def test_columns_with_one_value_in_each_group_are_kept(adata: AnnData) -> None:
    found = make_pseudobulk(AnnDataSource(path=adata), label="type", sample="donor")
    assert "technology" in found.obs
    assert "n_umi" not in found.obs
    assert "stim" not in found.obs
    assert (found.obs["technology"] == found.obs["donor"].map({"d1": "v2", "d2": "v3", "d3": "v3"})).all()


def test_cells_without_a_value_are_left_out(adata: AnnData, caplog: pytest.LogCaptureFixture) -> None:
    adata.obs["type"] = adata.obs["type"].where(np.arange(N_CELLS) >= 100)
    with caplog.at_level(logging.INFO, logger="scalex"):
        found = make_pseudobulk(AnnDataSource(path=adata), label="type", sample="donor", min_cells=1)
    np.testing.assert_array_equal(found.X.sum(0), np.asarray(adata.X[100:].sum(0)).ravel())
    assert "100 cells without a value in one of the columns are left out" in caplog.text


def test_annotation_of_a_result_is_matched_by_name(adata: AnnData) -> None:
    # A result has other columns, fewer cells, and may have another order.
    obs = pd.DataFrame({"leiden": pd.Categorical(np.arange(300) % 3), "donor": adata.obs["donor"].to_numpy()[100:400]})
    obs.index = adata.obs_names[100:400]
    shuffled = obs.sample(frac=1, random_state=0)
    found = make_pseudobulk(AnnDataSource(path=adata), label="leiden", sample="donor", obs=shuffled)
    kept = adata[obs.index].copy()
    kept.obs = obs
    expected = make_pseudobulk(AnnDataSource(path=kept), label="leiden", sample="donor")
    np.testing.assert_array_equal(found.X, expected.X)
    pd.testing.assert_frame_equal(found.obs, expected.obs)


def test_the_result_can_be_written_and_read(adata: AnnData, tmp_path: Path) -> None:
    found = make_pseudobulk(AnnDataSource(path=adata), label="type", sample="donor", condition="stim")
    found.write_h5ad(tmp_path / "sums.h5ad")
    read = ad.read_h5ad(tmp_path / "sums.h5ad")
    np.testing.assert_array_equal(read.X, found.X)
    assert list(read.uns["dropped_groups"]["psbulk_cells"]) == list(found.uns["dropped_groups"]["psbulk_cells"])


@pytest.mark.parametrize("value", [0.5, -1.0, np.nan])
def test_values_that_are_no_counts_are_an_error(adata: AnnData, value: float) -> None:
    adata.layers["counts"] = adata.X.copy()
    adata.X.data[-1] = value
    with pytest.raises(ValueError, match=r"Pseudobulk needs counts, and X \(whole numbers are in counts\) holds other values, such as"):
        make_pseudobulk(AnnDataSource(path=adata), label="type", sample="donor")
    assert make_pseudobulk(AnnDataSource(path=adata, layer="counts"), label="type", sample="donor").n_obs > 0


def test_processed_data_without_counts_says_where_it_looked(adata: AnnData) -> None:
    adata.X = adata.X * np.float32(0.37)
    with pytest.raises(ValueError, match=r"needs counts, and X holds other values, such as 0.37. Name the matrix"):
        make_pseudobulk(AnnDataSource(path=adata), label="type", sample="donor")


@pytest.mark.parametrize("option", ["label", "sample", "condition"])
def test_an_unknown_column_is_an_error(adata: AnnData, option: str) -> None:
    options = {"label": "type", "sample": "donor", "condition": "stim"} | {option: "group"}
    with pytest.raises(KeyError, match=rf"{option}='group' is not in obs. Columns: type, donor, stim, technology, n_umi"):
        make_pseudobulk(AnnDataSource(path=adata), **options)


def test_too_few_cells_everywhere_are_an_error(adata: AnnData) -> None:
    with pytest.raises(ValueError, match=r"No group has 500 cells or more \(min_cells\); the largest has \d+"):
        make_pseudobulk(AnnDataSource(path=adata), label="type", sample="donor", min_cells=500)


def test_columns_without_a_common_value_are_an_error(adata: AnnData) -> None:
    adata.obs["type"] = None
    with pytest.raises(ValueError, match=r"No cell has a value in each of the columns type, donor"):
        make_pseudobulk(AnnDataSource(path=adata), label="type", sample="donor")


def test_cells_may_be_an_object_or_a_file(adata: AnnData, tmp_path: Path) -> None:
    adata.write_h5ad(tmp_path / "cells.h5ad")
    expected = make_pseudobulk(AnnDataSource(path=adata), label="type", sample="donor")
    for cells in (adata, tmp_path / "cells.h5ad", str(tmp_path / "cells.h5ad")):
        np.testing.assert_array_equal(make_pseudobulk(cells, label="type", sample="donor").X, expected.X)


def test_each_sum_has_its_own_name(adata: AnnData) -> None:
    adata.obs["one"] = np.where(adata.obs["stim"] == "no", "a_b", "a")
    adata.obs["other"] = np.where(adata.obs["stim"] == "no", "c", "b_c")
    assert set(make_pseudobulk(adata, label="one", sample="other").obs_names) == {"a_b_c", "a_b_c-1"}


def test_annotation_that_names_a_cell_twice_is_an_error(adata: AnnData) -> None:
    with pytest.raises(ValueError, match=r"obs has several rows for the same cell, such as 'cell0': keep one of them"):
        make_pseudobulk(adata, obs=pd.concat([adata.obs, adata.obs[:1]]), label="type", sample="donor")


def test_names_of_other_cells_are_an_error(adata: AnnData) -> None:
    other = adata.obs.set_axis([f"other{i}" for i in range(N_CELLS)])
    with pytest.raises(ValueError, match=r"obs names none of the cells of the source: 'other0' is not among 'cell0'"):
        make_pseudobulk(AnnDataSource(path=adata), label="type", sample="donor", obs=other)
