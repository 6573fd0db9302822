"""Colours and markers of groups of cells."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

__all__ = ["COLORS", "Style", "choose_styles"]

# The first six are of Okabe and Ito (2008). Each further one is the colour, neither pale nor glaring, whose smallest distance to those
# before it is largest: the distance in CIELAB as people see with three kinds of cones (weighted less), and without those for long or
# for middle wavelengths, as simulated by Machado et al. (2009).
COLORS = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#4B3C0F", "#2D2DA5", "#E1004B", "#C3C378",
    "#780069", "#A587FF", "#870F3C", "#F0B4A5", "#1E7878", "#00D2E1", "#874B00", "#5A784B", "#78A53C", "#1E69D2",
)  # fmt: skip
MARKERS = ("o", "^", "s", "D", "v", "P", "X", "*")
# What label transfer calls cells whose type the reference lacks.
UNKNOWN = "unknown"


class Style(NamedTuple):
    """How the cells of a group are drawn.

    Attributes
    ----------
    color
        Hexadecimal colour.
    marker
        Marker of matplotlib.
    """

    color: str
    marker: str


def choose_styles(groups: Iterable[str]) -> dict[str, Style]:
    """Return a style for each group: the 20 colours, then the same colours with other markers. "unknown" is black."""
    names = list(groups)
    n_colors = len(COLORS)
    styles = {name: Style(COLORS[n % n_colors], MARKERS[n // n_colors % len(MARKERS)]) for n, name in enumerate(names)}
    return styles | ({UNKNOWN: Style("#000000", "o")} if UNKNOWN in styles else {})
