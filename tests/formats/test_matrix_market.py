from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import sparse
from scipy.io import mmread, mmwrite

from scalex.formats.matrix_market import read_matrix_market, read_shape

BANNER = "%%MatrixMarket matrix coordinate integer general\n"
AGAIN = r"It may be truncated or damaged: copy it again\."


def draw_counts(n_rows: int = 7, n_columns: int = 5) -> Any:
    return np.random.default_rng(0).poisson(0.5, (n_rows, n_columns))


@pytest.mark.parametrize("field", ["integer", "real", "pattern", None])
@pytest.mark.parametrize("chunk_rows", [1, 4, 100])
def test_values_equal_those_that_scipy_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, field: str | None, chunk_rows: int) -> None:
    monkeypatch.setattr("scalex.formats.matrix_market.CHUNK_ROWS", chunk_rows)
    matrix: Any = draw_counts() if field is None else sparse.coo_matrix(draw_counts() * (1.5 if field == "real" else 1))
    mmwrite(tmp_path / "m.mtx", matrix, comment="a comment\nof two lines", field=field, symmetry="general")
    expected = mmread(tmp_path / "m.mtx")
    found = read_matrix_market(tmp_path / "m.mtx")
    assert found.dtype == np.float32
    assert read_shape(tmp_path / "m.mtx") == found.shape == (7, 5)
    np.testing.assert_array_equal(found.toarray(), expected.toarray() if sparse.issparse(expected) else expected)


def test_a_symmetric_matrix_equals_what_scipy_reads(tmp_path: Path) -> None:
    mmwrite(tmp_path / "m.mtx", sparse.coo_matrix(draw_counts(5) + draw_counts(5).T))
    assert "symmetric" in (tmp_path / "m.mtx").read_text()
    np.testing.assert_array_equal(read_matrix_market(tmp_path / "m.mtx").toarray(), mmread(tmp_path / "m.mtx").toarray())


def test_a_matrix_without_values_is_zero(tmp_path: Path) -> None:
    (tmp_path / "m.mtx").write_text(f"{BANNER}3 4 0\n")
    np.testing.assert_array_equal(read_matrix_market(tmp_path / "m.mtx").toarray(), np.zeros((3, 4)))


BAD: dict[str, tuple[str | bytes, str]] = {
    "nothing": ("", "its first line is not a header such as '%%MatrixMarket matrix coordinate integer general'"),
    "junk": (np.random.default_rng(0).bytes(4000), "its first line is not a header"),
    "no sizes": (BANNER, "it has no line of sizes"),
    "two sizes": (f"{BANNER}3 4\n1 1 1\n", "its sizes are '3 4', not the numbers of rows, columns and values"),
    "words for sizes": (f"{BANNER}3 four 1\n", "invalid literal for int"),
    "negative sizes": (f"{BANNER}-3 4 1\n", "its sizes are '-3 4 1'"),
    "complex": (
        BANNER.replace("integer", "complex"),
        "it holds matrix coordinate complex general: known are a matrix, coordinate",
    ),
    "far more values declared": (f"{BANNER}40000 40000 4000000000\n1 1 1\n", "it ends after 1 of the 4,000,000,000 values that its header"),
    "far more rows declared": (f"{BANNER}4000000000 4 1\n1 1 1\n", "its sizes are '4000000000 4 1'"),
    "dense, far more values": ("%%MatrixMarket matrix array real general\n60000 60000\n1\n2\n", "it ends after 2 of the 3,600,000,000"),
    "more values": (f"{BANNER}3 4 1\n1 1 1\n2 2 2\n", "it has more than the 1 values that its header declares"),
    "row 0": (f"{BANNER}3 4 2\n0 1 1\n2 1 1\n", "it has values in rows 0 to 2, but 3 rows, counted from 1"),
    "column too large": (f"{BANNER}3 4 1\n1 5 1\n", "it has values in columns 5 to 5, but 4 columns, counted from 1"),
    "text for a value": (f"{BANNER}3 4 1\n1 1 many\n", "could not convert"),
    "a missing value": (f"{BANNER}3 4 2\n1 1\n1 2 3\n", "could not convert string to float"),
    "junk after the header": (BANNER.encode() + b"3 4 2\n" + np.random.default_rng(1).bytes(4000), ""),
    "four values in the first line": (f"{BANNER}3 4 2\n1 1 1 1\n1 2 1\n", "a line has more than 3 values"),
    "four values in the second line": (f"{BANNER}3 4 2\n1 1 1\n1 2 1 1\n", "a line has more than 3 values"),
    "five values": (f"{BANNER}3 4 2\n1 1 1\n1 2 1 1 5\n", "Expected 4 fields in line 2, saw 5"),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize("packed", [False, True])
def test_a_damaged_file_is_named(tmp_path: Path, kind: str, packed: bool) -> None:
    content, match = BAD[kind]
    content = content if isinstance(content, bytes) else content.encode()
    (tmp_path / "m.mtx").write_bytes(gzip.compress(content) if packed else content)
    with pytest.raises(ValueError, match=rf"m\.mtx is not a readable Matrix Market file \((?s:.*){match}(?s:.*)\)\. {AGAIN}"):
        read_matrix_market(tmp_path / "m.mtx")
