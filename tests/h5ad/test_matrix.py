from __future__ import annotations

import multiprocessing
import os
import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pytest
from commands import Child
from numpy.typing import NDArray
from scipy import sparse

from scalex.cells import StoredMatrix
from scalex.h5ad import matrix as stored_matrix
from scalex.h5ad.values import StoredValues

N_CELLS, N_FEATURES = 400, 60


@pytest.fixture
def matrix() -> sparse.csr_matrix:
    """Counts with full, sparse and empty rows."""
    rng = np.random.default_rng(0)
    values = rng.poisson(2, (N_CELLS, N_FEATURES)) * (rng.random((N_CELLS, N_FEATURES)) < rng.random((N_CELLS, 1)))
    values[[0, 1, 7, 200, 201, 202, N_CELLS - 1]] = 0
    return sparse.csr_matrix(values, dtype=np.float32)


def write(matrix: Any, folder: Path, **options: Any) -> Path:
    path = folder / "cells.h5ad"
    with h5py.File(path, "w") as file:
        ad.io.write_elem(file, "X", matrix, dataset_kwargs=options)
    return path


def write_with_types(matrix: sparse.csr_matrix, folder: Path, **types: str) -> Path:
    """Write a file whose parts have other types than those of anndata."""
    path = write(matrix, folder)
    with h5py.File(path, "r+") as file:
        for name, dtype in types.items():
            values = file[f"X/{name}"][()]
            del file[f"X/{name}"]
            file[f"X/{name}"] = values.astype(dtype)
    return path


def some_rows() -> list[NDArray[np.int64]]:
    rng = np.random.default_rng(1)
    drawn = [np.sort(rng.choice(N_CELLS, n, replace=False)) for n in (1, 2, 3, 20, 150, 390)]
    runs = np.concatenate([np.arange(start, start + 16) for start in (0, 16, 64, 192, 350, N_CELLS - 16)])
    special = [[], [0], [N_CELLS - 1], [0, 1, 7], [200, 202], [199, 203], range(N_CELLS), range(30, 50), range(1, N_CELLS, 2)]
    return [*drawn, runs, *(np.array(rows, np.int64) for rows in special)]


SLICES = [slice(None), slice(0, 0), slice(0, 1), slice(17, 60), slice(390, 500), slice(200, 203), slice(500, 600), slice(9, 3)]


def assert_reads(stored: StoredMatrix, expected: sparse.csr_matrix) -> None:
    assert stored.shape == expected.shape
    for rows in [*SLICES, *some_rows()]:
        found = stored.read(rows)
        assert isinstance(found, sparse.csr_matrix)
        assert found.dtype == np.float32
        assert found.indices.dtype == np.int32
        found.check_format(full_check=True)
        assert found.has_canonical_format
        np.testing.assert_array_equal(found.toarray(), expected[rows].toarray())


@pytest.mark.parametrize("gap", [0, 25, 4096])
@pytest.mark.parametrize("options", [{}, {"compression": "gzip"}, {"compression": "gzip", "chunks": (100,)}, {"chunks": (64,)}])
def test_rows_equal_those_of_the_matrix(
    matrix: sparse.csr_matrix, tmp_path: Path, options: dict[str, Any], gap: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StoredValues, "max_gap", gap)
    assert_reads(StoredMatrix(write(matrix, tmp_path, **options), "X"), matrix)


@pytest.mark.parametrize("data", ["float64", "float16", "int64", "int8", "uint8", "uint64", "bool", ">f4", ">i4"])
def test_values_of_any_type_become_float32(matrix: sparse.csr_matrix, tmp_path: Path, data: str) -> None:
    path = write_with_types(matrix, tmp_path, data=data)
    matrix.data = matrix.data.astype(data).astype(np.float32)
    assert_reads(StoredMatrix(path, "X"), matrix)


@pytest.mark.parametrize("indices", ["int64", "uint32", "uint64", "int16", ">i4"])
@pytest.mark.parametrize("indptr", ["uint32", "int64", "uint64"])
def test_columns_and_row_pointers_of_any_type_are_read(matrix: sparse.csr_matrix, tmp_path: Path, indices: str, indptr: str) -> None:
    assert_reads(StoredMatrix(write_with_types(matrix, tmp_path, indices=indices, indptr=indptr), "X"), matrix)


