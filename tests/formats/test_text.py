from __future__ import annotations

import bz2
import gzip
import lzma
from collections.abc import Callable
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from formats.damaged import AGAIN, assert_refused, open_cells
from formats.written import write_text
from hypothesis import example, given, settings
from hypothesis import strategies as st

from scalex.formats import ReadOptions, read_cells


def write(folder: Path, content: str | bytes, extension: str = ".csv") -> Path:
    path = folder / f"cells{extension}"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


UTF8 = r"is not text in UTF-8 \(.*\)\. Is it compressed, a spreadsheet, or in another encoding such as UTF-16\? Save it as text in UTF-8"
FIELDS = "The first row needs as many as the second, or one less"
TEXTS: dict[str, tuple[str | bytes, str, str]] = {
    "empty": ("", ".csv", "is empty"),
    "empty gz": (gzip.compress(b""), ".csv.gz", "is empty"),
    "empty rows": ("\n\n", ".tsv", "is empty"),
    "empty first row": ("\n,a,b\ng,1,2\n", ".csv", "begins with an empty row. Remove it"),
    "header only": (",a,b\n", ".csv", "has names in its first row, but no other row. It may be truncated"),
    "header only without end": (",a,b", ".csv", "has names in its first row, but no other row"),
    "header and empty rows": ("\ta\tb\n\n\n", ".tsv", "has names in its first row, but no other row"),
    "one column": ("gene1\ngene2\n", ".csv", r"has one column: its first row has no delimiter \('gene1'\).* by commas"),
    "one column of txt": ("|a|b\ng|1|2\n", ".txt", "has one column: .* Separate the values by tabs, semicolons, commas, spaces"),
    "csv with tabs": ("\ta\tb\ng\t1\t2\n", ".csv", r"separated by tabs, but \.csv means commas\. Rename it to \.tsv"),
    "csv with tabs and decimal commas": ("\ta\tb\ng\t1,5\t2\n", ".csv", r"separated by tabs, but \.csv means commas"),
    "tsv with commas": (",a,b\ng,1,2\n", ".tsv", r"separated by commas, but \.tsv means tabs\. Rename it to \.csv"),
    "tsv.gz with commas": (gzip.compress(b",a,b\ng,1,2\n"), ".TSV.GZ", r"separated by commas, but \.tsv means tabs"),
    "csv with semicolons": (";a;b\ng;1,5;2\n", ".csv", r"separated by semicolons, but \.csv means commas\. Rename it to \.txt"),
    "csv with spaces": ("x a b\ng 1 2\n", ".csv", r"separated by spaces, but \.csv means commas\. Rename it to \.txt"),
    "title": ("My table of counts\n,a,b\ng,1,2\n", ".csv", f"first row has 1 field.s. and the second 3. {FIELDS}.* such as a title"),
    "second row much longer": (",a,b\ng,1,2,3,4\n", ".csv", f"first row has 3 field.s. and the second 5. {FIELDS}"),
    "second row shorter": (",a,b,c\ng,1\n", ".csv", f"first row has 4 field.s. and the second 2. {FIELDS}"),
    "third row longer": (",a,b\ng,1,2\nh,1,2,3\n", ".csv", r"row 'h' has more values than there are names in the first row \(2\)"),
    "third row much longer": (",a,b\ng,1,2\nh,1,2,3,4\n", ".csv", "line 3 has 5 fields, which is too many. All rows need as many values"),
    "third row shorter": (",a,b\ng,1,2\nh,1\n", ".csv", "row 'h', column 'b' is empty.* too few values, or the file is truncated"),
    "third row a name": (",a,b\ng,1,2\nh\n", ".csv", "row 'h', column 'a' is empty.* too few values, or the file is truncated"),
    "word": (
        ",a,b\ng,1,2\nh,1,high\n",
        ".csv",
        "row 'h', column 'b' is 'high', which is not a number. Annotation of .* remove such rows and",
    ),
    "column of symbols": ("id,symbol,a\ng1,ACTB,2\n", ".csv", "row 'g1', column 'symbol' is 'ACTB', which is not a number"),
    "decimal comma": ("\ta\tb\ng\t1\t2\nh\t1\t2,5\n", ".tsv", "row 'h', column 'b' is '2,5', .* Write numbers with a decimal point"),
    "decimal comma of txt": (";a;b\ng;-1,5e-1;2\n", ".txt", "row 'g', column 'a' is '-1,5e-1', .* Write numbers with a decimal point"),
    "decimal comma of one cell": ("\ta\ng\t2,5\n", ".txt", "row 'g', column 'a' is '2,5', .* Write numbers with a decimal point"),
    "empty value": (",a,b\ng,1,2\nh,,3\n", ".csv", "row 'h', column 'a' is empty, .* Missing values are not allowed: write 0"),
    "NA": (",a,b\ng,1,2\nh,1,NA\n", ".csv", "row 'h', column 'b' is 'NA', .* Missing values are not allowed: write 0"),
    "nan": ("\ta\tb\ng\tnan\t2\n", ".tsv", "row 'g', column 'a' is 'nan', .* Missing values are not allowed: write 0"),
    "BD Rhapsody": (
        "##BD\n####\nCell_Index,ACTB,B2M\n1,2,3\n",
        ".csv",
        r"has a row for each cell, .* Cell_Index, says: set transpose",
    ),
    "annotation of numbers": (",nCount_RNA,a\ng,1,2\n", ".csv", "nCount_RNA is annotation of cells or features, not expression: remove"),
    "delimiters at the end, a word": (",a,b,\ng,1,2,\nh,1,x,\n", ".csv", "row 'h', column 'b' is 'x', which is not a number"),
    "comments only": ("##a\n##b\n", ".csv", "is empty"),
    "web page": (
        "<!DOCTYPE html>\n<html>404</html>\n",
        ".csv",
        r"cells\.csv is a web page, not data: the download failed or needs a login",
    ),
    "web page, packed": (gzip.compress(b"\n<html>\n"), ".csv.gz", r"cells\.csv\.gz is a web page, not data"),
    "XML": ("<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", ".tsv", r"cells\.tsv is XML, such as the error message of a"),
    "Git LFS": (
        "version https://git-lfs.github.com/spec/v1\noid sha256:1\n",
        ".csv",
        "is a pointer of Git LFS, .* run git lfs pull",
    ),
    "tar": (b"name".ljust(257, b"\0") + b"ustar\x0000", ".csv", r"is a tar archive: unpack it with tar -xf \S*cells\.csv -C \S+, and give"),
    "Excel": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", ".csv", r"is a spreadsheet of Excel, not text: save its sheet as \.csv"),
    "R": (gzip.compress(b"RDX3\nX\n"), ".txt.gz", r"is a file of R: in R, write its cells to \.h5ad"),
    "HDF5": (b"\x89HDF\r\n\x1a\n", ".csv", r"is an HDF5 file, not text: rename it to \.h5ad"),
    "binary": (np.random.default_rng(0).bytes(5000), ".csv", UTF8),
    "zeros": (bytes(5000), ".csv", UTF8),
    "zip": (b"PK\x03\x04" + np.random.default_rng(1).bytes(3000), ".csv", rf"cannot be read \(File is not a zip file\)\. {AGAIN}"),
    "UTF-16": ("\ta\tb\ng\t1\t2\n".encode("utf-16"), ".tsv", r"cells\.tsv is text in UTF-16: save it as text in UTF-8"),
    "UTF-16 without mark": ("\ta\tb\ng\t1\t2\n".encode("utf-16-le"), ".tsv", UTF8),
    "Latin-1": (",a,b\nµ,1,2\n".encode("latin-1"), ".csv", UTF8),
}


