"""Names of any kind as text in figures and lines of a log."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib.pyplot as plt

__all__ = ["draw_text_as_it_is", "shorten_name", "shorten_names"]

# Letters of a name in a legend. Longer ones would leave no room for the cells.
LONGEST = 24


def shorten_name(name: Any, longest: int = LONGEST) -> str:
    """Return a name as one line of at most `longest` letters, whose middle is left out if it is longer.

    A name that could not be told from nothing, or from what a library writes itself, gets quotes. matplotlib leaves out labels that begin
    with "_", and scanpy writes "NA" for missing values.
    """
    text = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in str(name))
    if len(text) > longest:
        half = (longest - 1) // 2
        text = f"{text[: longest - 1 - half]}…{text[len(text) - half :]}"
    return f'"{text}"' if text != text.strip() or not text or text.startswith("_") or text == "NA" else text


def shorten_names(names: Iterable[Any], longest: int = LONGEST) -> list[str]:
    """Return the text of `shorten_name` for each name, with numbers where names would be the same."""
    shown = [shorten_name(name, longest) for name in names]
    count, number = Counter(shown), Counter[str]()
    for i, text in enumerate(shown):
        if count[text] > 1:
            number[text] += 1
            shown[i] = f"{text} ({number[text]})"
    return shown


@contextmanager
def draw_text_as_it_is() -> Iterator[None]:
    """Draw dollars as dollars, which start a formula otherwise, and a box for each letter that the font lacks, without a warning."""
    # plt.rc_context would undo what the first figure of a notebook sets, so that later figures would not be shown.
    before = plt.rcParams["text.parse_math"]
    plt.rcParams["text.parse_math"] = False
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", r"Glyph .* missing from", UserWarning)
            yield
    finally:
        plt.rcParams["text.parse_math"] = before
