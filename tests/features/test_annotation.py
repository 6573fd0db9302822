from __future__ import annotations

import datetime
import decimal
import logging
import warnings
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from tables import assert_same_table

from scalex.features.annotation import make_writable, rename_column, use_categories

# Each column, and its values as they are read back.
WRITTEN_AS_THEY_ARE: dict[str, Any] = {
    "text": pd.Series(["a", "b"], dtype=object),
    "whole": pd.Series([1, 2]),
    "fraction": pd.Series([1.5, np.nan]),
    "flag": pd.Series([True, False]),
    "nullable whole": pd.Series([1, None], dtype="Int8"),
    "nullable flag": pd.Series([True, None], dtype="boolean"),
    "categories": pd.Series(pd.Categorical(["b", None], categories=["b", "a"])),
    "ordered": pd.Series(pd.Categorical(["b", "a"], categories=["b", "a"], ordered=True)),
    "categories of numbers": pd.Series(pd.Categorical([2, 1])),
}
CONVERTED: dict[str, tuple[Any, list[Any]]] = {
    "nullable text": (pd.Series(["a", None], dtype="string"), ["a", None]),
    "nullable text of all": (pd.Series(["a", "b"], dtype="string"), ["a", "b"]),
    "missing text": (pd.Series(["a", np.nan], dtype=object), ["a", None]),
    "categories of nullable text": (pd.Series(pd.Categorical(pd.array(["a", None], dtype="string"))), ["a", None]),
    "mixed": (pd.Series([1, "a"], dtype=object), ["1", "a"]),
    "mixed categories": (pd.Series(pd.Categorical([1, "a"])), ["1", "a"]),
    "the same text twice": (pd.Series(pd.Categorical([1, "1"])), ["1", "1"]),
    "objects of flags": (pd.Series([True, None], dtype=object), [True, None]),
    "objects of numbers": (pd.Series([1, None], dtype=object), [1, None]),
    "objects of fractions": (pd.Series([decimal.Decimal("1.5"), decimal.Decimal("2.5")]), [1.5, 2.5]),
    "huge": (pd.Series([1, 2**70], dtype=object), ["1", str(2**70)]),
    "nullable fraction": (pd.Series([1.5, None], dtype="Float32"), [1.5, None]),
    "sparse": (pd.Series(pd.arrays.SparseArray([0, 1])), [0, 1]),
    "date": (pd.Series(pd.to_datetime(["2024-01-31", None])), ["2024-01-31 00:00:00", None]),
    "date of Python": (pd.Series([datetime.date(2024, 1, 31)] * 2), ["2024-01-31"] * 2),
    "duration": (pd.Series(pd.to_timedelta([1, 2], "D")), ["1 days 00:00:00", "2 days 00:00:00"]),
    "period": (pd.Series(pd.period_range("2023", "2024", freq="Y")), ["2023", "2024"]),
    "interval": (pd.Series(pd.cut([1, 2], [0, 1, 2])), ["(0, 1]", "(1, 2]"]),
    "lists": (pd.Series([[1, 2], []]), ["[1, 2]", "[]"]),
    "complex": (pd.Series([1 + 2j, 0j]), ["(1+2j)", "0j"]),
    "bytes": (pd.Series([b"a", b"\xff"]), ["a", "\N{REPLACEMENT CHARACTER}"]),
    "empty": (pd.Series([None, None], dtype=object), [None, None]),
    "zero byte": (pd.Series(["a\0b", "c"], dtype=object), ["ab", "c"]),
    "half of a pair": (pd.Series(["a\ud800", "c"], dtype=object), ["a?", "c"]),
    "categories with a zero byte": (pd.Series(pd.Categorical(["a\0b", "c"])), ["ab", "c"]),
}


def write_and_read(table: pd.DataFrame, folder: Path) -> pd.DataFrame:
    """Write a table by anndata itself, and return what it reads back."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        ad.AnnData(np.ones((len(table), 1), np.float32), obs=table).write_h5ad(folder / "written.h5ad")
    return ad.read_h5ad(folder / "written.h5ad").obs


def list_values(column: pd.Series) -> list[Any]:
    return [None if missing else value for value, missing in zip(column, column.isna(), strict=True)]


@pytest.mark.parametrize("name", WRITTEN_AS_THEY_ARE)
def test_columns_that_can_be_written_do_not_change(name: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    table = WRITTEN_AS_THEY_ARE[name].set_axis(["x", "y"]).to_frame(name)
    assert_same_table(make_writable(table, "obs"), table)
    assert caplog.text == ""


@pytest.mark.parametrize("name", CONVERTED)
def test_other_columns_are_converted_to_what_anndata_writes_and_reads(name: str, tmp_path: Path) -> None:
    column, expected = CONVERTED[name]
    table = column.set_axis(["x", "y"]).to_frame(name)
    before = table.copy()
    written = make_writable(table, "obs")
    assert list_values(written[name]) == expected
    assert list_values(write_and_read(written, tmp_path)[name]) == expected
    assert_same_table(table, before)


def test_one_line_of_the_log_names_what_became_text(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    make_writable(pd.DataFrame({"age": [1, "35-40"], "day": pd.to_datetime(["2024", "2025"]), "id": [1, 2]}), "obs of a")
    assert caplog.messages == ["obs of a: columns that .h5ad cannot hold were converted: age (text), day (text)"]


def test_names_become_distinct_text_without_slashes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    table = pd.DataFrame([[1, 2, 3, 4, 5, 6, 7]] * 2, index=["x", "y"], columns=["a", 0, ("t", 1), "n/m", "_index", "a", ""])
    table.iloc[0, 5] = 9
    written = make_writable(table, "obs of a")
    assert list(written) == ["a-1", "0", "('t', 1)", "n|m", "_index-column", "a-2", "unnamed"]
    assert "obs of a: columns were renamed, since .h5ad needs distinct text without slashes: 'a' -> a-1, 0 -> 0" in caplog.text
    assert_same_table(write_and_read(written, tmp_path), written)
    assert rename_column("n/m") == "n|m"


def test_numbers_of_repeated_names_avoid_other_names() -> None:
    table = pd.DataFrame([[1, 2, 3]], index=["x"], columns=["a", "a-1", "a"])
    assert list(make_writable(table, "obs")) == ["a-2", "a-1", "a-3"]


def test_copies_of_a_column_are_dropped() -> None:
    table = pd.DataFrame([[1, 1, 2]], index=["x"], columns=["a", "a", "b"])
    assert_same_table(make_writable(table, "obs"), pd.DataFrame({"a": [1], "b": [2]}, index=["x"]))


@pytest.mark.parametrize(("name", "kept"), [("cell", "cell"), ("a", None), ("_index", None), (0, None), ("n/m", None)])
def test_the_name_of_the_index_stays_unless_a_column_has_it(name: Any, kept: str | None, tmp_path: Path) -> None:
    table = pd.DataFrame({"a": [1, 2]}, index=pd.Index(["x", "y"], name=name))
    written = make_writable(table, "obs")
    assert written.index.name == kept
    assert_same_table(write_and_read(written, tmp_path), written)


def test_objects_become_categories_or_booleans_where_tables_are_joined() -> None:
    table = pd.DataFrame({"flag": [True, None], "text": ["a", None], "mixed": [1, "a"], "number": [1, 2]}, dtype=object)
    joined = use_categories(table.astype({"number": int}))
    assert joined.dtypes.astype(str).to_dict() == {"flag": "boolean", "text": "category", "mixed": "category", "number": "int64"}
