"""Recipes: the options of preprocessing. Fitting a recipe to cells gives a frozen `Preprocessor`."""

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

# Version of the code that computes the model's inputs. Raise it when the inputs change, so that caches of earlier versions are not used.
VERSION = 1


class FittedRecipe(NamedTuple):
    """The frozen preprocessing and the rows (int64, ascending) of the cells to train on."""

    preprocessor: Preprocessor
    rows: NDArray[np.int64]

    def save(self, path: Path | BinaryIO) -> None:
        """Write plain values and tensors."""
        torch.save({"preprocessor": self.preprocessor.to_plain(), "rows": torch.from_numpy(self.rows)}, path)

    @classmethod
    def load(cls, path: Path | BinaryIO) -> Self:
        """Read what `save` wrote."""
        plain = torch.load(path, weights_only=True)
        return cls(Preprocessor.from_plain(plain["preprocessor"]), plain["rows"].numpy())


class Recipe(Protocol):
    """Options of preprocessing."""

    def fit(self, cells: Cells) -> FittedRecipe:
        """Read the cells and fit a preprocessor to them.

        Raises
        ------
        ValueError
            If a value is negative or not finite, or if the filters drop all cells or features.
        """
        ...

    def identity(self) -> str:
        """Return a text of all that the result depends on besides the cells; see `identify`."""
        ...


def identify(recipe: Recipe, **resolved: Any) -> str:
    """Return the name of a recipe, its options and the version of the code as canonical JSON.

    Parameters
    ----------
    recipe
        A dataclass of options.
    **resolved
        Values that replace options, such as the names in a file of features.
    """
    assert is_dataclass(recipe)
    options = {field.name: getattr(recipe, field.name) for field in fields(recipe)} | resolved
    return json.dumps({"recipe": type(recipe).__name__, "version": VERSION, "options": options}, sort_keys=True, default=_list_values)


def _list_values(array: Any) -> Any:
    """Return all values of an array. Its repr abbreviates a long one."""
    return array.tolist()
