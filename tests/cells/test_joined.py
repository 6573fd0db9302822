from __future__ import annotations

import logging
import pickle
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from pandas.api.types import is_object_dtype
from scipy import sparse
from tables import assert_same_table, hold_text_in_objects

from scalex.cells import AnnDataSource, BackedCells, InMemoryCells, file_obs
from scalex.cells.joined import JoinedCells
from scalex.h5ad.block_writer import BlockWriter
from scalex.system.chunks import chunks

N = [90, 60, 75]


@pytest.fixture
def sources(demo: AnnData) -> list[AnnData]:
    """Three sources of different sizes, with overlapping features, one of them in another order, and matrices of different types."""
    rng = np.random.default_rng(0)
    features = [np.arange(400), rng.permutation(np.arange(100, 500)), np.arange(50, 450)]
    sources = []
    for i, (n, columns) in enumerate(zip(N, features, strict=True)):
        rows = np.arange(100 * i, 100 * i + n)
        sources.append(demo[rows, columns].copy())
        sources[i].var["symbol"] = [f"{i}-{name}" for name in sources[i].var_names]
    sources[1].var["length"] = np.arange(400)
    sources[2].X = sources[2].X.toarray()
    sources[1].X = sparse.csr_matrix(sources[1].X, dtype=np.float64)
    return sources


def write(sources: list[AnnData], folder: Path, **options: Any) -> list[Path]:
    paths = [folder / f"{name}.h5ad" for name in ("one", "two", "three")[: len(sources)]]
    for source, path in zip(sources, paths, strict=True):
        source.write_h5ad(path, **options)
    return paths


def open_both(paths: list[Any], **options: Any) -> tuple[BackedCells, InMemoryCells]:
    backed, in_memory = (AnnDataSource(path=paths, backed=backed, **options).open() for backed in (True, False))
    assert isinstance(backed, BackedCells)
    assert isinstance(in_memory, InMemoryCells)
    return backed, in_memory