@pytest.mark.parametrize("kind", TEXTS)
def test_bad_text_is_refused_with_a_reason(tmp_path: Path, kind: str) -> None:
    content, extension, match = TEXTS[kind]
    assert_refused(write(tmp_path, content, extension), match)


def test_the_first_value_that_is_not_a_number_is_named_in_any_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scalex.formats.text.CHUNK_VALUES", 6)
    rows = [f"g{i},{i},2" for i in range(50)]
    rows[33] = "g33,33,many"
    assert_refused(write(tmp_path, "\n".join([",a,b", *rows])), "row 'g33', column 'b' is 'many', which is not a number")


@pytest.mark.parametrize("row", [33, 34])
@pytest.mark.parametrize("more", [",7", ",7,8,9", ",many"])
def test_a_longer_row_is_named_in_any_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row: int, more: str) -> None:
    """pandas by itself overlooks it at the start of a chunk."""
    monkeypatch.setattr("scalex.formats.text.CHUNK_VALUES", 6)
    rows = [f"g{i},{i},2" for i in range(50)]
    rows[row] += more
    assert_refused(
        write(tmp_path, "\n".join([",a,b", *rows])),
        rf"row 'g{row}' has more values than there are names in the first row \(2\)|line {row + 2} has 6 fields, which is too many",
    )


