"""UMAP and its search for neighbours, with their compiled code kept on disk."""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numba

__all__ = ["import_umap"]


def import_umap() -> None:
    """Import UMAP so that later processes find what numba compiles for it.

    Neither UMAP nor pynndescent asks numba to keep most of their functions, so that every process compiles them for ten seconds and
    more: pynndescent 0.6 does when it is imported. numba keeps the code beside the libraries, or in the user's cache if that folder is
    not writable, for each version of them and each kind of processor; see `NUMBA_CACHE_DIR`. What it computes is the same. If UMAP
    was imported before, nothing changes.
    """
    if "umap" in sys.modules:
        return
    decorate = numba.njit
    numba.njit = _keep(decorate)
    try:
        with warnings.catch_warnings():
            # It misses Tensorflow, for a method that nothing here uses.
            warnings.simplefilter("ignore", ImportWarning)
            importlib.import_module("umap")
    finally:
        numba.njit = decorate


def _keep(decorate: Callable[..., Any]) -> Callable[..., Any]:
    def njit(*args: Any, **kwargs: Any) -> Any:
        return decorate(*args, **({"cache": True} | kwargs))

    return njit
