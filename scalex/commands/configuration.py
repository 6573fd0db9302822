"""Configurations as files and as plain values."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from scalex.runs.folder import COMPOSED
from scalex.system.atomic_files import atomic_write

__all__ = ["check_complete", "load_config", "plain_settings", "run_folder", "save_config", "write_config"]


def check_complete(cfg: DictConfig) -> None:
    """See that each setting without a default is given.

    Raises
    ------
    ValueError
        Naming those that are not.
    """
    names = sorted(OmegaConf.missing_keys(cfg))
    if names:
        raise ValueError(f"Not given: {', '.join(names)}. Say it on the command line: {names[0]}=...")


def run_folder(cfg: DictConfig, setting: str) -> Path:
    """The folder that a setting names.

    Raises
    ------
    ValueError
        If the name would begin that of another setting.
    """
    name = str(cfg[setting])
    if "${" in name:
        raise ValueError(
            f"{setting}={name}: the name of a folder cannot hold ${{, which begins the name of another setting. Choose another."
        )
    return Path(name)


def plain_settings(cfg: DictConfig) -> dict[str, Any]:
    """All settings as plain values, with references between them resolved."""
    return cast("dict[str, Any]", OmegaConf.to_container(cfg, resolve=True))


def load_config(path: Path) -> DictConfig:
    """Read a configuration from a file."""
    return cast("DictConfig", OmegaConf.load(path))


def save_config(cfg: DictConfig, path: Path) -> None:
    """Write a configuration to a file, with its references between settings as they are."""
    OmegaConf.save(cfg, path)


def write_config(cfg: DictConfig, folder: Path) -> None:
    """Write ``config.yaml`` with references between settings resolved, for people, and as they are, for a resumed run."""
    for name, resolve in (("config.yaml", True), (COMPOSED, False)):
        with atomic_write(folder / name) as path:
            OmegaConf.save(cfg, path, resolve=resolve)
