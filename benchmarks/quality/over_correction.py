"""Over-correction: the share of other types among the neighbours of a cell."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

__all__ = ["over_correction", "wrong_neighbors"]

RARE = 0.02


def wrong_neighbors(latent: NDArray[np.float32], label: NDArray[np.str_], n_neighbors: int = 30) -> NDArray[np.float64]:
    """Return each cell's share of nearest neighbours of another type, scaled so that 0 is the possible minimum and 1 is chance.

    Of k neighbours of a cell of a type with n cells among N, u = max(0, k - (n - 1)) / k must be of another type, and by chance
    c = (N - n) / (N - 1) are. With w of another type, the cell has (w - u) / (c - u).

    Parameters
    ----------
    latent
        (n_cells, n_dimensions); distances are Euclidean.
    label
        (n_cells,) type of each cell.
    n_neighbors
        k. If there are fewer other cells, all of them are used.

    Returns
    -------
    (n_cells,) float64, NaN for the only cell of its type and if there is one type.
    """
    n_cells = len(label)
    k = min(n_neighbors, n_cells - 1)
    _, code, size = np.unique(label, return_inverse=True, return_counts=True)
    # Without an argument, a cell is not its own neighbour.
    neighbor = NearestNeighbors(n_neighbors=k).fit(latent).kneighbors(return_distance=False)
    wrong = (code[neighbor] != code[:, None]).mean(1)
    others = size[code] - 1
    unavoidable = np.maximum(k - others, 0) / k
    chance = (n_cells - 1 - others) / (n_cells - 1)
    beyond = np.full(n_cells, np.nan)
    defined = (others > 0) & (others < n_cells - 1)
    np.divide(wrong - unavoidable, chance - unavoidable, out=beyond, where=defined)
    return beyond


def over_correction(latent: NDArray[np.float32], label: NDArray[np.str_], n_neighbors: int = 30) -> dict[str, float]:
    """Return means of `wrong_neighbors`.

    Parameters
    ----------
    latent, label, n_neighbors
        As for `wrong_neighbors`.

    Returns
    -------
    dict
        "wrong" (mean over cells), "wrong, types" (mean over types), "wrong, rare" and "wrong, rare types" (the same for types with less
        than 2 % of the cells), and "wrong: TYPE" for each type. Cells without a value do not count; a mean of none is NaN.
    """
    beyond = wrong_neighbors(latent, label, n_neighbors)
    types, size = np.unique(label, return_counts=True)
    of_type = {str(one): _mean(beyond[label == one]) for one in types}
    rare = types[size < RARE * len(label)]
    return {
        "wrong": _mean(beyond),
        "wrong, types": _mean(np.array(list(of_type.values()))),
        "wrong, rare": _mean(beyond[np.isin(label, rare)]),
        "wrong, rare types": _mean(np.array([of_type[str(one)] for one in rare])),
        **{f"wrong: {one}": value for one, value in of_type.items()},
    }


def _mean(values: NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
