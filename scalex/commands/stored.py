"""Stored settings of a run, which somebody else may have written: what they may start and where they may write."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any, cast

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, ListConfig, OmegaConf

from scalex.commands.configuration import resolve_settings
from scalex.runs.folder import COMPOSED
from scalex.system.configs import CONF

__all__ = ["TRACKING", "check_stored", "resolve_others"]

TARGET = re.compile(r"_target_:\s*([\w.]+)")
# Interpolations that conf/ uses: other settings, the time and Hydra's settings. Those of OmegaConf also read the environment.
OWN_INTERPOLATION = re.compile(r"\$\{(?:(?:now|hydra|oc\.select):[^${}]*|[^:${}]*)\}")
# An odd number of backslashes makes the text after them no interpolation.
ESCAPED = re.compile(r"(?<!\\)(?:\\\\)*\\\$\{")
# Settings of objects that write, and names of settings that say where.
WRITERS = ("callbacks", "epoch_table", "logger", "trainer")
# Where trackers write: the run folder, or that of the sweep.
TRACKING = ("${output}", "${output}/..")
# What stands for these folders while the places are checked.
HERE = "<here>"
PLACE = re.compile(r"(?:dir|dirpath|folder|location|path|uri)$")


def resolve_others(cfg: DictConfig) -> None:
    """Replace interpolations that conf/ does not use, such as those of environment variables, by their present values."""
    _resolve_others(cfg, OmegaConf.to_container(cfg, resolve=False))


def check_stored(cfg: DictConfig, folder: Path, allowed: Collection[str]) -> None:
    """Check that stored settings start only code that conf/ names, read no environment variables, and write only to their folder.

    Parameters
    ----------
    cfg
        The settings, with ``output`` as it is now.
    folder
        The run folder.
    allowed
        Other code, as the values of ``_target_``, and other places that are allowed.

    Raises
    ------
    ValueError
        If not. The message names the setting.
    """
    raw = cast("dict[str, Any]", OmegaConf.to_container(cfg, resolve=False))
    for name, value in _list_texts(raw):
        if _has_other_interpolation(value):
            raise ValueError(f"{folder / COMPOSED}: {name}={value} asks for more than other settings and the time. Write its value there.")
    targets = _list_known_targets()
    for name, value in _list_texts(resolve_settings(cfg)):
        if name.endswith("_target_") and value not in targets and value not in allowed:
            raise ValueError(
                f"{folder / COMPOSED}: {name} starts code of {value}, which no file of conf/ names. If you trust it, add allow=[{value}]."
            )
    resolved = dict(_list_texts(resolve_settings(OmegaConf.create({**raw, "output": HERE, "tracking": HERE}))))
    for name, value in _list_texts({part: raw[part] for part in WRITERS if part in raw}):
        # Another setting may be part of the name of a place, too.
        text = resolved.get(name, value)
        leaves = text.startswith(("/", "~")) or ".." in text
        if (leaves or (PLACE.search(name) and HERE not in text)) and value not in allowed:
            raise ValueError(f"{folder / COMPOSED}: {name}={value} is outside of the run folder. If you trust it, add allow=[{value}].")
    if raw.get("tracking", TRACKING[0]) not in (*TRACKING, *allowed):
        raise ValueError(
            f"{folder / COMPOSED}: tracking={raw['tracking']} is outside of the run folder. If you trust it, add allow=[{raw['tracking']}]."
        )
    for path in (*folder.iterdir(), *(folder / "checkpoint").glob("*")):
        if path.is_symlink():
            raise ValueError(f"{path} is a link, and a resumed run writes only inside its folder. Remove it.")


def _resolve_others(cfg: DictConfig | ListConfig, raw: Any) -> None:
    for key, value in raw.items() if isinstance(raw, dict) else enumerate(raw):
        if isinstance(value, dict | list):
            _resolve_others(cfg[key], value)
        elif isinstance(value, str) and _has_other_interpolation(value):
            # Reading resolves.
            cfg[key] = cfg[key]


def _has_other_interpolation(text: str) -> bool:
    return "${" in OWN_INTERPOLATION.sub("", ESCAPED.sub("", text))


def _list_texts(settings: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Yield the name and value of each setting that is text."""
    if isinstance(settings, str):
        yield name, settings
    elif isinstance(settings, dict | list):
        for key, value in settings.items() if isinstance(settings, dict) else enumerate(settings):
            yield from _list_texts(value, f"{name}.{key}" if name else str(key))


def _list_known_targets() -> set[str]:
    """Return the code that the files of conf/, and of folders that the command line adds to it, name."""
    sources = HydraConfig.get().runtime.config_sources if HydraConfig.initialized() else []
    folders = {CONF, *(Path(source.path) for source in sources if source.schema == "file")}
    return {target for folder in folders for path in folder.rglob("*.yaml") for target in TARGET.findall(path.read_text())}