def test_a_table_of_bd_rhapsody_is_read(few: AnnData, tmp_path: Path) -> None:
    table = few.to_df().astype(int).rename_axis("Cell_Index")
    path = write(tmp_path, "##BD Rhapsody WTA\n## version, 1.9\n####\n" + table.to_csv())
    cells = read_cells(path, ReadOptions(transpose=True))
    assert list(cells.obs_names) == list(few.obs_names)
    np.testing.assert_array_equal(cells.X.toarray(), few.X.toarray())


@pytest.mark.parametrize("corner", ["gene,", ",", ""])
def test_each_row_may_end_with_a_delimiter(tmp_path: Path, corner: str) -> None:
    cells = read_cells(write(tmp_path, f"{corner}a,b,\ng,1,2,\nh,3,4,\n"))
    assert list(cells.obs_names) == ["a", "b"]
    np.testing.assert_array_equal(cells.X.toarray(), [[1, 3], [2, 4]])


@pytest.mark.parametrize("extension", [".csv", ".tsv.gz", ".txt.bz2", ".csv.xz", ".csv.zip", ".csv.gz"])
@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lzma.compress, bytes])
def test_the_content_decides_how_text_is_compressed(tmp_path: Path, extension: str, pack: Callable[[bytes], bytes]) -> None:
    content = ",a,b\ng,1,2\n".replace(",", "\t" if extension.startswith((".tsv", ".txt")) else ",")
    cells = read_cells(write(tmp_path, pack(content.encode()), extension))
    np.testing.assert_array_equal(cells.X.toarray(), [[1], [2]])


def test_a_zip_needs_a_single_file(tmp_path: Path) -> None:
    with ZipFile(tmp_path / "cells.csv.zip", "w") as archive:
        archive.writestr("folder/cells.csv", "\ufeff,a,b\ng,1,2\n")
        archive.writestr("__MACOSX/folder/._cells.csv", b"\0\5\26\7")
    np.testing.assert_array_equal(read_cells(tmp_path / "cells.csv.zip").X.toarray(), [[1], [2]])
    with ZipFile(tmp_path / "cells.csv.zip", "a") as archive:
        archive.writestr("more.csv", ",a\n")
    assert_refused(
        tmp_path / "cells.csv.zip", r"holds 2 files: folder/cells\.csv, more\.csv\. Unpack it with unzip \S*cells\.csv\.zip, and"
    )
    with ZipFile(tmp_path / "sheet.csv", "w") as archive:
        archive.writestr("[Content_Types].xml", "")
        archive.writestr("xl/workbook.xml", "")
    assert_refused(tmp_path / "sheet.csv", r"sheet\.csv is a spreadsheet of Excel, not text: save its sheet as \.csv")


@pytest.mark.parametrize("extension", [".CSV", ".CSV.GZ", ".Tsv"])
def test_extensions_may_be_in_capitals(tmp_path: Path, extension: str) -> None:
    content = ",a,b\ng,1,2\n".replace(",", "\t" if extension == ".Tsv" else ",").encode()
    cells = open_cells(write(tmp_path, gzip.compress(content) if extension.endswith("GZ") else content, extension))
    np.testing.assert_array_equal(cells.read(slice(None)).toarray(), [[1], [2]])


