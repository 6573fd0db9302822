from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from mudata import MuData
from scipy import sparse
from tables import assert_same_table

from scalex.cells import AnnDataSource, InMemoryCells
from scalex.cells.h5ad_cells import open_h5ad
from scalex.cells.stores import STORES

SHIFTED = slice(100, 500)


@pytest.fixture
def left(demo: AnnData) -> AnnData:
    """Cells of one domain, without the last 100 features."""
    return demo[demo.obs["batch"] == "domain0", :400].copy()


@pytest.fixture
def right(demo: AnnData) -> AnnData:
    """Cells of another domain, without the first 100 features."""
    return demo[demo.obs["batch"] == "domain1", SHIFTED].copy()


def make_mudata(adata: AnnData) -> MuData:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return MuData({"rna": adata})


def open_cells(path: Any, **options: Any) -> InMemoryCells:
    return AnnDataSource(path=path, **options).open()


def to_frame(cells: InMemoryCells) -> pd.DataFrame:
    return pd.DataFrame(cells.read(slice(None)).toarray(), index=cells.obs.index, columns=cells.var.index)


def test_an_anndata_is_read_unchanged(demo: AnnData) -> None:
    cells = open_cells(demo, batch_key="batch")
    assert_same_table(to_frame(cells), demo.to_df(), check_names=False)
    assert_same_table(cells.obs, demo.obs)
    assert_same_table(cells.var, demo.var)
    assert list(cells.domain) == list(demo.obs["batch"])
    assert list(cells.label) == list(demo.obs["cell_type"])


def test_a_file_is_read_as_its_anndata(demo: AnnData, tmp_path: Path) -> None:
    demo.write_h5ad(tmp_path / "cells.h5ad")
    for path in (tmp_path / "cells.h5ad", str(tmp_path / "cells.h5ad"), [tmp_path / "cells.h5ad"]):
        cells = open_cells(path, batch_key="batch")
        assert_same_table(to_frame(cells), demo.to_df(), check_names=False)
        assert list(cells.domain) == list(demo.obs["batch"])


