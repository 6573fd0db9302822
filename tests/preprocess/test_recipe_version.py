"""Tests that `scalex.preprocess.recipe.VERSION`, which names caches of inputs, is raised whenever inputs change."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from scalex.cells import InMemoryCells
from scalex.preprocess import AdtRecipe, AsIsRecipe, AtacRecipe, Recipe, RnaRecipe
from scalex.preprocess.recipe import VERSION

# If inputs change on purpose, raise VERSION and store the results of `summarize` here.
EXPECTED: dict[int, dict[str, tuple[str, float]]] = {
    1: {
        "rna": ("g0 g2 g4 g9 g10 g15 g17 g19", 4.303616),
        "rna by domain": ("g0 g2 g4 g8 g11 g15 g17 g19", -1.568884),
        "atac": ("g1 g2 g3 g4 g5 g6 g7 g12 g15", -1.051348),
        "atac tfidf": ("g1 g2 g3 g4 g5 g6 g7 g12 g15", 0.3018987),
        "adt": ("g0 g1 g2 g3 g4 g5 g6 g7 g8 g9 g10 g11 g12 g13 g14 g15 g16 g17 g18 g19", 0.9191595),
        "as is": ("g0 g1 g2 g3 g4 g5 g6 g7 g8 g9 g10 g11 g12 g13 g14 g15 g16 g17 g18 g19", 0.8516597),
    }
}
RECIPES: dict[str, Recipe] = {
    "rna": RnaRecipe(min_features=5, n_top_features=8),
    "rna by domain": RnaRecipe(min_features=5, n_top_features=8, scaling="domain", target_sum=100),
    "atac": AtacRecipe(min_features=5, n_top_features=9),
    "atac tfidf": AtacRecipe(min_features=5, n_top_features=9, normalization="tfidf", binarize=True),
    "adt": AdtRecipe(),
    "as is": AsIsRecipe(),
}


def summarize(recipe: Recipe, cells: InMemoryCells) -> tuple[str, float]:
    """Return the names of the inputs, and a sum of all inputs in which each has another weight."""
    preprocessor, rows = recipe.fit(cells)
    inputs = preprocessor.for_features(cells.var.index)(cells.read(rows), cells.domain.codes[rows].astype(np.int64)).toarray()
    weight = np.sin(1 + np.outer(rows, np.ones(inputs.shape[1])) + 30 * np.arange(inputs.shape[1]))
    return " ".join(preprocessor.features), float((inputs * weight).sum())


@pytest.mark.parametrize("name", RECIPES)
def test_inputs_are_those_of_this_version(name: str, make_cells: Callable[..., InMemoryCells]) -> None:
    cell, feature = np.mgrid[:24, :20]
    counts = (cell * 7 + feature * 5 + cell * feature) % 11 * ((cell + feature) % 3 > 0)
    cells = make_cells(counts, [f"d{i % 2}" for i in range(24)])
    names, total = summarize(RECIPES[name], cells)
    assert (names, total) == (EXPECTED[VERSION][name][0], pytest.approx(EXPECTED[VERSION][name][1], rel=1e-4))