@pytest.mark.parametrize("names", ["barcodes and genes", "barcodes and regions", "numbers and common genes"])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("transpose", [False, True])
def test_text_that_looks_transposed_causes_a_warning(
    few: AnnData, tmp_path: Path, caplog: pytest.LogCaptureFixture, names: str, transposed: bool, transpose: bool
) -> None:
    cells = few.copy()
    if names == "barcodes and regions":
        cells.var_names = [f"chr1:{i}00-{i}50" for i in range(40)]
    if names == "numbers and common genes":
        cells.obs_names = [f"cell {i}" for i in range(30)]
        cells.var_names = ["Actb", "Gapdh", "Malat1", *cells.var_names[3:]]
    path = write_text(cells, tmp_path / "cells.csv", ",", transposed=transposed)
    open_cells(path, transpose=transpose)
    warnings = [message for message in caplog.messages if "looks transposed" in message]
    if transposed == transpose:
        assert not warnings
    else:
        assert len(warnings) == 1
        assert f"cells.csv looks transposed: its cells are named {', '.join(cells.var_names[:3])}, ... and its features" in warnings[0]
        assert f"(transpose={str(transpose).lower()}). If that is wrong, use transpose={str(not transpose).lower()}." in warnings[0]


# Letters of any script, digits and signs, and names that pandas might misread.
LETTERS = st.characters(codec="utf-8", categories=["L", "N", "P", "S"])
ODD = ["NA", "nan", "1e5", "007", "True", "-1", "#1", "T cell, resting", 'say "A"', "5'", "HLA-DRB1", "a;b", "chr1:5-9"]
DELIMITERS = [(".csv", ","), (".tsv", "\t"), (".txt", "\t"), (".txt", ";"), (".txt", " ")]


@st.composite
def draw_tables(draw: st.DrawFn) -> pd.DataFrame:
    """Draw counts, most of them 0, with names of rows and columns."""
    name = st.text(LETTERS | st.sampled_from(" ,;"), min_size=1, max_size=6).map(str.strip).filter(bool) | st.sampled_from(ODD)
    rows, columns = (draw(st.lists(name, min_size=1, max_size=7, unique=True)) for _ in range(2))
    value = st.sampled_from([0, 0, 0, 1, 2]) | st.integers(0, 10_000)
    values = draw(st.lists(value, min_size=len(rows) * len(columns), max_size=len(rows) * len(columns)))
    return pd.DataFrame(np.reshape(values, (len(rows), len(columns))), index=rows, columns=columns)


@settings(deadline=None, max_examples=100, derandomize=True)
@given(
    table=draw_tables(), delimiter=st.sampled_from(DELIMITERS), packed=st.booleans(), corner=st.booleans(), transpose=st.booleans(),
    chunk_values=st.integers(1, 20),
)  # fmt: skip
@example(
    table=pd.DataFrame({",": [3, 0, 5]}, index=["a", 'b"', "c"]), delimiter=DELIMITERS[0], packed=False, corner=True, transpose=True,
    chunk_values=1,
)  # fmt: skip
def test_text_written_by_pandas_is_read_unchanged(
    tmp_path_factory: pytest.TempPathFactory, table: pd.DataFrame, delimiter: tuple[str, str], packed: bool, corner: bool, transpose: bool,
    chunk_values: int,
) -> None:  # fmt: skip
    extension, separator = delimiter
    written = table.to_csv(sep=separator)
    assert written.startswith(separator)
    content = (written if corner else written[1:]).encode()
    path = write(tmp_path_factory.getbasetemp(), gzip.compress(content) if packed else content, extension + ".gz" * packed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("scalex.formats.text.CHUNK_VALUES", chunk_values)
        cells = read_cells(path, ReadOptions(transpose=transpose))
    expected = table if transpose else table.T
    assert list(cells.obs_names) == list(expected.index)
    assert list(cells.var_names) == list(expected.columns)
    assert cells.X.dtype == np.float32
    np.testing.assert_array_equal(cells.X.toarray(), expected)