@pytest.mark.parametrize(
    ("dtype", "dense_values", "options"),
    [
        ("float32", 1, {}),
        ("float32", 7 * N_FEATURES, {"compression": "gzip"}),
        ("float64", 1 << 24, {}),
        ("uint16", 7 * N_FEATURES, {}),
        ("bool", 1 << 24, {"compression": "gzip"}),
    ],
)
def test_a_dense_matrix_becomes_sparse(
    matrix: sparse.csr_matrix, tmp_path: Path, dtype: str, options: dict[str, Any], dense_values: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_matrix, "DENSE_VALUES", dense_values)
    values = matrix.toarray().astype(dtype)
    assert_reads(StoredMatrix(write(values, tmp_path, **options), "X"), sparse.csr_matrix(values, dtype=np.float32))


def test_values_in_any_order_and_twice_are_sorted_and_added(matrix: sparse.csr_matrix, tmp_path: Path) -> None:
    order = np.concatenate([np.tile(np.arange(a, b)[::-1], 2) for a, b in zip(matrix.indptr, matrix.indptr[1:], strict=False)])
    twice = sparse.csr_matrix((matrix.data[order], matrix.indices[order], 2 * matrix.indptr), shape=matrix.shape)
    assert twice.nnz == 2 * matrix.nnz
    assert_reads(StoredMatrix(write(twice, tmp_path), "X"), 2 * matrix)


