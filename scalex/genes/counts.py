"""Whether values are counts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["find_no_count"]


def find_no_count(values: NDArray[np.number]) -> float | None:
    """Return a value that is no count, since it is negative, fractional or no number; None: all are counts."""
    wrong = values[~((values >= 0) & (values % 1 == 0))]
    return float(wrong[0]) if len(wrong) else None
