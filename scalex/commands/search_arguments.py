"""Arguments of a search on the command line: how ``tune.space`` is given to Hydra, and the commands that a search shows."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig

from scalex.system.overrides import format_for_shell, format_value
from scalex.system.program import name_command

__all__ = ["choose_space", "drop_search", "list_overrides", "restore_space", "show_search", "show_training"]

OF_SEARCH = re.compile(r"[+~]*tune(?:[.=@].*)?", re.DOTALL)
# What `choose_space` makes of an argument.
ADDED = re.compile(r"\+\+tune\.space=\{([^:]+): (.*)\}", re.DOTALL)


def choose_space(arguments: Iterable[str]) -> list[str]:
    """Return arguments with which Hydra takes ``tune.space=...`` as the whole space, and ``tune.space.NAME=...`` as a part of it.

    To Hydra, the first would add to the space, and the second would name a group of it.
    """
    return [one for argument in arguments for one in _choose_space(argument)]


def _choose_space(argument: str) -> Iterator[str]:
    name, _, value = argument.partition("=")
    if name == "tune.space":
        yield from ("~tune.space", f"+{argument}")
    elif name.startswith("tune.space."):
        # Several values without brackets are a choice, too.
        value = f"[{value}]" if "," in value and value[0] not in "[{'\"" else value
        setting = name.removeprefix("tune.space.")
        # Hydra cannot replace a range by a list at once.
        yield from dict.fromkeys((f"++tune.space={{{setting}: null}}", f"++tune.space={{{setting}: {value}}}"))
    else:
        yield argument


def restore_space(arguments: Iterable[str]) -> list[str]:
    """Return the arguments from which `choose_space` has made these."""
    restored: list[str] = []
    for argument in arguments:
        found = ADDED.fullmatch(argument)
        if found and restored and restored[-1] == f"tune.space.{found[1]}=null":
            restored.pop()
        if argument != "~tune.space":
            restored.append(f"tune.space.{found[1]}={found[2]}" if found else argument.replace("+tune.space=", "tune.space=", 1))
    return restored


def drop_search(arguments: Iterable[str]) -> list[str]:
    """Return the arguments, or overrides, that do not belong to a search."""
    return [one for one in arguments if not OF_SEARCH.fullmatch(one)]


def list_overrides(settings: Mapping[str, Any]) -> list[str]:
    """Return the overrides that give settings their values."""
    return [f"{name}={format_value(value)}" for name, value in settings.items()]


def show_search(folder: Path) -> str:
    """Return the command that continues the search of this process, for a shell."""
    command = name_command("tune" if HydraConfig.get().job.config_name == "tune" else "train")
    return _show(command, restore_space(sys.argv[1:]), format_for_shell("output", folder))


def show_training(settings: Mapping[str, Any]) -> str:
    """Return the command that trains with the settings of this process and those of a trial, for a shell."""
    return _show(name_command("train"), drop_search(sys.argv[1:]), *map(shlex.quote, list_overrides(settings)))


def _show(command: str, arguments: Iterable[str], *more: str) -> str:
    return " ".join([command, *(shlex.quote(one) for one in arguments if not one.startswith("output=")), *more])
