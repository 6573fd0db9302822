from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from tables import assert_same_table, hold_text_in_objects

from scalex.h5ad.common_columns import conform, find_common_types


def make_table(index: str, **columns: Any) -> pd.DataFrame:
    n = len(next(iter(columns.values())))
    return pd.DataFrame(columns, index=[f"{index}{i}" for i in range(n)])


def join(*tables: pd.DataFrame) -> pd.DataFrame:
    types = find_common_types(tables)
    parts = [conform(t, types) for t in tables]
    for part, t in zip(parts, tables, strict=True):
        assert list(part.index) == list(t.index)
        assert {name: column.dtype for name, column in part.items()} == types
    return pd.concat(parts)


A = make_table(
    "a",
    kind=pd.Categorical(["x", "y", None], ["y", "x"]),
    order=pd.Categorical(["lo", "hi", "lo"], ["lo", "hi"], ordered=True),
    count=np.array([1, 2, 3], np.int32),
    share=np.array([0.5, np.nan, 1], np.float32),
    flag=[True, False, True],
    maybe=pd.array([True, None, False], dtype="boolean"),
    whole=pd.array([1, None, 3], dtype="Int64"),
    text=["p", "q", "r"],
)
B = make_table(
    "b",
    kind=pd.Categorical(["z", "x"]),
    order=pd.Categorical(["hi", "lo"], ["lo", "hi"], ordered=True),
    count=np.array([10, 20], np.int64),
    share=np.array([2.0, 3.0]),
    flag=[False, False],
    maybe=pd.array([None, True], dtype="boolean"),
    whole=pd.array([None, 5], dtype="Int64"),
    text=["s", "t"],
)


def test_common_columns_are_joined_as_by_pandas() -> None:
    found, expected = map(hold_text_in_objects, (join(A, B), pd.concat([A, B])))
    assert list(found) == list(expected)
    for name in ("order", "count", "flag", "maybe", "whole", "text"):
        pd.testing.assert_series_equal(found[name], expected[name], check_index_type=False)
    np.testing.assert_array_equal(found["share"], expected["share"])
    assert found["kind"].tolist()[:2] + found["kind"].tolist()[3:] == ["x", "y", "z", "x"]
    assert found["kind"].isna().tolist() == [False, False, True, False, False]
    assert list(found["kind"].cat.categories) == ["y", "x", "z"]


@pytest.mark.parametrize("name", list(A))
def test_values_of_an_absent_column_are_missing(name: str) -> None:
    for first, second in ((A[[name]], B.drop(columns=list(B))), (A.drop(columns=list(A)), B[[name]])):
        found, expected = join(first, second)[name], hold_text_in_objects(pd.concat([first, second]))[name]
        if name == "text":
            expected = expected.fillna("")
        assert list(found.isna()) == list(expected.isna())
        known = found.notna().to_numpy()
        assert found[known].tolist() == expected[known].tolist()
    if name in ("kind", "order"):
        assert isinstance(found.dtype, pd.CategoricalDtype)
    assert (found.dtype == object) == (name == "text")


def test_a_single_table_is_unchanged() -> None:
    assert_same_table(join(A), A)


def test_columns_keep_the_order_of_their_first_occurrence() -> None:
    first, second = make_table("a", one=[1], two=[2]), make_table("b", three=[3], two=[2], zero=[0])
    assert list(join(first, second)) == ["one", "two", "three", "zero"]


def test_columns_without_a_common_type_become_text() -> None:
    found = join(make_table("a", c=[1, 2]), make_table("b", c=["x", "y"]), make_table("c", c=pd.Categorical(["k", None])))
    assert found["c"].tolist() == ["1", "2", "x", "y", "k", ""]


def test_categories_of_numbers_are_joined_by_their_text() -> None:
    found = join(make_table("a", c=pd.Categorical([1, 2])), make_table("b", c=pd.Categorical(["2", "3"])))
    assert found["c"].tolist() == ["1", "2", "2", "3"]
    assert list(found["c"].cat.categories) == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("nullable", "plain"),
    [
        (pd.array([True, None], dtype="boolean"), np.array([False, True])),
        (pd.array([1, None], dtype="Int64"), np.array([3, 4])),
    ],
)
def test_a_nullable_column_is_joined_with_a_plain_column(nullable: Any, plain: Any) -> None:
    """This occurs after two projections, the second onto the result of the first: only the first "outside" has missing values."""
    for order in (1, -1):
        tables = [make_table("a", c=nullable), make_table("b", c=plain)][::order]
        found, expected = join(*tables)["c"], pd.concat(tables)["c"]
        assert found.isna().tolist() == expected.isna().tolist()
        assert found.dropna().tolist() == expected.dropna().tolist()


def test_joined_tables_can_be_written(tmp_path: Any) -> None:
    import anndata as ad

    parts = [A, B, make_table("c", new=[1.5], text=["u"]), make_table("d", kind=["late"])]
    found = join(*parts)
    ad.AnnData(obs=found).write_h5ad(tmp_path / "cells.h5ad")
    read = ad.read_h5ad(tmp_path / "cells.h5ad").obs
    assert read["text"].astype(str).tolist() == found["text"].tolist()
    assert list(read.index) == list(found.index)


def test_categories_have_one_order_in_all_tables() -> None:
    tables = [pd.DataFrame({"a": pd.Categorical(["x"], categories=order)}) for order in (["x", "y"], ["y", "x"])]
    types = find_common_types(tables)
    assert len({tuple(conform(table, types)["a"].cat.categories) for table in tables}) == 1


def test_the_index_has_no_name() -> None:
    table = pd.DataFrame({"a": [1]}, index=pd.Index(["c"], name="a"))
    assert conform(table, find_common_types([table])).index.name is None
