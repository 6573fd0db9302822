"""Configurations, as files and as plain values."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from scalex.runs.folder import COMPOSED
from scalex.system.atomic_files import atomic_write

__all__ = ["check_complete", "load_config", "resolve_settings", "get_folder", "save_config", "write_config"]


def check_complete(cfg: DictConfig) -> None:
    """Check that each setting without a default has a value.

    Raises
    ------
    ValueError
        Naming the settings without one.
    """
    names = sorted(OmegaConf.missing_keys(cfg))
    if names:
        raise ValueError(f"Missing settings: {', '.join(names)}. Give them on the command line: {names[0]}=...")


def get_folder(cfg: DictConfig, setting: str) -> Path:
    """Return the folder that a setting names.

    Raises
    ------
    ValueError
        If the name contains a reference to another setting.
    """
    name = str(cfg[setting])
    if "${" in name:
        raise ValueError(
            f"{setting}={name}: the name of a folder cannot contain ${{, which starts a reference to another setting. Choose another."
        )
    return Path(name)


def resolve_settings(cfg: DictConfig) -> dict[str, Any]:
    """Return all settings as plain values, with references between them resolved."""
    return cast("dict[str, Any]", OmegaConf.to_container(cfg, resolve=True))


def load_config(path: Path) -> DictConfig:
    """Read a configuration from a file."""
    return cast("DictConfig", OmegaConf.load(path))


def save_config(cfg: DictConfig, path: Path) -> None:
    """Write a configuration to a file, with references between settings."""
    OmegaConf.save(cfg, path)


def write_config(cfg: DictConfig, folder: Path) -> None:
    """Write ``config.yaml`` for people, with references resolved, and the configuration with references for a resumed run."""
    for name, resolve in (("config.yaml", True), (COMPOSED, False)):
        with atomic_write(folder / name) as path:
            OmegaConf.save(cfg, path, resolve=resolve)
