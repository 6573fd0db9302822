"""Errors of Hydra and OmegaConf about the command line, in the words of this project."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from scalex.system.configs import CONF, list_options
from scalex.system.program import name_command
from scalex.system.settings import describe_nearest

__all__ = ["explain"]


def explain(error: HydraException | OmegaConfBaseException, command: str) -> str:
    """Return one line for an error of Hydra, with what to do.

    Parameters
    ----------
    error
        The error.
    command
        The name of the command's configuration.
    """
    if isinstance(error, OmegaConfBaseException):
        return f"{error.full_key}: {str(error).splitlines()[0]}. ${{}} refers to the value of another setting."
    if isinstance(error, MissingConfigException) and error.missing_cfg_file is not None:
        group, _, option = error.missing_cfg_file.rpartition("/")
        options = list_options(group)
        return f"{group}={option}: there is no such option{describe_nearest(option, options)}"
    text = str(error)
    if isinstance(error, OverrideParseException):
        return (
            f"{error.override}: this is no setting as NAME=VALUE. Quote a value with spaces, commas, brackets or = twice: "
            "'dataset.path=\"my cells, 1.h5ad\"'."
        )
    if isinstance(error, ConfigCompositionException) and (match := re.match(r"Could not (?:override|delete).*? '([^']*)'", text)):
        name = match[1].partition("=")[0]
        return f"{name}: there is no such setting{_suggest(name, command)}"
    if match := re.match(r"Ambiguous value for argument '(.*)'\n", text):
        name, _, value = match[1].partition("=")
        more = (
            f"search among the values: 'tune.space.{name}=[{value}]'"
            if command == "tune"
            else "sweep over the values: -m before the settings"
        )
        return (
            f"{match[1]}: several values with commas. For a list: '{name}=[{value}]'; for a value with commas, quoted twice: "
            f"'{name}=\"{value}\"'; for a {more}."
        )
    return " ".join(text.split())


def _suggest(name: str, command: str) -> str:
    """Return text that suggests the option with which a command has a setting, or the setting that is most similar to a name."""
    GlobalHydra.instance().clear()
    choice = name.partition(".")[0]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        known = _compose_names(command, [])
        options = list_options(choice)
        having = [f"{choice}={option}" for option in options if name in _compose_names(command, [f"{choice}={option}"])]
    if having:
        return f" without {' or '.join(having)}: give that, too."
    group = name.rpartition(".")[0]
    # A misspelt name in a group that exists, or a misspelt group.
    beside = [one for one in known if one.rpartition(".")[0] == group]
    text = describe_nearest(name, beside or known)
    # The names of all settings would fill the screen.
    return text if beside or "did you mean" in text else f". {name_command(command)} --help lists the settings."


def _compose_names(command: str, overrides: list[str]) -> list[str]:
    """Return the names of the settings that a command has with some options."""
    try:
        return list(_list_names(OmegaConf.to_container(compose(command, overrides), resolve=False)))
    except ConfigCompositionException:
        # The command has no such group.
        return []


def _list_names(settings: Any, prefix: str = "") -> Iterator[str]:
    for name, value in settings.items():
        if not name.startswith("_"):
            yield f"{prefix}{name}"
            if isinstance(value, Mapping):
                yield from _list_names(value, f"{prefix}{name}.")
