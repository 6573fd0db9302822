"""Settings quoted for Hydra and for a shell."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

__all__ = ["format_override", "format_for_shell"]

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
