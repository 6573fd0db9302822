"""What a trained model knows besides its weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from scalex.preprocess import Preprocessor

__all__ = ["FORMAT", "TrainedOn"]

FORMAT = 2


@dataclass(frozen=True)
class TrainedOn:
    """Features, domains and frozen preprocessing of a trained model, and where it comes from.

    Attributes
    ----------
    preprocessor
        What was done to the cells, and is done to any later one.
    n_cells
        Number of training cells.
    version
        Version of scalex that trained it.
    """

    preprocessor: Preprocessor
    n_cells: int
    version: str

    @property
    def n_features(self) -> int:
        """Number of the model's inputs."""
        return len(self.preprocessor.features)

    @property
    def domains(self) -> tuple[str, ...]:
        """Names of the domains the decoder knows, in the order of its rows."""
        return self.preprocessor.domains

    def check_continued_by(self, other: Self) -> None:
        """See that a training with this can go on with another one.

        Raises
        ------
        ValueError
            If its features or domains are others.
        """
        for what, then, now in (
            ("features", self.preprocessor.features, other.preprocessor.features),
            ("domains", self.domains, other.domains),
        ):
            if list(then) != list(now):
                raise ValueError(
                    f"The {what} are not those this run began with ({len(then)} then, {len(now)} now): its cells or settings have changed. "
                    "Begin a new run."
                )

    def to_plain(self) -> dict[str, Any]:
        """As plain values and tensors, for a checkpoint."""
        return {
            "format": FORMAT,
            "preprocessor": self.preprocessor.to_plain(),
            "n_cells": self.n_cells,
            "version": self.version,
        }

    @staticmethod
    def check_format(plain: dict[str, Any]) -> None:
        """See that plain values were written in the format that this version reads.

        Raises
        ------
        ValueError
            If they were not.
        """
        if plain["format"] != FORMAT:
            raise ValueError(
                f"The model was saved in format {plain['format']} by scalex {plain['version']}; this version reads format {FORMAT}. "
                "Install a version of scalex that knows it."
            )

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Self:
        """The inverse of `to_plain`; raises as `check_format`."""
        cls.check_format(plain)
        return cls(Preprocessor.from_plain(plain["preprocessor"]), plain["n_cells"], plain["version"])