def test_a_dict_names_its_sources(left: AnnData, right: AnnData) -> None:
    cells = open_cells({"first": left, "second": right})
    assert list(cells.domain.categories) == ["first", "second"]
    assert_same_table(cells.obs, open_cells([left, right], batch_categories=["first", "second"]).obs)
    with pytest.raises(ValueError, match="path is a dict, whose keys name the sources, and batch_categories names them, too"):
        AnnDataSource(path={"first": left}, batch_categories=["a"])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda adata: adata.to_df(), r"cannot be read from DataFrame\. Give anndata\.AnnData\(\.\.\.\) of it"),
        (lambda adata: adata.X.toarray(), r"cannot be read from ndarray\. Give anndata"),
        (lambda adata: adata.X, r"cannot be read from csr_matrix\. Give anndata"),
        (make_mudata, r"from MuData\. Give one of its modalities, as in data\['rna'\]\. It has: rna"),
        (lambda adata: 3, r"from int\. Give an AnnData, a path, or a list of them"),
        (lambda adata: [adata, None], r"from null\. Give an AnnData"),
    ],
)
def test_other_objects_are_refused_before_anything_is_read(demo: AnnData, given: Callable[[AnnData], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AnnDataSource(path=given(demo))


@pytest.mark.parametrize("backed", [False, True])
def test_raw_is_a_layer_with_its_own_features(demo: AnnData, tmp_path: Path, backed: bool) -> None:
    counts = demo.copy()
    counts.var["own"] = range(counts.n_vars)
    demo = demo[:, ::2].copy()
    demo.raw = counts
    demo.X = sparse.csr_matrix(np.log1p(demo.X.toarray()))
    demo.write_h5ad(tmp_path / "cells.h5ad")
    for path in (demo, tmp_path / "cells.h5ad", ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")):
        cells = AnnDataSource(path=path, layer="raw", batch_key="batch", backed=backed).open()
        assert cells.in_memory == (path is demo or (isinstance(path, Path) and not backed))
        np.testing.assert_array_equal(cells.read(slice(0, 50)).toarray(), counts.X[:50].toarray())
        assert_same_table(cells.var, counts.var)


def test_the_layers_that_hold_counts_are_found(demo: AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    demo.raw = demo
    demo.layers["counts"] = demo.X.copy()
    demo.X = demo.layers["half"] = demo.X / 2
    demo.write_h5ad(tmp_path / "cells.h5ad")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        demo.write_zarr(tmp_path / "cells.zarr")
    for path in (demo, tmp_path / "cells.h5ad", [tmp_path / "cells.zarr"]):
        assert AnnDataSource(path=path).find_counts() == ["raw", "counts"]
    demo.to_df().T.to_csv(tmp_path / "cells.csv")
    assert AnnDataSource(path=tmp_path / "cells.csv").find_counts() == []
    # A store of a user need not hold an AnnData.
    monkeypatch.setitem(STORES, ".own", open_h5ad)
    (tmp_path / "cells.own").write_text("own")
    assert AnnDataSource(path=tmp_path / "cells.own").find_counts() == []


def test_the_names_of_a_table_in_obsm_are_kept(demo: AnnData) -> None:
    demo.obsm["protein"] = pd.DataFrame({"CD3": 1.0, "CD19": 2.0}, index=demo.obs_names)
    assert list(open_cells(demo, layer="protein").var.index) == ["CD3", "CD19"]


def test_annotation_is_converted_to_what_can_be_written(demo: AnnData) -> None:
    demo.obs["n/m"] = demo.obs["batch"].astype("string")
    demo.obs["age"] = [1, "35-40"] * (demo.n_obs // 2)
    demo.var["found"] = pd.Timestamp("2024")
    cells = open_cells(demo, batch_key="n/m", label_key="n/m")
    assert list(cells.domain) == list(cells.label) == list(cells.obs["n|m"]) == list(demo.obs["batch"])
    assert set(cells.obs["age"]) == {"1", "35-40"}
    assert set(cells.var["found"]) == {"2024-01-01 00:00:00"}


def test_two_columns_of_the_same_name_are_no_domains(demo: AnnData) -> None:
    demo.obs = pd.concat([demo.obs, pd.DataFrame({"batch": range(demo.n_obs)}, index=demo.obs_names)], axis=1)
    for batch_key in (None, "batch"):
        with pytest.raises(ValueError, match="obs has several columns named 'batch', with different values: rename"):
            open_cells(demo, batch_key=batch_key)


@pytest.mark.parametrize("kind", [np.asarray, sparse.csc_matrix, sparse.csr_array, lambda x: sparse.csr_matrix(x, dtype=np.int64)])
def test_any_kind_of_matrix_becomes_csr_float32(demo: AnnData, kind: Callable[[Any], Any]) -> None:
    values = demo.X.toarray()
    cells = open_cells(AnnData(kind(values), obs=demo.obs, var=demo.var))
    assert isinstance(cells.matrix, sparse.csr_matrix)
    assert cells.matrix.dtype == np.float32
    np.testing.assert_array_equal(cells.matrix.toarray(), values)


def test_values_stored_twice_are_added_and_the_input_is_not_changed() -> None:
    matrix = sparse.csr_matrix((np.array([1, 2, 4], np.float32), np.array([1, 1, 0]), np.array([0, 3])), shape=(1, 3))
    adata = AnnData(matrix)
    cells = open_cells(adata)
    assert cells.matrix.nnz == 2
    np.testing.assert_array_equal(cells.matrix.toarray(), [[4, 3, 0]])
    assert adata.X.nnz == 3


def test_opening_does_not_change_the_anndata(left: AnnData, right: AnnData) -> None:
    before = left.copy()
    open_cells([left, right], join="outer")
    assert_same_table(left.obs, before.obs)
    assert_same_table(left.to_df(), before.to_df())


def test_rows_are_read_by_slice_and_by_index(demo_in_memory: InMemoryCells) -> None:
    values = demo_in_memory.matrix.toarray()
    np.testing.assert_array_equal(demo_in_memory.read(slice(5, 9)).toarray(), values[5:9])
    np.testing.assert_array_equal(demo_in_memory.read(np.array([7, 2, 7])).toarray(), values[[7, 2, 7]])


@pytest.mark.parametrize("join", ["inner", "outer"])
def test_joined_values_equal_anndata_concat(left: AnnData, right: AnnData, join: Any) -> None:
    expected = ad.concat([left, right], join=join, fill_value=0).to_df()
    cells = open_cells([left, right], join=join)
    assert_same_table(to_frame(cells)[expected.columns], expected, check_names=False)
    assert len(cells.var) == {"inner": 300, "outer": 500}[join]
    assert list(cells.obs["cell_type"]) == [*left.obs["cell_type"], *right.obs["cell_type"]]


def test_joined_features_count_their_sources_and_keep_their_annotation(left: AnnData, right: AnnData) -> None:
    left.var["symbol"], right.var["symbol"] = "L-" + left.var_names, "R-" + right.var_names
    right.var["length"] = np.arange(400)
    cells = open_cells([left, right], join="outer")
    assert cells.var.loc["gene0", "n_sources"] == cells.var.loc["gene499", "n_sources"] == 1
    assert cells.var.loc["gene250", "n_sources"] == 2
    assert cells.var.loc["gene499", "length"] == 399
    assert cells.var.loc["gene0", "symbol"] == "L-gene0"
    assert cells.var.loc["gene499", "symbol"] == "R-gene499"


def test_columns_absent_from_a_source_have_missing_values(left: AnnData, right: AnnData) -> None:
    right.obs["donor"] = pd.Categorical(["d1"] * right.n_obs)
    del left.obs["path"]
    cells = open_cells([left, right])
    assert cells.obs["donor"].isna().sum() == left.n_obs
    assert isinstance(cells.obs["donor"].dtype, pd.CategoricalDtype)
    np.testing.assert_array_equal(cells.obs["path"].iloc[left.n_obs :], right.obs["path"])


@pytest.mark.parametrize("join", ["inner", "outer"])
@pytest.mark.parametrize(("left_value", "right_value"), [(True, None), (3, None), ("a", None), (1.5, True), (np.nan, "a")])
def test_joined_annotation_can_be_written(
    left: AnnData, right: AnnData, tmp_path: Path, join: Any, left_value: Any, right_value: Any
) -> None:
    for adata, value in ((left, left_value), (right, right_value)):
        if value is not None:
            adata.obs["extra"] = value
            adata.var["extra"] = value
    cells = open_cells([left, right], join=join)
    AnnData(cells.matrix, obs=cells.obs, var=cells.var).write_h5ad(tmp_path / "joined.h5ad")
    assert "extra" in ad.read_h5ad(tmp_path / "joined.h5ad").obs


def test_several_files_are_domains_with_the_names_of_the_files(left: AnnData, right: AnnData, tmp_path: Path) -> None:
    left.write_h5ad(tmp_path / "ctrl.h5ad")
    right.write_h5ad(tmp_path / "stim.v2.h5ad")
    cells = open_cells([tmp_path / "ctrl.h5ad", tmp_path / "stim.v2.h5ad"], source_key="file")
    assert list(cells.domain) == ["ctrl"] * left.n_obs + ["stim.v2"] * right.n_obs
    assert list(cells.obs["file"]) == list(cells.domain)
    assert list(cells.obs["batch"]) == [*left.obs["batch"], *right.obs["batch"]]


def test_files_with_the_same_name_are_different_domains(left: AnnData, right: AnnData, tmp_path: Path) -> None:
    for name, adata in (("a", left), ("b", right)):
        (tmp_path / name).mkdir()
        adata.write_h5ad(tmp_path / name / "cells.h5ad")
    assert set(open_cells([tmp_path / "a" / "cells.h5ad", tmp_path / "b" / "cells.h5ad"]).domain) == {"a", "b"}


def test_several_anndata_are_numbered(left: AnnData, right: AnnData) -> None:
    assert list(open_cells([left, right]).domain) == ["0"] * left.n_obs + ["1"] * right.n_obs


def test_batch_categories_name_the_domains_of_several_sources(left: AnnData, right: AnnData) -> None:
    cells = open_cells([left, right], batch_categories=["ctrl", "stim"])
    assert list(cells.domain) == ["ctrl"] * left.n_obs + ["stim"] * right.n_obs


def test_replacing_a_column_by_the_source_causes_a_warning(left: AnnData, right: AnnData, caplog: pytest.LogCaptureFixture) -> None:
    cells = open_cells([left, right], batch_categories=["ctrl", "stim"])
    assert list(cells.obs["batch"].unique()) == ["ctrl", "stim"]
    assert "The name of the source replaces obs['batch'] of the sources. To keep that column, set source_key." in caplog.text


def test_another_column_can_be_the_domain_of_several_sources(left: AnnData, right: AnnData) -> None:
    cells = open_cells([left, right], batch_key="cell_type", source_key="file")
    assert list(cells.domain) == [*left.obs["cell_type"], *right.obs["cell_type"]]


def test_several_columns_form_the_domain(demo: AnnData) -> None:
    demo.obs["lane"] = np.arange(300) % 2
    cells = open_cells(demo, batch_key="batch, lane")
    assert list(cells.domain) == [f"{b}_{i % 2}" for i, b in enumerate(demo.obs["batch"])]


def test_a_single_source_uses_its_column_batch(demo: AnnData, caplog: pytest.LogCaptureFixture) -> None:
    assert list(open_cells(demo).domain) == list(demo.obs["batch"])
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_single_source_without_a_column_is_one_domain(demo: AnnData, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    del demo.obs["batch"]
    assert set(open_cells(demo).domain) == {"all"}
    assert "No batch_key given and no column 'batch' in obs: all cells form one domain, all. Columns: cell_type, path." in caplog.text


def test_a_single_source_without_a_column_is_the_domain_of_its_name(demo: AnnData, tmp_path: Path) -> None:
    del demo.obs["batch"]
    (tmp_path / "S7" / "outs").mkdir(parents=True)
    for name in ("patient.h5ad", "S7/outs/adata.h5ad"):
        demo.write_h5ad(tmp_path / name)
    assert set(open_cells(tmp_path / "patient.h5ad").domain) == {"patient"}
    assert set(open_cells(tmp_path / "S7" / "outs" / "adata.h5ad").domain) == {"S7"}
    with pytest.raises(KeyError, match=r"layer='spliced' is not in adata\."):
        open_cells(tmp_path / "S7" / "outs" / "adata.h5ad", layer="spliced")
    assert set(open_cells({"mine": demo}).domain) == {"mine"}
    assert set(open_cells(demo, batch_categories=["mine"]).domain) == {"mine"}


def test_categories_without_cells_are_not_domains(demo: AnnData) -> None:
    demo = demo[demo.obs["batch"] != "domain1"].copy()
    demo.obs["batch"] = demo.obs["batch"].cat.set_categories(["domain0", "domain1", "domain2"])
    assert list(open_cells(demo).domain.categories) == ["domain0", "domain2"]


def test_one_cell_can_be_read(demo: AnnData) -> None:
    cells = open_cells(demo[:1].copy())
    assert cells.matrix.shape == (1, 500)
    assert list(cells.domain) == ["domain0"]


def test_no_cell_is_an_error(demo: AnnData) -> None:
    with pytest.raises(ValueError, match=r"(?i)no cell"):
        open_cells(demo[:0].copy())


def test_layer_is_the_matrix(demo: AnnData) -> None:
    demo.layers["doubled"] = demo.X * 2
    np.testing.assert_array_equal(open_cells(demo, layer="doubled").matrix.toarray(), 2 * demo.X.toarray())


@pytest.mark.parametrize("kind", [np.asarray, sparse.csr_matrix, pd.DataFrame])
def test_obsm_is_the_matrix(demo: AnnData, kind: Callable[[Any], Any]) -> None:
    values = np.random.default_rng(0).random((300, 4)).astype(np.float32)
    table = kind(values)
    if isinstance(table, pd.DataFrame):
        table = table.set_axis(demo.obs_names).rename(columns=str)
    demo.obsm["protein"] = table
    cells = open_cells(demo, layer="protein")
    np.testing.assert_array_equal(cells.matrix.toarray(), values)
    assert len(cells.var) == 4
    assert cells.var.index.is_unique


def test_obsm_of_several_sources_is_joined_by_position(left: AnnData, right: AnnData) -> None:
    left.obsm["protein"], right.obsm["protein"] = np.full((left.n_obs, 2), 1.0), np.full((right.n_obs, 2), 3.0)
    cells = open_cells([left, right], layer="protein")
    np.testing.assert_array_equal(cells.matrix.toarray()[:, 0], [1] * left.n_obs + [3] * right.n_obs)


def test_an_unknown_layer_lists_the_layers(demo: AnnData) -> None:
    demo.layers["counts"] = demo.X
    demo.obsm["X_pca"] = np.zeros((300, 2))
    with pytest.raises(KeyError, match=r"layer='spliced' is not in AnnData\. Layers: counts; obsm: X_pca; or X\."):
        open_cells(demo, layer="spliced")


def test_empty_x_names_the_layers(demo: AnnData) -> None:
    adata = AnnData(None, obs=demo.obs, var=demo.var, layers={"counts": demo.X})
    with pytest.raises(ValueError, match=r"AnnData: X is empty\. Layers: counts; choose one with layer="):
        open_cells(adata)
    assert open_cells(adata, layer="counts").matrix.nnz == demo.X.nnz


@pytest.mark.parametrize(("options", "n"), [({"fraction": 0.25}, 75), ({"n_obs": 40}, 40), ({"n_obs": 1}, 1), ({"fraction": 1e-6}, 1)])
def test_a_sample_is_counted_seeded_and_consistent(demo: AnnData, options: dict[str, Any], n: int) -> None:
    cells, again, other = (open_cells(demo, **options, seed=seed) for seed in (1, 1, 2))
    assert cells.matrix.shape == (n, 500)
    assert cells.obs.index.is_unique
    assert list(cells.obs.index) == list(again.obs.index)
    assert n == 1 or list(cells.obs.index) != list(other.obs.index)
    assert_same_table(to_frame(cells), demo[cells.obs.index].to_df(), check_names=False)
    assert list(cells.domain) == list(demo.obs.loc[cells.obs.index, "batch"])
    assert list(cells.label) == list(demo.obs.loc[cells.obs.index, "cell_type"])


@pytest.mark.parametrize("options", [{"fraction": 1.0}, {"n_obs": 300}, {"n_obs": 1000}])
def test_a_sample_of_all_cells_keeps_their_order(demo: AnnData, options: dict[str, Any]) -> None:
    assert list(open_cells(demo, **options).obs.index) == list(demo.obs_names)


@pytest.mark.parametrize("column", [["a", None, "b"], pd.Categorical(["a", None, "b"]), ["a", np.nan, "b"]])
def test_cells_without_a_label_have_a_missing_label(column: Any) -> None:
    adata = AnnData(np.ones((3, 2), np.float32), obs=pd.DataFrame({"cell_type": column}, index=list("xyz")))
    cells = open_cells(adata)
    assert list(cells.label.isna()) == [False, True, False]
    assert list(cells.label.categories) == ["a", "b"]


@pytest.mark.parametrize("column", [None, [None, None]])
def test_without_labels_label_is_none(column: Any) -> None:
    adata = AnnData(np.ones((2, 2), np.float32), obs=pd.DataFrame(index=["x", "y"]))
    if column:
        adata.obs["cell_type"] = column
    assert open_cells(adata).label is None


def test_label_key_names_the_column_of_labels(demo: AnnData) -> None:
    demo.obs["kind"] = np.arange(300) % 2
    assert list(open_cells(demo, label_key="kind").label) == [str(i % 2) for i in range(300)]


@pytest.mark.filterwarnings("ignore:.* names are not unique:UserWarning")
def test_repeated_cell_and_feature_names_are_numbered(demo: AnnData, caplog: pytest.LogCaptureFixture) -> None:
    demo.obs_names = ["x", "x", "y", "x", *demo.obs_names[4:]]
    demo.var_names = ["g", "h", "h", *demo.var_names[3:]]
    cells = open_cells(demo)
    assert list(cells.obs.index[:4]) == ["x", "x-1", "y", "x-2"]
    assert list(cells.var.index[:3]) == ["g", "h", "h-1"]
    assert "AnnData: 1 cell names are not unique (x); repeats get the suffixes -1, -2, ..." in caplog.text
    assert "AnnData: 1 feature names are not unique (h); repeats get the suffixes -1, -2, ..." in caplog.text
    np.testing.assert_array_equal(cells.matrix.toarray(), demo.X.toarray())
    assert not demo.obs_names.is_unique


@pytest.mark.filterwarnings("ignore:.* names are not unique:UserWarning")
@pytest.mark.filterwarnings("ignore:Suffix used:UserWarning")
def test_numbering_avoids_existing_names() -> None:
    adata = AnnData(np.eye(4, dtype=np.float32), obs=pd.DataFrame(index=["x", "x", "x-1", "x"]))
    cells = open_cells(adata)
    assert cells.obs.index.is_unique
    assert cells.obs.index[2] == "x-1"


def test_names_that_two_sources_share_get_the_name_of_the_source(left: AnnData, right: AnnData) -> None:
    right.obs_names = [left.obs_names[0], *right.obs_names[1:]]
    cells = open_cells([left, right], batch_categories=["ctrl", "stim"])
    assert list(cells.obs.index) == [f"{name}-ctrl" for name in left.obs_names] + [f"{name}-stim" for name in right.obs_names]
    np.testing.assert_array_equal(cells.matrix.toarray(), ad.concat({"ctrl": left, "stim": right}, index_unique="-").X.toarray())


def test_names_that_differ_between_sources_stay(left: AnnData, right: AnnData) -> None:
    assert list(open_cells([left, right]).obs.index) == [*left.obs_names, *right.obs_names]


def test_an_unknown_batch_key_lists_the_columns(demo: AnnData) -> None:
    with pytest.raises(KeyError, match=r"batch_key='sample' is not in obs\. Columns: batch, cell_type, path\."):
        open_cells(demo, batch_key="sample")
    with pytest.raises(KeyError, match="batch_key='lane' is not in obs"):
        open_cells(demo, batch_key="batch,lane")


def test_cells_without_a_domain_are_counted_and_named(demo: AnnData) -> None:
    demo.obs["donor"] = ["d1", None, "d2", None, *["d1"] * 296]
    with pytest.raises(ValueError, match=r"2 cells have no value in obs\['donor'\] \(first: cell1\): fill the column, or remove"):
        open_cells(demo, batch_key="donor")


def test_a_missing_file_names_the_searched_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=rf"No such file: .*cells\.h5ad \(searched in {tmp_path}\)"):
        open_cells(tmp_path / "cells.h5ad")


@pytest.fixture
def write_broken(demo: AnnData, tmp_path: Path) -> Callable[[str], Path]:
    def make(kind: str) -> Path:
        path = tmp_path / "cells.h5ad"
        if kind == "text":
            path.write_text("cell,gene\n")
        elif kind == "empty":
            path.touch()
        elif kind == "folder":
            path.mkdir()
        elif kind == "truncated":
            demo.write_h5ad(path)
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        else:
            with h5py.File(path, "w") as file:
                file["matrix/data"] = np.arange(3)
        return path

    return make


@pytest.mark.filterwarnings("ignore:.*without encoding metadata")
@pytest.mark.parametrize("kind", ["text", "empty", "folder", "truncated", "another HDF5 file"])
def test_a_file_that_is_not_an_anndata_is_named(write_broken: Callable[[str], Path], kind: str) -> None:
    with pytest.raises(ValueError, match=r"(?s)cells\.h5ad is not a readable AnnData file \(.*\)\. It may be truncated or damaged"):
        open_cells(write_broken(kind))


def test_an_unknown_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cells.xyz").touch()
    with pytest.raises(ValueError, match=r"cells\.xyz: cells cannot be read from this format\. Known formats: \.h5ad, "):
        open_cells(tmp_path / "cells.xyz")


def test_an_empty_inner_join_lists_names_of_both_sources(left: AnnData, right: AnnData) -> None:
    right.var_names = [f"ENSG{i}" for i in range(400)]
    with pytest.raises(
        ValueError,
        match=r"share no feature, so an inner join is empty.*: 0: gene0, gene1, .*\.\.\.; 1: ENSG0, ENSG1, .*\.\.\. Rename .* join='outer'",
    ):
        open_cells([left, right])
    assert len(open_cells([left, right], join="outer").var) == 800


@pytest.mark.parametrize(
    ("categories", "message"),
    [
        (["ctrl"], "batch_categories has 1 names for 2 sources: give one name for each source"),
        (["a", "b", "c"], "batch_categories has 3 names for 2 sources: give one name for each source"),
        (["a", "a"], r"batch_categories=\['a', 'a'\]: each source needs its own name"),
    ],
)
def test_batch_categories_need_a_unique_name_for_each_source(left: AnnData, right: AnnData, categories: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_cells([left, right], batch_categories=categories)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"join": "left"}, "join=left: one of inner, outer is needed"),
        ({"fraction": 0.5, "n_obs": 5}, "fraction and n_obs are both given: give one of them"),
        ({"fraction": 0.0}, r"fraction=0\.0: a number above 0 and at most 1 or None is needed"),
        ({"fraction": 1.5}, r"fraction=1\.5: a number above 0 and at most 1 or None is needed"),
        ({"n_obs": 0}, "n_obs=0: a whole number of at least 1 or None is needed"),
        ({"path": []}, "path: the list is empty"),
    ],
)
def test_options_are_checked_before_anything_is_read(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AnnDataSource(**{"path": "absent.h5ad"} | options)


def test_real_files_with_different_features_are_joined(find_real: Callable[[str], Path]) -> None:
    paths = [find_real("celllines_celseq2.h5ad"), find_real("celllines_dropseq.h5ad")]
    sources = [ad.read_h5ad(path) for path in paths]
    cells = open_cells(paths, n_obs=100)
    assert set(cells.var.index) == set(sources[0].var_names) & set(sources[1].var_names)
    assert set(cells.domain) == {"celllines_celseq2", "celllines_dropseq"}
    for path, source in zip(paths, sources, strict=True):
        own = cells.domain == path.stem
        expected = source[cells.obs.index[own], cells.var.index].X.toarray()
        np.testing.assert_array_equal(cells.matrix[own].toarray(), expected)


def test_few_common_features_cause_a_warning(demo: AnnData, caplog: pytest.LogCaptureFixture) -> None:
    other = demo.copy()
    other.var_names = [f"G{i}" for i in range(490)] + list(demo.var_names[490:])
    AnnDataSource(path=[demo, other]).open()
    assert "The sources share only 10 features, and each has at least 500" in caplog.text


def test_a_batch_key_equal_to_source_key_is_refused(demo: AnnData) -> None:
    with pytest.raises(ValueError, match=r"batch_key='batch' names the column in which the source of each cell is written \(source_key\)"):
        AnnDataSource(path=[demo, demo], batch_key="batch").open()
    cells = AnnDataSource(path=[demo, demo], batch_key="batch", source_key="file", batch_categories=["a", "b"]).open()
    assert list(cells.domain.categories) == ["domain0", "domain1", "domain2"]
    assert set(cells.obs["file"]) == {"a", "b"}


def test_sources_with_the_same_name_get_the_names_of_their_parent_folders(demo: AnnData, tmp_path: Path) -> None:
    paths = [tmp_path / sample / "outs" / "cells.h5ad" for sample in ("first", "second")]
    for path in paths:
        path.parent.mkdir(parents=True)
        demo[:50].copy().write_h5ad(path)
    cells = AnnDataSource(path=str(tmp_path / "*" / "outs" / "*.h5ad"), source_key="sample").open()
    assert cells.obs["sample"].cat.categories.tolist() == ["first", "second"]
    again = AnnDataSource(path=[paths[0], paths[0]], source_key="sample").open()
    assert again.obs["sample"].cat.categories.tolist() == ["cells-0", "cells-1"]


@pytest.mark.parametrize("backed", [False, True])
def test_var_names_from_needs_a_column_of_any_source(demo: AnnData, tmp_path: Path, backed: bool) -> None:
    demo.var["length"] = 1
    demo.write_h5ad(tmp_path / "cells.h5ad")
    paths = [tmp_path / "cells.h5ad"] * 2
    with pytest.raises(KeyError, match=r"var_names_from='symbl' is not in var of any source\. Columns: length\."):
        AnnDataSource(path=paths, source_key="file", var_names_from="symbl", backed=backed).open()


@pytest.mark.parametrize("part", ["var/_index", "X/indices", "X/indptr"])
def test_a_file_with_a_missing_part_is_named(demo: AnnData, tmp_path: Path, part: str) -> None:
    path = tmp_path / "cells.h5ad"
    demo.write_h5ad(path)
    with h5py.File(path, "r+") as file:
        del file[part]
    with pytest.raises(ValueError, match=r"cells\.h5ad is not a readable AnnData file"):
        AnnDataSource(path=path, batch_key="batch", backed=True).open()