def test_close_rows_are_read_at_once(matrix: sparse.csr_matrix, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = StoredMatrix(write(matrix, tmp_path), "X")
    read: list[slice] = []
    original = StoredValues.read_direct
    monkeypatch.setattr(StoredValues, "read_direct", lambda self, to, part: (read.append(part), original(self, to, part)))
    monkeypatch.setattr(StoredValues, "max_gap", int(matrix.indptr[30] - matrix.indptr[20]))
    stored.read(np.array([10, 11, 19, 30, 31, 300]))
    assert read == 2 * [slice(matrix.indptr[10], matrix.indptr[32]), slice(matrix.indptr[300], matrix.indptr[301])]


def run_in_fork(work: Callable[[], None]) -> None:
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join(60)
    assert process.exitcode == 0


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_opens_the_file_for_itself(matrix: sparse.csr_matrix, tmp_path: Path) -> None:
    stored = StoredMatrix(write(matrix, tmp_path, compression="gzip"), "X")
    ours = stored.file.open()

    def read() -> None:
        assert_reads(stored, matrix)
        assert stored.file.open() is not ours
        assert not ours

    run_in_fork(read)
    assert stored.file.open() is ours
    assert_reads(stored, matrix)


def test_another_process_reads_a_pickled_copy(matrix: sparse.csr_matrix, tmp_path: Path) -> None:
    stored = StoredMatrix(write(matrix, tmp_path), "X")
    stored.read(slice(0, 5))
    (tmp_path / "stored.pickle").write_bytes(pickle.dumps(stored))
    code = (
        "import pathlib, pickle; from scipy import sparse; stored = pickle.loads(pathlib.Path('stored.pickle').read_bytes()); "
        "sparse.save_npz('read.npz', stored.read(slice(3, 90)))"
    )
    Child(code, cwd=tmp_path).end()
    np.testing.assert_array_equal(sparse.load_npz(tmp_path / "read.npz").toarray(), matrix[3:90].toarray())


def test_a_copy_expects_the_file_of_the_original(matrix: sparse.csr_matrix, tmp_path: Path) -> None:
    path = write(matrix, tmp_path)
    pickled = pickle.dumps(StoredMatrix(path, "X"))
    write(2 * matrix, tmp_path)
    with pytest.raises(OSError, match=r"cells\.h5ad changed while it was being read"):
        pickle.loads(pickled).read(slice(0, 3))


@pytest.mark.parametrize("options", [{}, {"compression": "gzip", "chunks": (64,)}])
def test_several_threads_read_at_once(matrix: sparse.csr_matrix, tmp_path: Path, options: dict[str, Any]) -> None:
    stored = pickle.loads(pickle.dumps(StoredMatrix(write(matrix, tmp_path, **options), "X")))
    rows = 10 * some_rows()
    with ThreadPoolExecutor(4) as pool:
        for wanted, found in zip(rows, pool.map(stored.read, rows), strict=True):
            np.testing.assert_array_equal(found.toarray(), matrix[wanted].toarray())


class TestErrors:
    @pytest.mark.parametrize("kind", ["written again", "replaced", "touched", "grown"])
    def test_a_changed_file_is_not_read(self, matrix: sparse.csr_matrix, tmp_path: Path, kind: str) -> None:
        path = write(matrix, tmp_path)
        stored = StoredMatrix(path, "X")
        stored.read(slice(0, 3))
        if kind == "written again":
            path.write_bytes(path.read_bytes())
            os.utime(path, ns=(0, 0))
        elif kind == "replaced":
            (tmp_path / "other.h5ad").write_bytes(path.read_bytes())
            (tmp_path / "other.h5ad").replace(path)
        elif kind == "touched":
            os.utime(path, ns=(0, 0))
        else:
            with path.open("ab") as file:
                file.write(b"more")
        with pytest.raises(OSError, match=r"cells\.h5ad changed while it was being read, .* Start the run again"):
            stored.read(np.array([1, 2]))

    def test_a_missing_file_is_named(self, matrix: sparse.csr_matrix, tmp_path: Path) -> None:
        path = write(matrix, tmp_path)
        stored = StoredMatrix(path, "X")
        path.unlink()
        with pytest.raises(OSError, match=r"cells\.h5ad is gone \(No such file or directory\).* start the run again"):
            stored.read(slice(0, 3))

    @pytest.mark.parametrize("part", ["data", "indices"])
    def test_rows_that_cannot_be_decompressed_are_named(
        self, matrix: sparse.csr_matrix, tmp_path: Path, part: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = write(matrix, tmp_path, compression="gzip", chunks=(200,))
        with h5py.File(path) as file:
            chunk = file[f"X/{part}"].id.get_chunk_info(10)
        with path.open("r+b") as raw:
            raw.seek(chunk.byte_offset)
            raw.write(b"\xff" * chunk.size)
        stored = StoredMatrix(path, "X")
        first = int(np.searchsorted(matrix.indptr, 2000, side="right")) - 1
        last = int(np.searchsorted(matrix.indptr, 2200)) - 1
        monkeypatch.setattr(StoredValues, "max_gap", 0)
        np.testing.assert_array_equal(stored.read(slice(0, first)).toarray(), matrix[:first].toarray())
        np.testing.assert_array_equal(stored.read(slice(last + 1, None)).toarray(), matrix[last + 1 :].toarray())
        with pytest.raises(
            OSError, match=rf"cells\.h5ad: X, rows {first} to {first + 2} cannot be read \(.*\)\. The file is damaged"
        ) as raised:
            stored.read(slice(first, first + 3))
        assert isinstance(raised.value.__cause__, OSError)
        with pytest.raises(OSError, match=rf"X, rows {last} to {last} cannot be read"):
            stored.read(np.array([0, last, N_CELLS - 2]))

    @pytest.mark.parametrize(
        ("part", "change", "problem"),
        [
            ("indptr", lambda x: x[:-1], r"it has 400 row pointers, but 400 rows need 401"),
            ("indptr", lambda x: x + 1, "its row pointers do not ascend from 0"),
            ("indptr", lambda x: np.concatenate([x[:5], [x[-1]], x[6:]]), "its row pointers do not ascend from 0"),
            ("indptr", lambda x: np.append(x[:-1], x[-1] + 1), r"its rows end at value \d+, but \d+ values and \d+ columns are stored"),
            ("data", lambda x: x[:-1], r"its rows end at value \d+, but \d+ values and \d+ columns are stored"),
            ("indices", lambda x: np.append(x, 0), r"its rows end at value \d+, but \d+ values and \d+ columns are stored"),
        ],
    )
    def test_parts_that_do_not_fit_together_are_refused(
        self, matrix: sparse.csr_matrix, tmp_path: Path, part: str, change: Callable[[Any], Any], problem: str
    ) -> None:
        path = write(matrix, tmp_path)
        with h5py.File(path, "r+") as file:
            values = change(file[f"X/{part}"][()])
            del file[f"X/{part}"]
            file[f"X/{part}"] = values
        with pytest.raises(ValueError, match=rf"cells\.h5ad: X is not a CSR matrix: {problem}\. The file is damaged: write it again"):
            StoredMatrix(path, "X")

    @pytest.mark.parametrize(("column", "columns"), [(60, r"\d+ to 60"), (-1, r"-1 to \d+"), (2**33, rf"\d+ to {2**33}")])
    def test_columns_outside_the_matrix_are_refused(self, matrix: sparse.csr_matrix, tmp_path: Path, column: int, columns: str) -> None:
        path = write_with_types(matrix, tmp_path, indices="int64")
        with h5py.File(path, "r+") as file:
            file["X/indices"][matrix.indptr[100]] = column
        stored = StoredMatrix(path, "X")
        np.testing.assert_array_equal(stored.read(slice(0, 100)).toarray(), matrix[:100].toarray())
        with pytest.raises(
            ValueError, match=rf"cells\.h5ad: X has values in columns {columns} of rows 90 to 120, but only 60 columns, counted from 0"
        ):
            stored.read(slice(90, 121))
