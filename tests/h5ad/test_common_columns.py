from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from scalex.h5ad.common_columns import common_types, conform


def table(index: str, **columns: Any) -> pd.DataFrame:
    n = len(next(iter(columns.values())))
    return pd.DataFrame(columns, index=[f"{index}{i}" for i in range(n)])


def together(*tables: pd.DataFrame) -> pd.DataFrame:
    types = common_types(tables)
    parts = [conform(t, types) for t in tables]
    for part, t in zip(parts, tables, strict=True):
        assert list(part.index) == list(t.index)
        assert {name: column.dtype for name, column in part.items()} == types
    return pd.concat(parts)


A = table(
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
B = table(
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


def test_what_both_have_is_joined_as_pandas_does() -> None:
    found, expected = together(A, B), pd.concat([A, B])
    assert list(found) == list(expected)
    for name in ("order", "count", "flag", "maybe", "whole", "text"):
        pd.testing.assert_series_equal(found[name], expected[name])
    np.testing.assert_array_equal(found["share"], expected["share"])
    assert found["kind"].tolist()[:2] + found["kind"].tolist()[3:] == ["x", "y", "z", "x"]
    assert found["kind"].isna().tolist() == [False, False, True, False, False]
    assert list(found["kind"].cat.categories) == ["y", "x", "z"]


@pytest.mark.parametrize("name", list(A))
def test_what_a_table_lacks_is_missing(name: str) -> None:
    for first, second in ((A[[name]], B.drop(columns=list(B))), (A.drop(columns=list(A)), B[[name]])):
        found, expected = together(first, second)[name], pd.concat([first, second])[name]
        if name == "text":
            expected = expected.fillna("")
        assert list(found.isna()) == list(expected.isna())
        known = found.notna().to_numpy()
        assert found[known].tolist() == expected[known].tolist()
    if name in ("kind", "order"):
        assert isinstance(found.dtype, pd.CategoricalDtype)
    assert (found.dtype == object) == (name == "text")


def test_a_table_alone_stays_as_it_is() -> None:
    pd.testing.assert_frame_equal(together(A), A)


def test_columns_come_in_the_order_in_which_they_occur() -> None:
    first, second = table("a", one=[1], two=[2]), table("b", three=[3], two=[2], zero=[0])
    assert list(together(first, second)) == ["one", "two", "three", "zero"]


def test_what_has_no_common_type_becomes_text() -> None:
    found = together(table("a", c=[1, 2]), table("b", c=["x", "y"]), table("c", c=pd.Categorical(["k", None])))
    assert found["c"].tolist() == ["1", "2", "x", "y", "k", ""]


def test_categories_of_numbers_are_joined_by_their_text() -> None:
    found = together(table("a", c=pd.Categorical([1, 2])), table("b", c=pd.Categorical(["2", "3"])))
    assert found["c"].tolist() == ["1", "2", "2", "3"]
    assert list(found["c"].cat.categories) == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("nullable", "plain"),
    [
        (pd.array([True, None], dtype="boolean"), np.array([False, True])),
        (pd.array([1, None], dtype="Int64"), np.array([3, 4])),
    ],
)
def test_a_column_with_missing_values_goes_with_one_without(nullable: Any, plain: Any) -> None:
    """As after two projections, one onto the result of the other: "outside" of the first lacks values, that of the second does not."""
    for order in (1, -1):
        tables = [table("a", c=nullable), table("b", c=plain)][::order]
        found, expected = together(*tables)["c"], pd.concat(tables)["c"]
        assert found.isna().tolist() == expected.isna().tolist()
        assert found.dropna().tolist() == expected.dropna().tolist()


def test_any_join_can_be_written(tmp_path: Any) -> None:
    import anndata as ad

    parts = [A, B, table("c", new=[1.5], text=["u"]), table("d", kind=["late"])]
    found = together(*parts)
    ad.AnnData(obs=found).write_h5ad(tmp_path / "cells.h5ad")
    read = ad.read_h5ad(tmp_path / "cells.h5ad").obs
    assert read["text"].astype(str).tolist() == found["text"].tolist()
    assert list(read.index) == list(found.index)


def test_columns_keep_one_order_of_categories() -> None:
    tables = [pd.DataFrame({"a": pd.Categorical(["x"], categories=order)}) for order in (["x", "y"], ["y", "x"])]
    types = common_types(tables)
    assert len({tuple(conform(table, types)["a"].cat.categories) for table in tables}) == 1
