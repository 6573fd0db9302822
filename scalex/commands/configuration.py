"""Checking, reading and writing of configurations."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf
from yaml import YAMLError

from scalex.runs.folder import COMPOSED
from scalex.system.atomic_files import atomic_write

__all__ = ["check_complete", "get_folder", "holds_settings", "load_config", "resolve_settings", "save_config", "write_config"]


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
        If the name is empty or contains ``${``.
    """
    name = "" if cfg[setting] is None else str(cfg[setting])
    if not name.strip():
        raise ValueError(f"{setting}= is empty: name a folder ({setting}=. is the current one), or omit it.")
    if "${" in name:
        raise ValueError(
            f"{setting}={name}: the name of a folder cannot contain ${{, which refers to another setting. Choose another name."
        )
    return Path(name)


def resolve_settings(cfg: DictConfig) -> dict[str, Any]:
    """Return all settings as plain values, with interpolations resolved."""
    return cast("dict[str, Any]", OmegaConf.to_container(cfg, resolve=True))


def load_config(path: Path) -> DictConfig:
    """Read a configuration from a file.

    Raises
    ------
    ValueError
        If it is not a configuration.
    """
    try:
        cfg = OmegaConf.load(path)
    except (YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is broken ({str(error).splitlines()[0]}): copy the folder again.") from error
    if not isinstance(cfg, DictConfig):
        raise ValueError(f"{path} is broken (it holds no settings): copy the folder again.")  # noqa: TRY004 -- a file is wrong, not a type
    return cfg


def save_config(cfg: DictConfig, path: Path) -> None:
    """Write a configuration to a file, with unresolved interpolations."""
    OmegaConf.save(cfg, path)


def holds_settings(path: Path, cfg: DictConfig, *, resolve: bool = False) -> bool:
    """Return whether a file holds these settings, apart from the folder of the results. It is without interpolations if `resolve`."""
    if not path.exists():
        return False
    stored, own = (cast("dict[str, Any]", OmegaConf.to_container(one, resolve=resolve)) for one in (load_config(path), cfg))
    return stored | {"output": None} == own | {"output": None}


def write_config(cfg: DictConfig, folder: Path) -> None:
    """Write the configuration twice: with resolved interpolations to ``config.yaml``, and unresolved to resume the run from."""
    # Until both are written, the folder holds no run.
    (folder / COMPOSED).unlink(missing_ok=True)
    for name, resolve in (("config.yaml", True), (COMPOSED, False)):
        with atomic_write(folder / name) as path:
            OmegaConf.save(cfg, path, resolve=resolve)
