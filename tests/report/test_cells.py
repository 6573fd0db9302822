from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import scalex
from scalex.report.cells import choose_columns, make_maps


def read_data(text: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text.partition('id="cells">')[2].partition("</script>")[0])
    return found


def decode(coordinate: dict[str, Any]) -> np.ndarray:
    """Decode as the page does, with big-endian machines left aside."""
    low, high = coordinate["range"]
    return low + np.frombuffer(base64.b64decode(coordinate["values"]), "<u2") / 65535 * (high - low)


def test_the_page_holds_each_cell_with_its_group_and_its_value() -> None:
    rng = np.random.default_rng(0)
    points = rng.normal(size=(300, 2)).astype(np.float32)
    group = pd.Series(pd.Categorical(rng.choice(["b", "a"], 300)))
    value = pd.Series(rng.normal(size=300))
    data = read_data(make_maps(points, {"group": group, "value": value}))
    shown = np.stack([decode(data["x"]), decode(data["y"])], axis=1)
    # In random order.
    row = np.array([np.abs(points - one).sum(1).argmin() for one in shown])
    assert sorted(row) == list(range(300))
    assert not np.array_equal(row, np.arange(300))
    groups, values = data["columns"]
    code = np.frombuffer(base64.b64decode(groups["values"]), "<u2")
    assert np.array(groups["names"])[code].tolist() == group.iloc[row].tolist()
    assert groups["counts"] == [int((group == name).sum()) for name in groups["names"]]
    low, high = values["range"]
    decoded = low + np.frombuffer(base64.b64decode(values["values"]), "u1") / 255 * (high - low)
    np.testing.assert_allclose(decoded, value.iloc[row].clip(low, high), atol=(high - low) / 500)


def test_a_name_cannot_end_the_element_that_holds_it() -> None:
    group = pd.Series(pd.Categorical(["</script><script>alert(1)</script>", "b"]))
    text = make_maps(np.zeros((2, 2)), {"group": group})
    assert text.count("</script>") == 2
    assert "alert(1)" in read_data(text)["columns"][0]["names"][0] or "…" in read_data(text)["columns"][0]["names"][0]


def test_missing_groups_are_named_and_missing_values_are_low() -> None:
    columns = {"group": pd.Series(["a", None, "a"]), "value": pd.Series([1.0, np.nan, 2.0])}
    groups, values = read_data(make_maps(np.zeros((3, 2)), columns))["columns"]
    assert groups["names"] == ["(none)", "a"]
    assert values["range"] == pytest.approx([1, 2], abs=0.01)


def test_a_sample_is_drawn_of_many_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scalex.report.cells.MAX_POINTS", 10)
    text = make_maps(np.random.default_rng(0).normal(size=(50, 2)), {"value": pd.Series(np.arange(50.0))}, behind=np.zeros((30, 2)))
    assert "A random sample of 10 of 50 cells" in text
    assert len(decode(read_data(text)["x"])) == len(decode(read_data(text)["behind"]["x"])) == 10


def test_far_cells_do_not_widen_the_first_view() -> None:
    points = np.concatenate([np.random.default_rng(0).normal(size=(5000, 2)), [[900.0, 900.0]]])
    low, high = read_data(make_maps(points, {"value": pd.Series(np.zeros(5001))}))["x"]["view"]
    assert high - low < 10


def test_columns_that_can_be_drawn_come_with_the_named_ones_first() -> None:
    obs = pd.DataFrame({
        "name": [f"cell {n}" for n in range(200)], "score": np.arange(200.0), "leiden": pd.Categorical(["0", "1"] * 100),
        "flag": [True, False] * 100, "empty": np.full(200, np.nan), "domain": ["a", "b"] * 100,
    })  # fmt: skip
    assert list(choose_columns(obs, ("domain", "leiden", "absent"))) == ["domain", "leiden", "score", "flag"]
    many = pd.DataFrame({f"score{n}": np.arange(3.0) for n in range(60)})
    assert list(choose_columns(many, ("score59",)))[::39] == ["score59", "score38"]


def test_groups_keep_their_order() -> None:
    names = pd.Categorical(["10", "2", None, "1", "2"], ["1", "2", "10", "11"])
    text = make_maps(np.zeros((5, 2)), {"leiden": pd.Series(names), "other": pd.Series(["b", "a", "b", None, "a"])})
    columns = json.loads(re.search(r'id="cells">(.*?)</script>', text)[1])["columns"]  # type: ignore[index]
    assert [column["names"] for column in columns] == [["1", "2", "10", "(none)"], ["(none)", "a", "b"]]


def test_the_page_needs_no_network() -> None:
    for path in ("pages/page.html", "pages/page.css", "pages/page.js", "report/cells.js"):
        assert not re.search(r"https?://|@import|src=", (Path(scalex.__file__).parent / path).read_text())
