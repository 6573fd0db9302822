"""Settings as they are typed: in Hydra's grammar, and in a shell."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

__all__ = ["as_override", "as_typed"]

# Paths and names that Hydra takes as they are. Anything else is quoted: a number, for one, would not stay a text.
PLAIN = re.compile(r"(?!(?:true|false|null|inf|nan)\Z)(?:\.{0,2}/)?[a-z_][a-z0-9_./-]*", re.IGNORECASE | re.ASCII)


def as_override(name: str, value: str | Path) -> str:
    """Write a setting so that Hydra reads the very text that is given; one argument of a command.

    Parameters
    ----------
    name
        Name of the setting.
    value
        Any text but "???", by which Hydra means that a setting is not given.

    Notes
    -----
    Of the backslashes in a quoted value, those before a quote or the end count twice; of those before ``${``, which would begin the name
    of another setting, OmegaConf asks the same (https://hydra.cc/docs/advanced/override_grammar/basic/#quoted-values).
    """
    text = re.sub(r"(\\*)\$\{", r"\1\1\\${", str(value))
    if PLAIN.fullmatch(text):
        return f"{name}={text}"
    quote = '"' if '"' not in text else "'"
    inner = re.sub(rf"(\\*)({quote}|\Z)", lambda run: 2 * run[1] + (f"\\{quote}" if run[2] else ""), text)
    return f"{name}={quote}{inner}{quote}"


def as_typed(name: str, value: str | Path) -> str:
    """The same as it is typed after a command in a shell."""
    return shlex.quote(as_override(name, value))
