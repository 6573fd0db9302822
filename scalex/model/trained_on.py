"""Features, domains and preprocessing of a trained model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from scalex.preprocess import Preprocessor

__all__ = ["FORMAT", "TrainedOn"]

FORMAT = 2


@dataclass(frozen=True)
class TrainedOn:
    """Features, domains and frozen preprocessing of a trained model, and its origin.

    Attributes
    ----------
    preprocessor
        The preprocessing of the training cells and of any later cell.
    n_cells
        Number of training cells.
    version
        Version of scalex that trained the model.
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
        """Names of the decoder's domains, in the order of its rows."""
        return self.preprocessor.domains

    def check_continued_by(self, other: Self) -> None:
        """Check that a training can be resumed with `other`.

        Raises
        ------
        ValueError
            If its features or domains differ.
        """
        for what, then, now in (
            ("features", self.preprocessor.features, other.preprocessor.features),
            ("domains", self.domains, other.domains),
        ):
            if list(then) != list(now):
                raise ValueError(
                    f"The {what} differ from those of the run's start ({len(then)} then, {len(now)} now): its cells or settings have "
                    "changed. Start a new run."
                )

    def to_plain(self) -> dict[str, Any]:
        """Return plain values and tensors for a checkpoint."""
        return {
            "format": FORMAT,
            "preprocessor": self.preprocessor.to_plain(),
            "n_cells": self.n_cells,
            "version": self.version,
        }

    @staticmethod
    def check_format(plain: dict[str, Any]) -> None:
        """Check that this version reads the format of the plain values.

        Raises
        ------
        ValueError
            If it does not.
        """
        if plain["format"] != FORMAT:
            raise ValueError(
                f"The model was saved in format {plain['format']} by scalex {plain['version']}; this version reads format {FORMAT}. "
                "Install a version of scalex that knows it."
            )

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Self:
        """Load the result of `to_plain`; raises as `check_format`."""
        cls.check_format(plain)
        return cls(Preprocessor.from_plain(plain["preprocessor"]), plain["n_cells"], plain["version"])
