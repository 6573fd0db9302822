"""Wrong neighbours: cells of other types among the nearest cells, where the types are known."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from scalex.metrics.neighbors import find_nearest

__all__ = ["mixed_types", "wrong_neighbors"]


def wrong_neighbors(
    latent: NDArray[np.float32], label: ArrayLike, *, n_neighbors: int = 30, nearest: NDArray[np.int64] | None = None
) -> NDArray[np.float64]:
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
    nearest
        The result of `find_nearest` for at least as many neighbours, if it is known.

    Returns
    -------
    (n_cells,) float64, NaN for the only cell of its type, if there is one type, and if all other cells are neighbours.
    """
    code, size, near = _find_types(latent, label, n_neighbors, nearest)
    n_cells, k = near.shape
    others = size[code] - 1
    unavoidable = np.maximum(k - others, 0) / k
    chance = (n_cells - 1 - others) / (n_cells - 1)
    beyond = np.full(n_cells, np.nan)
    defined = (others > 0) & (others < n_cells - 1) & (k < n_cells - 1)
    np.divide((near != code[:, None]).mean(1) - unavoidable, chance - unavoidable, out=beyond, where=defined)
    return beyond


def mixed_types(latent: NDArray[np.float32], label: ArrayLike, *, n_neighbors: int = 30) -> pd.DataFrame:
    """Return how far the cells of each type lie among other types, and among which one most.

    Parameters
    ----------
    latent, label, n_neighbors
        As for `wrong_neighbors`. At least two types.

    Returns
    -------
    pd.DataFrame
        A row for each type, the most mixed one first: "wrong", the mean of `wrong_neighbors`, and "among", the other type that most of
        the wrong neighbours are of. Types for which "wrong" is not defined are left out.
    """
    types = np.unique(np.asarray(label))
    nearest = find_nearest(latent, n_neighbors)
    code, _, near = _find_types(latent, label, n_neighbors, nearest)
    pairs = np.bincount((code[:, None] * len(types) + near).ravel(), minlength=len(types) ** 2).reshape(len(types), -1)
    np.fill_diagonal(pairs, -1)
    wrong = pd.Series(wrong_neighbors(latent, label, n_neighbors=n_neighbors, nearest=nearest)).groupby(types[code]).mean()
    table = pd.DataFrame({"wrong": wrong, "among": pd.Series(types[pairs.argmax(1)], index=types)})
    return table.dropna(subset="wrong").sort_values("wrong", ascending=False, kind="stable")


def _find_types(
    latent: NDArray[np.float32], label: ArrayLike, n_neighbors: int, nearest: NDArray[np.int64] | None
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return the code of each cell's type, the number of cells of each type, and the codes of each cell's neighbours."""
    _, code, size = np.unique(np.asarray(label), return_inverse=True, return_counts=True)
    near = code[(find_nearest(latent, n_neighbors) if nearest is None else nearest)[:, :n_neighbors]]
    return code, size, near
