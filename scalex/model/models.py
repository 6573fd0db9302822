"""Models by name. A new one is a file in this package, a line here and a file in ``conf/model``."""

from __future__ import annotations

from pathlib import Path

from scalex.model.base import Model
from scalex.model.load import load_checkpoint
from scalex.model.module import ScalexModule

__all__ = ["MODELS", "load_model"]

# Checkpoints hold a name of this table, and no path to import.
MODELS: dict[str, type[Model]] = {"ScalexModule": ScalexModule}


def load_model(path: str | Path) -> Model:
    """Load a trained model of any class in `MODELS`; see `load_checkpoint`."""
    return load_checkpoint(path, MODELS)
