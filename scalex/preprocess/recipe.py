"""Recipes: the options of preprocessing. Fitting one to cells gives a frozen `Preprocessor`."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray

from scalex.cells import Cells
from scalex.preprocess.preprocessor import Preprocessor

__all__ = ["VERSION", "FittedRecipe", "Recipe", "identify"]

# Of the code that makes the model's inputs: raised when it gives other inputs, so that caches of earlier versions are not used.
VERSION = 1


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
        """Text that says all that the result depends on besides the cells; see `identify`."""
        ...


def identify(recipe: Recipe, **resolved: Any) -> str:
    """The name of a recipe with all its options as canonical JSON, and the version of the code.

    Parameters
    ----------
    recipe
        A dataclass of options.
    **resolved
        What options stand for, such as the names in a file of features.
    """
    assert is_dataclass(recipe)
    options = {field.name: getattr(recipe, field.name) for field in fields(recipe)} | resolved
    return json.dumps({"recipe": type(recipe).__name__, "version": VERSION, "options": options}, sort_keys=True, default=_list_values)


def _list_values(array: Any) -> Any:
    """What NumPy and pandas hold, whole: their own text of a long array leaves most of it out."""
    return array.tolist()
