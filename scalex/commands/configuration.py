"""Checking, reading and writing of configurations."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from scalex.runs.folder import COMPOSED
from scalex.system.atomic_files import atomic_write

__all__ = ["check_complete", "get_folder", "load_config", "resolve_settings", "save_config", "write_config"]


def check_complete(cfg: DictConfig) -> None:
    """Check that all settings without a default are given.

    Raises
    ------
    ValueError
        If some are missing. The message names them.
    """
    names = sorted(OmegaConf.missing_keys(cfg))
    if names:
        raise ValueError(f"Missing settings: {', '.join(names)}. Set them on the command line: {names[0]}=...")


def get_folder(cfg: DictConfig, setting: str) -> Path:
    """Return the folder that a setting names.

    Raises
    ------
    ValueError
        If the name contains ``${``.
    """
    name = str(cfg[setting])
    if "${" in name:
        raise ValueError(
            f"{setting}={name}: the name of a folder cannot contain ${{, which refers to another setting. Choose another name."
        )
    return Path(name)


def resolve_settings(cfg: DictConfig) -> dict[str, Any]:
    """Return all settings as plain values, with interpolations resolved."""
    return cast("dict[str, Any]", OmegaConf.to_container(cfg, resolve=True))


def load_config(path: Path) -> DictConfig:
    """Read a configuration from a file."""
    return cast("DictConfig", OmegaConf.load(path))


def save_config(cfg: DictConfig, path: Path) -> None:
    """Write a configuration to a file, with unresolved interpolations."""
    OmegaConf.save(cfg, path)


def write_config(cfg: DictConfig, folder: Path) -> None:
    """Write the configuration twice: with resolved interpolations to ``config.yaml``, and unresolved to resume the run from."""
    for name, resolve in (("config.yaml", True), (COMPOSED, False)):
        with atomic_write(folder / name) as path:
            OmegaConf.save(cfg, path, resolve=resolve)
