"""Settings as Hydra and a shell take them, and their full names."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["flatten", "format_for_shell", "format_override", "format_value"]

# Paths and names that Hydra reads as text without quotes. Anything else is quoted: Hydra would read "1" as a number.
PLAIN = re.compile(r"(?!(?:true|false|null|inf|nan)\Z)(?:\.{0,2}/)?[a-z_][a-z0-9_./-]*", re.IGNORECASE | re.ASCII)


def format_override(name: str, value: str | Path) -> str:
    """Return the override that gives a setting exactly this text, as one argument of a command.

    Parameters
    ----------
    name
        Name of the setting.
    value
        Any text except "???", which marks a missing value in Hydra.

    Notes
    -----
    Hydra requires backslashes before a quote or at the end of a quoted value to be doubled
    (https://hydra.cc/docs/advanced/override_grammar/basic/#quoted-values). OmegaConf requires the same before ``${``, which starts an
    interpolation.
    """
    text = re.sub(r"(\\*)\$\{", r"\1\1\\${", str(value))
    if PLAIN.fullmatch(text):
        return f"{name}={text}"
    quote = '"' if '"' not in text else "'"
    inner = re.sub(rf"(\\*)({quote}|\Z)", lambda run: 2 * run[1] + (f"\\{quote}" if run[2] else ""), text)
    return f"{name}={quote}{inner}{quote}"


def format_for_shell(name: str, value: str | Path) -> str:
    """Return the override of `format_override`, quoted for a shell."""
    return shlex.quote(format_override(name, value))


def format_value(value: Any) -> str:
    """Return a plain value as it is written after ``NAME=``: a number, text, true, false, null, or a list or mapping of them."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{name}: {format_value(one)}' for name, one in value.items())}}}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(format_value, value))}]"
    return format_override("", value).removeprefix("=")


def flatten(config: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings as one dict with dotted names."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
