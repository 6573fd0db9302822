from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from html import unescape
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
import yaml
from PIL import Image

from scalex.runs.failed_runs import forget_failed_runs, note_failed_run
from scalex.runs.folder import COMPOSED, FINISHED
from scalex.runs.sweep_page import PAGE, write_sweep_page

Add = Callable[..., None]


@pytest.fixture
def add(tmp_path: Path) -> Add:
    """Return a function that creates a finished run, whose settings are given by their full names."""

    def make(name: str, scores: dict[str, float], settings: dict[str, Any], *, size: tuple[int, int] | None = None) -> None:
        folder = tmp_path / name
        folder.mkdir()
        (folder / COMPOSED).write_text(yaml.safe_dump({"output": str(folder)} | settings))
        (folder / "metrics.json").write_text(json.dumps(scores))
        (folder / FINISHED).touch()
        if size is not None:
            Image.new("RGB", size, (len(name) * 20, 0, 0)).save(folder / "umap.png")

    return make


class Page(HTMLParser):
    """A page: its elements, addresses, tables and plots."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        text = (folder / PAGE).read_text(encoding="utf-8")
        self.open: list[str] = []
        self.images: list[str] = []
        self.addresses: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.headings: list[str] = []
        self.text = text
        self.feed(text)
        self.close()
        assert self.open == []
        found = re.findall(r'<div class="chart"[^>]*><script type="application/json">(.*?)</script>', text)
        self.plots = [(plot["data"], plot["layout"]) for plot in map(json.loads, found)]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)
        self.addresses += [str(values[name]) for name in ("src", "href") if name in values and not str(values[name]).startswith("#")]
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        elif tag == "h2":
            self.headings.append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data
        elif "h2" in self.open:
            self.headings[-1] += data


def read_page(folder: Path, *scores: str) -> Page:
    """Write the page of a sweep, check what holds for every page, and return it."""
    write_sweep_page(folder, scores or ["total"])
    page = Page(folder)
    # It needs nothing else.
    assert all(address.startswith("data:image/png;base64,") for address in page.addresses)
    assert "plotly.js v" in page.text
    for data, layout in page.plots:
        # Plotly in Python knows all properties of the JavaScript.
        go.Figure(data, layout)
    return page


def test_the_page_shows_settings_scores_and_the_umaps_of_the_best_and_the_worst_run(add: Add, tmp_path: Path) -> None:
    for n in range(4):
        settings = {"model": {"lr": 10.0 ** -(n + 1), "n_latent": 5 * n}, "preprocess": {"scaling": ["global", "domain"][n % 2]}}
        add(str(n), {"total": [0.5, 0.9, 0.1, 0.6][n], "ari": n / 10}, settings, size=(3000, 1000))
    page = read_page(tmp_path)
    assert "4 finished runs. Run 1 has the best total: 0.9000." in page.text
    assert page.headings == ["Best and worst run", "Settings and scores", "total against each setting", "Runs"]
    table = page.tables[0]
    assert table[0] == ["run", "model.lr", "model.n_latent", "preprocess.scaling", "total", "ari"]
    assert [row[0] for row in table[1:]] == ["1", "3", "0", "2"]
    assert table[1] == ["1", "0.01", "5", "domain", "0.9", "0.1"]
    captions = re.findall(r"<figcaption><b>(.*?)</b><br>(.*?)</figcaption>", page.text)
    assert captions[0] == ("Best: run 1, total 0.9000", "model.lr=0.01, model.n_latent=5, preprocess.scaling=domain")
    assert captions[1][0] == "Worst: run 2, total 0.1000"
    for address in page.addresses:
        with Image.open(BytesIO(base64.b64decode(address.partition(",")[2]))) as image:
            assert image.size == (1400, 467)


def test_each_line_of_the_coordinates_and_each_point_is_a_run(add: Add, tmp_path: Path) -> None:
    for n in range(3):
        add(str(n), {"total": n / 10, "kept": n / 5}, {"a": [None, True, "x"][n], "b": 10.0 ** (2 * n), "c": n, "d": [[1, 2], [3], [4]][n]})
    plots = read_page(tmp_path).plots
    dimensions = {one["label"]: one for one in plots[0][0][0]["dimensions"]}
    assert list(dimensions) == ["a", "b", "c", "d", "total", "kept"]
    assert [dimensions["a"]["ticktext"][n] for n in dimensions["a"]["values"]] == ["null", "true", "x"]
    assert [dimensions["d"]["ticktext"][n] for n in dimensions["d"]["values"]] == ["[1, 2]", "[3]", "[4]"]
    # A wide range is shown by its logarithms.
    assert dimensions["b"]["values"] == pytest.approx([0, 2, 4])
    assert (dimensions["b"]["ticktext"][0], dimensions["b"]["ticktext"][-1]) == ("1", "1e+04")
    assert dimensions["total"]["values"] == [0, 0.1, 0.2]
    points = {layout["xaxis"]["title"]["text"]: (data[0], layout["xaxis"]["type"]) for data, layout in plots[1:]}
    assert {name: kind for name, (_, kind) in points.items()} == {"a": "category", "b": "log", "c": "linear", "d": "category"}
    assert points["c"][0]["x"] == [0, 1, 2]
    assert points["c"][0]["y"] == [0, 0.1, 0.2]
    assert points["c"][0]["text"] == ["run 0", "run 1", "run 2"]


def test_a_single_run_and_runs_without_a_umap_have_a_page(add: Add, tmp_path: Path) -> None:
    add("0", {"total": 0.5}, {"a": 1}, size=(30, 20))
    page = read_page(tmp_path)
    assert "1 finished run. Run 0 has the best total" in page.text
    assert page.headings == ["Best and worst run", "Runs"]
    assert len(page.images or page.addresses) == 1
    assert page.plots == []
    (tmp_path / "0" / "umap.png").unlink()
    assert read_page(tmp_path).headings == ["Runs"]


def test_a_score_that_runs_lack_is_empty(add: Add, tmp_path: Path) -> None:
    add("0", {"total": 0.5}, {"a": 1})
    add("1", {"total": 0.4, "ari": 0.3}, {"a": 2})
    page = read_page(tmp_path)
    assert page.tables[0][1] == ["0", "1", "0.5", ""]
    # No run has it: the page has no ranking.
    assert read_page(tmp_path, "nmi").headings == ["Runs"]


def test_two_scores_are_shown_against_each_other_with_the_front(add: Add, tmp_path: Path) -> None:
    for n, (ari, kept) in enumerate([(0.1, 0.9), (0.5, 0.5), (0.4, 0.4), (0.9, 0.1)]):
        add(str(n), {"total": 0.5, "ari": ari, "kept": kept}, {"a": n})
    page = read_page(tmp_path, "ari", "kept")
    assert page.headings[0] == "ari and kept"
    line, points = page.plots[0][0]
    assert sorted(line["x"]) == [0.1, 0.5, 0.9]
    assert len(points["x"]) == 4


def test_seeds_are_averaged(add: Add, tmp_path: Path) -> None:
    for n in range(4):
        add(str(n), {"total": [0.1, 0.3, 0.5, 0.6][n]}, {"seed": n % 2, "model": {"n_latent": [10, 20][n // 2]}})
    page = read_page(tmp_path)
    assert page.headings[-2:] == ["Means over the seeds", "Runs"]
    assert page.tables[0] == [
        ["model.n_latent", "runs", "total", "total, standard deviation"], ["20", "2", "0.55", "0.07071"], ["10", "2", "0.2", "0.1414"],
    ]  # fmt: skip


def test_failed_runs_are_listed_with_their_message(add: Add, tmp_path: Path) -> None:
    note_failed_run(tmp_path, "1", 'ValueError: a <b> & "c"</script>')
    page = read_page(tmp_path)
    assert "0 finished runs, 1 failed." in page.text
    assert page.tables == [[["run", "message"], ["1", 'ValueError: a <b> & "c"</script>']]]
    note_failed_run(tmp_path, "10", "KeyError: x")
    note_failed_run(tmp_path, "2", "OSError: y")
    # This one has been resumed.
    add("1", {"total": 0.3}, {"a": 1})
    page = read_page(tmp_path)
    assert page.tables[-1] == [["run", "message"], ["2", "OSError: y"], ["10", "KeyError: x"]]
    forget_failed_runs(tmp_path)
    assert "Failed runs" not in read_page(tmp_path).headings


def test_without_runs_there_is_no_page(tmp_path: Path) -> None:
    write_sweep_page(tmp_path, ["total"])
    assert list(tmp_path.iterdir()) == []


def test_settings_that_look_like_markup_are_text(add: Add, tmp_path: Path) -> None:
    for n, value in enumerate(["</script><script>alert(1)</script>", "a'\"&<b>"]):
        add(str(n), {"total": n / 2}, {"path": value})
    page = read_page(tmp_path)
    assert [row[1] for row in page.tables[0][1:]] == ["a'\"&<b>", "</script><script>alert(1)</script>"]
    assert "<script>alert" not in page.text
    assert "alert(1)" in unescape(page.text)


def test_many_runs_have_a_page(add: Add, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    for n in range(200):
        add(str(n), {"total": float(rng.random())}, {f"s{i}": float(rng.random()) for i in range(20)})
    page = read_page(tmp_path)
    assert len(page.tables[0]) == 201
    # The coordinates show as many settings as can be read.
    assert len(page.plots[0][0][0]["dimensions"]) == 14
    assert len(page.plots) == 21
    totals = [float(row[-1]) for row in page.tables[0][1:]]
    assert totals == sorted(totals, reverse=True)
