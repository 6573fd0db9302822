from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import pytest

from scalex.system.figure_text import draw_text_as_it_is, shorten_name, shorten_names


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("T cell", "T cell"), ("$x_{$", "$x_{$"), ("a\nb\tc", r"a\nb\tc"), ("雪 🧬", "雪 🧬"), ("", '""'), (" ", '" "'), ("_x", '"_x"'),
        ("NA", '"NA"'), (True, "True"), ("x" * 24, "x" * 24), ("a" * 100 + "b" * 100, "a" * 12 + "…" + "b" * 11),
    ],
)  # fmt: skip
def test_a_name_is_one_short_line(name: object, text: str) -> None:
    assert shorten_name(name) == text


def test_short_names_remain_distinct() -> None:
    assert shorten_names(["x" * 30, "x" * 31, "a\nb", r"a\nb", "c"]) == [
        f"{'x' * 12}…{'x' * 11} (1)", f"{'x' * 12}…{'x' * 11} (2)", r"a\nb (1)", r"a\nb (2)", "c",
    ]  # fmt: skip


def test_text_is_drawn_as_it_is(tmp_path: Path) -> None:
    with draw_text_as_it_is():
        figure, axis = plt.subplots()
        axis.set_title("$x_{$ 🧬")
        for ending in ("pdf", "png"):
            figure.savefig(tmp_path / f"figure.{ending}")
    assert plt.rcParams["text.parse_math"]
    plt.close(figure)
    figure = plt.figure()
    figure.suptitle("🧬")
    with pytest.raises(UserWarning, match="missing from"):
        figure.savefig(tmp_path / "figure.png")
    plt.close(figure)


def test_what_the_first_figure_sets_remains() -> None:
    """The first figure of a notebook turns on that figures are shown after each cell."""
    try:
        with draw_text_as_it_is():
            plt.ion()
        assert plt.isinteractive()
        assert plt.rcParams["text.parse_math"]
    finally:
        plt.ioff()
