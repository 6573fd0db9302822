"""SCALEX: online integration of single-cell data by projecting cells into one common embedding space."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scalex import genes, pl
    from scalex.api import SCALEX, label_transfer
    from scalex.cells import AnnDataSource
    from scalex.data import ScalexDataModule
    from scalex.demo import DemoSource, demo_cells
    from scalex.model.module import ScalexModule
    from scalex.preprocess import AdtRecipe, AsIsRecipe, AtacRecipe, Preprocessor, RnaRecipe
    from scalex.projection.reference import Reference
    from scalex.reference.add_latent import add_latent
    from scalex.training.fit import fit

__version__ = "2.0.0.dev0"

__all__ = [
    "SCALEX",
    "AdtRecipe",
    "AnnDataSource",
    "AsIsRecipe",
    "AtacRecipe",
    "DemoSource",
    "Preprocessor",
    "Reference",
    "RnaRecipe",
    "ScalexDataModule",
    "ScalexModule",
    "add_latent",
    "demo_cells",
    "fit",
    "genes",
    "label_transfer",
    "pl",
]

_HOME = {
    "SCALEX": "api",
    "AdtRecipe": "preprocess",
    "AnnDataSource": "cells",
    "AsIsRecipe": "preprocess",
    "AtacRecipe": "preprocess",
    "DemoSource": "demo",
    "Preprocessor": "preprocess",
    "Reference": "projection.reference",
    "RnaRecipe": "preprocess",
    "ScalexDataModule": "data",
    "ScalexModule": "model.module",
    "add_latent": "reference.add_latent",
    "demo_cells": "demo",
    "fit": "training.fit",
    "label_transfer": "api",
}


def __getattr__(name: str) -> Any:
    # Torch, Lightning and scanpy take seconds to import. A name imports what it needs at its first use.
    if name in ("genes", "pl"):
        return import_module(f"scalex.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'scalex' has no attribute {name!r}. It has: {', '.join(__all__)}")
    return getattr(import_module(f"scalex.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
