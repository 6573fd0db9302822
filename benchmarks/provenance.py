"""Of which code figures are, with which libraries, and of which day."""

from __future__ import annotations

import hashlib
import subprocess
from datetime import date
from functools import cache
from importlib.metadata import version
from pathlib import Path

import torch

import scalex

__all__ = ["ROOT", "provenance", "source_hash"]

ROOT = Path(__file__).resolve().parents[1]
LIBRARIES = ("torch", "lightning", "numpy")


def provenance(root: Path = ROOT, *, tiny: bool = False) -> str:
    """What figures depend on besides the machine: commit, versions of libraries, number of threads, date.

    Ask at the beginning of a measurement: the commit may be another one at its end.

    Parameters
    ----------
    root
        The checkout.
    tiny
        The figures are those of ``--tiny``, which mean nothing.
    """
    versions = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    about = f"{_commit(root)}, {versions}, {torch.get_num_threads()} thread(s), {date.today().isoformat()}"
    return f"{about}; --tiny: these figures mean nothing" if tiny else about


@cache
def source_hash() -> str:
    """Of the source files of scalex: what has been trained and kept is of this code."""
    folder = Path(scalex.__file__).parent
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        digest.update(str(file.relative_to(folder)).encode() + file.read_bytes())
    return digest.hexdigest()[:8]


def _commit(root: Path) -> str:
    """As a table names it; files that git ignores are no changes."""
    # A folder that is no checkout may lie in one of something else.
    if not (root / ".git").exists():
        return "unknown commit"
    try:
        name = _git(root, "rev-parse", "--short", "HEAD").strip()
        changed = _git(root, "status", "--porcelain")
    except (OSError, subprocess.CalledProcessError):
        return "unknown commit"
    return f"commit {name} with changes" if changed else f"commit {name}"


def _git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True).stdout
