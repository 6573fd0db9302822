"""Commands without Hydra: NAME=VALUE for the parameters of a function, and one line for an error of the user."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from typing import Any

import yaml

from scalex.commands.errors import describe_error
from scalex.system.settings import check_values, describe_nearest

__all__ = ["run_plain"]


def run_plain(command: str, function: Callable[..., Any], arguments: Sequence[str], help_text: str) -> None:
    """Call a function with the settings among the arguments, or show the help.

    Parameters
    ----------
    command
        What the user typed, for messages.
    function
        Its keyword parameters are the settings. Those without a default are needed. Values of parameters of type str are text; others are
        read as YAML, like those of other commands.
    arguments
        Settings as NAME=VALUE, or ``--help``.
    help_text
        What ``--help`` shows.

    Raises
    ------
    SystemExit
        For an error of the user, with one line.
    """
    if {"--help", "-h"} & set(arguments):
        sys.stdout.write(help_text)
        return
    try:
        function(**check_values(function, _read_settings(command, function, arguments)))
    except ImportError as error:
        sys.exit(str(error))
    except Exception as error:
        message = describe_error(error)
        if message is None:
            error.add_note("This is a defect of SCALEX. Please report it with these lines.")
            raise
        sys.exit(message)


def _read_settings(command: str, function: Callable[..., Any], arguments: Sequence[str]) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters
    settings: dict[str, Any] = {}
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not equals:
            raise ValueError(f"{argument}: this is no setting as NAME=VALUE. {command} --help lists them.")
        if name not in parameters:
            raise ValueError(f"{name}: there is no such setting{describe_nearest(name, parameters)}")
        kind = str(parameters[name].annotation)
        # Text stays as it is, a glob too.
        is_text = kind == "str" or (kind.startswith("str | ") and value != "null" and not value.startswith("["))
        settings[name] = value if is_text else _read_value(name, value)
    needed = [name for name, one in parameters.items() if one.default is inspect.Parameter.empty]
    if missing := [name for name in needed if settings.get(name) in (None, "")]:
        raise ValueError(f"Missing settings: {', '.join(f'{name}=' for name in missing)}. {command} --help shows how.")
    return settings


def _read_value(name: str, value: str) -> Any:
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ValueError(f"{name}={value}: this cannot be read. A list is typed as [a,b].") from error
