"""Over-correction: the share of other types among the neighbours of a cell."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from scalex.metrics import wrong_neighbors

__all__ = ["over_correction"]

RARE = 0.02


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
    beyond = wrong_neighbors(latent, label, n_neighbors=n_neighbors)
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
