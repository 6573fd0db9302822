from __future__ import annotations

import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from scalex.h5ad.open_file import StoredFile
from scalex.h5ad.values import StoredValues

N = 1000
PARTS = [(0, N), (0, 1), (N - 1, N), (63, 64), (64, 128), (63, 129), (300, 777), (5, 6)]


def write(folder: Path, values: Any, *, userblock: int = 0, **options: Any) -> StoredFile:
    path = folder / "values.h5"
    with h5py.File(path, "w", userblock_size=userblock) as file:
        file.create_dataset("before", data=np.arange(17))
        file.create_dataset("values", data=values, **options)
    return StoredFile(path)


def assert_reads(file: StoredFile, *, without_hdf5: bool) -> None:
    """Assert that values equal those of HDF5, and whether they are read without it."""
    stored = StoredValues(file, "values")
    assert (stored._layout is not None) == without_hdf5
    expected = file.open()["values"][()]
    assert stored.dtype == expected.dtype
    for first, stop in PARTS:
        found = np.empty(stop - first, stored.dtype)
        stored.read_direct(found, slice(first, stop))
        np.testing.assert_array_equal(found, expected[first:stop])


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int64", "uint16", "int8", "bool", ">f4", ">i8"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"chunks": (64,)},
        {"chunks": (64,), "maxshape": (None,)},
        {"chunks": (5000,), "maxshape": (None,)},
        {"chunks": (64,), "compression": "gzip"},
        {"chunks": (64,), "compression": "gzip", "shuffle": True},
    ],
)
def test_values_are_read_from_their_bytes(tmp_path: Path, dtype: str, options: dict[str, Any]) -> None:
    values = np.random.default_rng(0).integers(0, 100, N).astype(dtype)
    assert_reads(write(tmp_path, values, **options), without_hdf5=True)


@pytest.mark.parametrize(
    "options",
    [
        {"chunks": (64,), "compression": "lzf"},
        {"chunks": (64,), "compression": "gzip", "fletcher32": True},
        {"chunks": (64,), "scaleoffset": 0},
        {"userblock": 512},
    ],
)
def test_other_layouts_are_left_to_hdf5(tmp_path: Path, options: dict[str, Any]) -> None:
    assert_reads(write(tmp_path, np.random.default_rng(0).integers(0, 100, N), **options), without_hdf5=False)


def test_unwritten_chunks_are_left_to_hdf5(tmp_path: Path) -> None:
    file = write(tmp_path, None, shape=(N,), dtype="float32", chunks=(64,), fillvalue=3)
    with h5py.File(file.path, "r+") as stored:
        stored["values"][100:200] = 1
    assert_reads(StoredFile(file.path), without_hdf5=False)


def test_chunks_without_their_filter_are_left_to_hdf5(tmp_path: Path) -> None:
    file = write(tmp_path, np.zeros(N, np.float32), chunks=(100,), compression="gzip")
    with h5py.File(file.path, "r+") as stored:
        stored["values"].id.write_direct_chunk((300,), np.arange(100, dtype=np.float32).tobytes(), filter_mask=1)
    assert_reads(StoredFile(file.path), without_hdf5=False)


def test_chunks_may_have_any_order_in_the_file(tmp_path: Path) -> None:
    file = write(tmp_path, None, shape=(N,), dtype="int32", chunks=(10,))
    rng = np.random.default_rng(0)
    with h5py.File(file.path, "r+") as stored:
        for i in rng.permutation(N // 10):
            stored["values"][10 * i : 10 * i + 10] = rng.integers(0, 100, 10)
            stored.flush()
    assert_reads(StoredFile(file.path), without_hdf5=True)


@pytest.mark.parametrize("damage", ["bytes", "length"])
def test_a_damaged_chunk_is_an_error(tmp_path: Path, damage: str) -> None:
    file = write(tmp_path, np.arange(N, dtype=np.float32), chunks=(100,), compression="gzip")
    with h5py.File(file.path, "r+") as stored:
        chunk = stored["values"].id.read_direct_chunk((300,))[1]
        broken = bytes(255 - byte for byte in chunk) if damage == "bytes" else zlib.compress(bytes(100))
        stored["values"].id.write_direct_chunk((300,), broken)
    stored_values = StoredValues(StoredFile(file.path), "values")
    good, bad = np.empty(300, np.float32), np.empty(100, np.float32)
    stored_values.read_direct(good, slice(0, 300))
    np.testing.assert_array_equal(good, np.arange(300))
    with pytest.raises(OSError, match=r"incorrect header check|chunk 3 of values has 100 bytes instead of 400"):
        stored_values.read_direct(bad, slice(350, 450))
