"""What settings mean, in a sentence each: from the docstrings of what they are given to, and from the comments of conf/."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

__all__ = ["read_comments", "read_docstring", "read_first_comment"]

SENTENCE = re.compile(r"(?<=[.])\s+(?=[A-Z])")
# A parameter of numpydoc: its name, or several, at the margin. What it means is indented.
PARAMETERS = re.compile(r"(?:Parameters|Attributes)\n-+\n(.*?)(?:\n\n\S[^\n]*\n-+\n|\Z)", re.DOTALL)


def read_docstring(target: Callable[..., Any]) -> dict[str, str]:
    """Return the first sentence about each parameter of a function or class, from its docstring in numpydoc."""
    found = PARAMETERS.search(inspect.cleandoc(target.__doc__ or ""))
    meanings: dict[str, list[str]] = {}
    names: list[str] = []
    for line in found[1].splitlines() if found else []:
        if line and not line.startswith(" "):
            names = [name.strip("* ") for name in line.partition(":")[0].split(",")]
        for name in names:
            meanings.setdefault(name, []).append(line.strip() if line.startswith(" ") else "")
    return {name: _take_sentence(lines) for name, lines in meanings.items()}


def read_comments(path: Path) -> dict[str, str]:
    """Return the comment above each setting of a file of conf/, with the name of its group, as in "growth.encoder_lr"."""
    return {name: _take_sentence(comment) for name, comment in _list_comments(path)}


def read_first_comment(path: Path) -> str:
    """Return the first sentence of a file of conf/, which says what the option is."""
    lines = [line.lstrip("# ") for line in path.read_text().splitlines()[:3] if line.startswith("#")]
    # Hydra reads where the settings go from a first line such as "# @package _global_".
    return _take_sentence([line for line in lines if not line.startswith("@package")][:1])


def _list_comments(path: Path) -> Iterator[tuple[str, list[str]]]:
    comment: list[str] = []
    group = ""
    for line in path.read_text().splitlines():
        if line.lstrip().startswith("#"):
            comment.append(line.lstrip("# "))
        elif found := re.match(r"( *)(\w+):(.*)", line):
            group = group if found[1] else (found[2] if not found[3].strip() else "")
            yield (f"{group}.{found[2]}" if found[1] else found[2]), comment
            comment = []


def _take_sentence(lines: list[str]) -> str:
    text = SENTENCE.split(" ".join(" ".join(lines).split()))[0]
    return text.replace("`", "")
