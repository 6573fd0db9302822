"""The models of the command line, for notebooks."""

from __future__ import annotations

from typing import Any

from scalex.model.module import ScalexModule
from scalex.system.configs import list_options, read_option
from scalex.system.settings import describe_nearest

__all__ = ["make_model"]


def make_model(name: str, **settings: Any) -> ScalexModule:
    """Return a model of the command line.

    Parameters
    ----------
    name
        "scalex", "scalex_labels", "small" or "paper": ``model=`` of ``scalex train``.
    settings
        Settings of `ScalexModule` that differ from those of the model.

    Raises
    ------
    ValueError
        If there is no such model.
    """
    known = list_options("model")
    if name not in known:
        raise ValueError(f"model={name!r}: there is no such model{describe_nearest(name, known)}")
    return ScalexModule(**{**read_option("model", name), **settings})
