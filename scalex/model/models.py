"""The models that a checkpoint may name. A new one is a file beside this, a line here and a file of ``conf/model``."""

from __future__ import annotations

from pathlib import Path

from scalex.model.base import Model
from scalex.model.load import load_checkpoint
from scalex.model.module import ScalexModule

__all__ = ["MODELS", "load_model"]

# A checkpoint holds a name and never a path to import.
MODELS: dict[str, type[Model]] = {"ScalexModule": ScalexModule}


def load_model(path: str | Path) -> Model:
    """A trained model of any class in `MODELS` from its checkpoint alone; see `load_checkpoint`."""
    return load_checkpoint(path, MODELS)