def some_rows(n: int) -> list[Any]:
    rng = np.random.default_rng(1)
    edges = [N[0] - 1, N[0], N[0] + N[1] - 1, N[0] + N[1]]
    drawn = [np.sort(rng.choice(n, k, replace=False)) for k in (1, 5, n // 2, n)]
    slices = [
        slice(None),
        slice(0, 0),
        slice(0, 1),
        slice(80, 160),
        slice(95, 100),
        slice(n - 3, n + 9),
        slice(n, n),
        slice(n + 4, n + 9),
        slice(95, 20),
    ]
    return [np.array([], np.int64), np.array(edges), np.arange(30), np.arange(90, 150), *drawn, *slices]


def assert_same_values(backed: BackedCells, in_memory: InMemoryCells) -> None:
    for rows in some_rows(len(in_memory.domain)):
        found, expected = backed.read(rows), in_memory.read(rows)
        assert isinstance(found, sparse.csr_matrix)
        assert found.dtype == np.float32
        found.check_format(full_check=True)
        assert found.has_canonical_format
        assert found.shape == expected.shape
        assert (found != expected).nnz == 0


def assert_same_roles(backed: BackedCells, in_memory: InMemoryCells) -> None:
    for found, expected in ((backed.domain, in_memory.domain), (backed.label, in_memory.label)):
        assert (found is None) == (expected is None)
        if found is not None and expected is not None:
            pd.testing.assert_series_equal(pd.Series(found), pd.Series(expected))


def assert_same_annotation(backed: BackedCells, in_memory: InMemoryCells, text: tuple[str, ...] = ()) -> None:
    """Assert equal annotation. Columns `text` are categories in memory, and missing there instead of ""."""
    expected = in_memory.obs.copy()
    for name in text:
        assert isinstance(expected[name].dtype, pd.CategoricalDtype)
        expected[name] = expected[name].astype(object).fillna("")
    assert_same_table(backed.obs, expected)
    n = len(expected)
    for size in (70, n):
        parts = [backed.read_obs(rows) for rows in chunks(n, size)]
        for part in parts:
            pd.testing.assert_series_equal(part.dtypes, expected.dtypes)
            for name, column in part.items():
                if isinstance(column.dtype, pd.CategoricalDtype):
                    assert list(column.cat.categories) == list(expected[name].cat.categories)
        assert_same_table(pd.concat(parts), expected)
    for rows in (slice(0, 0), slice(80, 160), slice(n - 3, n + 9), slice(95, 20)):
        assert_same_table(backed.read_obs(rows), expected.iloc[rows])


@pytest.mark.parametrize("join", ["inner", "outer"])
@pytest.mark.parametrize("compression", [None, "gzip"])
def test_cells_joined_on_disk_equal_cells_joined_in_memory(sources: list[AnnData], tmp_path: Path, join: Any, compression: Any) -> None:
    backed, in_memory = open_both(write(sources, tmp_path, compression=compression), join=join, source_key="file")
    assert isinstance(backed.store, JoinedCells)
    assert_same_values(backed, in_memory)
    assert_same_annotation(backed, in_memory)
    assert_same_roles(backed, in_memory)
    assert_same_table(backed.var, in_memory.var)


@pytest.mark.parametrize("join", ["inner", "outer"])
def test_values_equal_anndata_concat(sources: list[AnnData], tmp_path: Path, join: Any) -> None:
    for source in sources:
        source.X = sparse.csr_matrix(source.X)
    expected = ad.concat(sources, join=join, fill_value=0)
    backed = AnnDataSource(path=write(sources, tmp_path), join=join, source_key="file", backed=True).open()
    assert list(backed.var.index) == list(expected.var_names)
    assert list(backed.obs.index) == list(expected.obs_names)
    for rows in some_rows(sum(N)):
        np.testing.assert_array_equal(backed.read(rows).toarray(), expected.X[rows].toarray())


def test_a_file_can_be_joined_with_itself(sources: list[AnnData], tmp_path: Path) -> None:
    path = write(sources[:1], tmp_path)[0]
    backed, in_memory = open_both([path, path], source_key="file")
    assert_same_values(backed, in_memory)
    assert_same_annotation(backed, in_memory)
    assert list(backed.obs.index[[0, -1]]) == ["cell0-one-0", "cell89-one-1"]


def test_layers_are_joined(sources: list[AnnData], tmp_path: Path) -> None:
    for source in sources:
        source.layers["double"] = source.X * 2
    backed, in_memory = open_both(write(sources, tmp_path), layer="double", batch_key="batch, cell_type", source_key="file")
    assert_same_values(backed, in_memory)
    assert_same_roles(backed, in_memory)


def test_names_that_two_files_share_get_the_name_of_the_source(sources: list[AnnData], tmp_path: Path) -> None:
    sources[2].obs_names = [*sources[2].obs_names[:-1], "cell3"]
    backed, in_memory = open_both(write(sources, tmp_path), batch_categories=["a", "b", "c"])
    assert backed.obs.index[3] == "cell3-a"
    assert_same_annotation(backed, in_memory)


@pytest.mark.filterwarnings("ignore:.* names are not unique", "ignore:Suffix used")
@pytest.mark.parametrize("shared", [True, False])
def test_names_repeated_in_a_file_are_numbered(
    sources: list[AnnData], tmp_path: Path, caplog: pytest.LogCaptureFixture, shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_obs, "CHUNK_ROWS", 20)
    sources[0].obs_names = ["x", "y", "x", *sources[0].obs_names[3:70], *["x"] * 5, "x-2", *sources[0].obs_names[76:]]
    if not shared:
        sources[1].obs_names = [*sources[1].obs_names[:-1], "x-1"]
    sources[1].var_names = ["g", "g", *sources[1].var_names[2:]]
    paths = write(sources, tmp_path)
    caplog.clear()
    backed, in_memory = open_both(paths, join="outer", source_key="file")
    assert_same_annotation(backed, in_memory)
    assert_same_values(backed, in_memory)
    assert_same_table(backed.var, in_memory.var)
    messages = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert messages[: len(messages) // 2] == messages[len(messages) // 2 :]
    assert "one: 1 cell names are not unique (x); repeats get the suffixes -1, -2, ..." in messages
    assert "two: 1 feature names are not unique (g); repeats get the suffixes -1, -2, ..." in messages


def test_warnings_equal_those_of_a_join_in_memory(sources: list[AnnData], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for i, source in enumerate(sources):
        source.var_names = [*source.var_names[:10], *(f"only-{i}-{j}" for j in range(390))]
        source.X = sparse.csr_matrix(source.X)
        source.var_names = [f"gene{j}" for j in range(10)] + list(source.var_names[10:])
    open_both(write(sources, tmp_path))
    messages = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert messages[:2] == messages[2:]
    assert "The name of the source replaces obs['batch'] of the sources. To keep that column, set source_key." in messages
    assert "The sources share only 10 features, and each has at least 400. Check that they use the same names." in messages


def test_the_column_of_the_source_keeps_the_position_of_the_column_it_replaces(sources: list[AnnData], tmp_path: Path) -> None:
    backed, in_memory = open_both(write(sources, tmp_path))
    assert list(backed.obs.columns) == list(in_memory.obs.columns)
    assert_same_annotation(backed, in_memory)
    assert_same_roles(backed, in_memory)


def categories(*values: Any, among: Any = None, ordered: bool = False) -> Any:
    return lambda n: pd.Categorical(np.resize(np.array(values, object), n), among, ordered=ordered)


def array(*values: Any, dtype: Any = None) -> Any:
    return lambda n: pd.array(np.resize(np.array(values, object), n), dtype=dtype)


def numbers(*values: Any, dtype: Any = None) -> Any:
    return lambda n: np.resize(np.array(values, dtype), n)


COLUMNS = {
    "the same categories": [categories("a", "b", among=["b", "a", "z"])] * 3,
    "the same categories in other orders": [categories("a", among=["b", "a"]), categories("b", among=["a", "b"]), categories("a", "b")],
    "ordered categories": [categories("a", "b", among=["b", "a", "z"], ordered=True)] * 3,
    "other categories": [categories("a", "b", among=["b", "a", "z"]), categories("c", None), categories("a", "d", among=["d", "a"])],
    "categories and none": [categories("a", "b", among=["b", "a", "z"]), None, categories("a", "b", among=["b", "a", "z"])],
    "other categories and none": [None, categories("a", "b"), categories("a", None, "c")],
    "numbers as categories": [categories(1, 2), categories(2, 3), categories(3, 7)],
    "numbers as categories, some missing": [categories(1, 2), categories(2, 3), categories(3, None)],
    "numbers as the same categories": [categories(2, 1, among=[1, 2]), categories(1, among=[2, 1]), None],
    "numbers and text as categories": [categories(1, 2), categories("2", "b"), categories(1.5, None)],
    "categories and numbers": [categories("a", "b"), numbers(1, 2), None],
    "numbers as categories and numbers": [categories(1, 2), numbers(5), categories(None, 4)],
    "whole numbers": [numbers(1, 2, dtype=np.int16), numbers(3, dtype=np.int64), numbers(1, dtype=np.uint8)],
    "whole numbers and none": [numbers(1, 2, dtype=np.int16), None, numbers(1, dtype=np.uint8)],
    "numbers": [numbers(1.5, np.nan, dtype=np.float32), numbers(3, dtype=np.int64), numbers(1, dtype=np.uint8)],
    "single numbers": [numbers(np.nan, 1.5, dtype=np.float32), numbers(3, dtype=np.int16), None],
    "flags": [numbers(True, False), numbers(True), numbers(False)],
    "flags and none": [numbers(True, False), None, numbers(False)],
    "flags that may be missing": [array(True, None, dtype="boolean"), numbers(True), None],
    "flags and whole numbers": [numbers(True, False), numbers(3, 4), numbers(True)],
    "flags and categories": [numbers(True, False), categories("a", None), None],
    "numbers that may be missing": [array(1, None, dtype="Int64"), numbers(3, dtype=np.int32), None],
    "numbers that may be missing, and others": [array(1, None, dtype="Int16"), numbers(3.5), array(7, dtype="Int64")],
    "numbers and flags that may be missing": [array(1, None, dtype="Int16"), array(True, None, dtype="boolean"), None],
    "numbers of which one file has none": [numbers(1, 2), numbers(np.nan), numbers(3, 4)],
    "numbers none of which is there": [numbers(np.nan), numbers(np.nan), None],
}


@pytest.mark.parametrize("kind", COLUMNS)
def test_a_column_has_the_same_type_as_in_memory(
    sources: list[AnnData], tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_obs, "CHUNK_ROWS", 50)
    for source, make in zip(sources, COLUMNS[kind], strict=True):
        source.obs = source.obs[["batch"]]
        if make is not None:
            source.obs["column"] = make(source.n_obs)
    backed, in_memory = open_both(write(sources, tmp_path), label_key="column", source_key="file")
    assert_same_annotation(backed, in_memory)
    assert_same_roles(backed, in_memory)


def join_obs(sources: list[AnnData]) -> pd.DataFrame:
    """Return the annotation joined by pandas. Objects, which files cannot hold, become booleans or categories of text."""
    joined = hold_text_in_objects(pd.concat([source.obs for source in sources]))
    for name, column in joined.items():
        if column.dtype == object:
            there = set(map(type, column.dropna()))
            joined[name] = column.astype("boolean") if there == {bool} else pd.Categorical(column.where(column.isna(), column.astype(str)))
    return joined


@pytest.mark.parametrize("kind", COLUMNS)
@pytest.mark.filterwarnings("ignore:.*empty or all-NA:FutureWarning")
def test_columns_in_memory_are_joined_as_by_pandas(sources: list[AnnData], kind: str) -> None:
    for source, make in zip(sources, COLUMNS[kind], strict=True):
        source.obs = source.obs[["cell_type"]].assign(**({} if make is None else {"column": make(source.n_obs)}))
    found = AnnDataSource(path=sources, source_key="file").open().obs
    assert_same_table(found[["cell_type", "column"]], join_obs(sources))


@pytest.mark.parametrize("which", [[0, 1, 2], [1], [0, 2]])
def test_text_stays_text(sources: list[AnnData], tmp_path: Path, which: list[int]) -> None:
    for i in which:
        sources[i].obs["note"] = [f"note {i} {j}" for j in range(sources[i].n_obs)]
    backed, in_memory = open_both(write(sources, tmp_path), label_key="note", source_key="file")
    assert is_object_dtype(backed.obs["note"])
    assert_same_annotation(backed, in_memory, text=("note",))
    assert_same_roles(backed, in_memory)


def test_text_and_categories_become_categories(sources: list[AnnData], tmp_path: Path) -> None:
    sources[0].obs["note"] = [f"note {j}" for j in range(sources[0].n_obs)]
    sources[1].obs["note"] = pd.Categorical(["note 3", "none"] * 30)
    sources[2].obs["note"] = 1.5
    backed, in_memory = open_both(write(sources, tmp_path), batch_key="note", source_key="file")
    assert_same_annotation(backed, in_memory)
    assert_same_roles(backed, in_memory)


def test_files_without_any_column(sources: list[AnnData], tmp_path: Path) -> None:
    for source in sources:
        source.obs = source.obs[[]]
    backed, in_memory = open_both(write(sources, tmp_path))
    assert_same_annotation(backed, in_memory)
    assert_same_roles(backed, in_memory)


def test_chunks_of_the_annotation_can_be_written_in_turn(sources: list[AnnData], tmp_path: Path) -> None:
    sources[0].obs["note"] = [f"note {j}" for j in range(sources[0].n_obs)]
    sources[1].obs["cell_type"] = pd.Categorical(["other", "new"] * 30)
    sources[2].obs["flag"] = True
    cells = AnnDataSource(path=write(sources, tmp_path), source_key="file", backed=True).open()
    with h5py.File(tmp_path / "all.h5ad", "w") as file:
        writer = BlockWriter(file)
        for rows in chunks(sum(N), 40):
            writer.append(AnnData(cells.read(rows), obs=cells.read_obs(rows), var=cells.var))
    found = ad.read_h5ad(tmp_path / "all.h5ad")
    assert_same_table(found.obs, cells.obs)
    np.testing.assert_array_equal(found.X.toarray(), cells.read(slice(None)).toarray())


@pytest.mark.parametrize("options", [{"n_obs": 50}, {"fraction": 0.3}, {"n_obs": 1}, {"n_obs": 1000}, {"fraction": 1.0}])
@pytest.mark.parametrize("n_files", [1, 3])
def test_a_sample_equals_that_of_cells_in_memory(
    sources: list[AnnData], tmp_path: Path, n_files: int, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scalex.cells.backed.CHUNK_ROWS", 30)
    backed, in_memory = open_both(write(sources[:n_files], tmp_path), source_key="file", seed=3, **options)
    n = len(in_memory.obs)
    assert (backed.subset is not None) == (n < sum(N[:n_files]))
    assert_same_table(backed.obs, in_memory.obs)
    assert_same_table(backed.var, in_memory.var, check_column_type=False)
    assert_same_roles(backed, in_memory)
    for rows in (slice(None), slice(0, 0), slice(n // 3, n), np.array([0]), np.array([], np.int64), np.arange(0, n, 2)):
        np.testing.assert_array_equal(backed.read(rows).toarray(), in_memory.read(rows).toarray())
        if isinstance(rows, slice):
            assert_same_table(backed.read_obs(rows), in_memory.read_obs(rows))


def test_a_sample_keeps_the_proportions_of_the_domains(sources: list[AnnData], tmp_path: Path) -> None:
    backed, in_memory = open_both(write(sources, tmp_path), batch_key="batch", source_key="file", n_obs=90)
    assert_same_roles(backed, in_memory)
    np.testing.assert_array_equal(backed.read(slice(None)).toarray(), in_memory.read(slice(None)).toarray())
    whole = AnnDataSource(path=sources, batch_key="batch", source_key="file").open().domain.value_counts()
    difference = in_memory.domain.value_counts().to_numpy() - whole.to_numpy() * 90 / sum(N)
    assert (abs(difference) < 1).all()
    assert len(in_memory.domain) == 90
    other = AnnDataSource(path=sources, batch_key="batch", source_key="file", n_obs=90, seed=1).open()
    assert list(other.obs.index) != list(in_memory.obs.index)


def test_cells_of_several_files_can_be_pickled(sources: list[AnnData], tmp_path: Path) -> None:
    backed, in_memory = open_both(write(sources, tmp_path), source_key="file")
    copy = pickle.loads(pickle.dumps(backed))
    assert_same_values(copy, in_memory)
    assert_same_table(copy.obs, in_memory.obs)


@pytest.mark.parametrize("backed", [True, False])
class TestErrorsAreTheSameOnDiskAndInMemory:
    def test_no_common_feature(self, sources: list[AnnData], tmp_path: Path, backed: bool) -> None:
        sources[1].var_names = [f"ENSG{i}" for i in range(400)]
        with pytest.raises(ValueError, match=r"share no feature, so an inner join is empty\. Their features: one: gene0, .*; two: ENSG0, "):
            AnnDataSource(path=write(sources, tmp_path), backed=backed).open()

    def test_unknown_batch_key(self, sources: list[AnnData], tmp_path: Path, backed: bool) -> None:
        with pytest.raises(KeyError, match=r"batch_key='donor' is not in obs\. Columns: batch, cell_type, path, file\."):
            AnnDataSource(path=write(sources, tmp_path), batch_key="donor", source_key="file", backed=backed).open()

    @pytest.mark.parametrize("text", [True, False])
    def test_file_without_domains(self, sources: list[AnnData], tmp_path: Path, backed: bool, text: bool) -> None:
        for i in (0, 2):
            sources[i].obs["donor"] = [f"d{j}" if text else "d" for j in range(sources[i].n_obs)]
        with pytest.raises(ValueError, match=r"60 cells have no value in obs\['donor'\] \(first: cell100\)"):
            AnnDataSource(path=write(sources, tmp_path), batch_key="donor", source_key="file", backed=backed).open()

    def test_wrong_number_of_batch_categories(self, sources: list[AnnData], tmp_path: Path, backed: bool) -> None:
        with pytest.raises(ValueError, match="batch_categories has 2 names for 3 sources"):
            AnnDataSource(path=write(sources, tmp_path), batch_categories=["a", "b"], backed=backed).open()

    def test_missing_file(self, sources: list[AnnData], tmp_path: Path, backed: bool) -> None:
        with pytest.raises(FileNotFoundError, match=r"No such file: .*none\.h5ad"):
            AnnDataSource(path=[*write(sources, tmp_path), tmp_path / "none.h5ad"], backed=backed).open()


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("AnnData", "1: it is already in memory"),
        ("csc", "csc: X is stored by columns; set cache to a folder"),
        ("csv", "table: only .h5ad, .zarr, .zarr.zip are read in runs of rows"),
    ],
)
@pytest.mark.parametrize("join", ["inner", "outer"])
def test_sources_in_memory_and_in_files_are_joined(
    sources: list[AnnData], tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str, reason: str, join: Any
) -> None:
    caplog.set_level(logging.INFO)
    paths: list[Any] = write(sources, tmp_path)
    if kind == "csv":
        sources[1].to_df().T.to_csv(tmp_path / "table.csv")
        paths[1] = tmp_path / "table.csv"
    else:
        sources[1].X = sparse.csc_matrix(sources[1].X)
        sources[1].write_h5ad(tmp_path / "csc.h5ad")
        paths[1] = sources[1] if kind == "AnnData" else tmp_path / "csc.h5ad"
    backed, in_memory = open_both(paths, join=join, source_key="file", memory_gb=0.1)
    assert f"Reads into memory, since these cells cannot be read in pieces: {reason}" in caplog.text
    assert_same_values(backed, in_memory)
    assert_same_annotation(backed, in_memory)
    assert_same_roles(backed, in_memory)
    assert_same_table(backed.var, in_memory.var)
    assert (backed.identity is None) == (kind == "AnnData")
