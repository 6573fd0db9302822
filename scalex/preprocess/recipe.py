"""Recipes: the options of preprocessing. Fitting one to cells gives a frozen `Preprocessor`."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray

from scalex.cells import Cells
from scalex.preprocess.preprocessor import Preprocessor

__all__ = ["FittedRecipe", "Recipe"]


class FittedRecipe(NamedTuple):
    """The frozen preprocessing and the rows (int64, ascending) of the cells to train on."""

    preprocessor: Preprocessor
    rows: NDArray[np.int64]

    def save(self, path: Path | BinaryIO) -> None:
        """Write it as plain values."""
        torch.save({"preprocessor": self.preprocessor.to_plain(), "rows": torch.from_numpy(self.rows)}, path)

    @classmethod
    def load(cls, path: Path | BinaryIO) -> Self:
        """The inverse of `save`."""
        plain = torch.load(path, weights_only=True)
        return cls(Preprocessor.from_plain(plain["preprocessor"]), plain["rows"].numpy())


class Recipe(Protocol):
    """Options of preprocessing."""

    def fit(self, cells: Cells) -> FittedRecipe:
        """Read the cells once and fix everything that preprocessing needs.

        Raises
        ------
        ValueError
            Where a value is not finite or negative, or where no cell or no feature is left.
        """
        ...

    def identity(self) -> str:
        """Text that says all that the result depends on besides the cells."""
        ...
