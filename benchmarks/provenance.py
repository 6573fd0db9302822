"""The code, the libraries and the day of a measurement."""

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
    """Return what figures depend on besides the machine: commit, versions of libraries, number of threads, date.

    Call this at the start of a measurement, since the commit may have changed at its end.

    Parameters
    ----------
    root
        The checkout.
    tiny
        Whether the figures are those of ``--tiny``, which mean nothing.
    """
    versions = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    about = f"{_name_commit(root)}, {versions}, {torch.get_num_threads()} thread(s), {date.today().isoformat()}"
    return f"{about}; --tiny: these figures mean nothing" if tiny else about


@cache
def source_hash() -> str:
    """Return a hash of the source files of scalex, which identifies the code of a stored training."""
    folder = Path(scalex.__file__).parent
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        digest.update(str(file.relative_to(folder)).encode() + file.read_bytes())
    return digest.hexdigest()[:8]


def _name_commit(root: Path) -> str:
    """Return the name of the commit for a table; files that git ignores are not changes."""
    # A folder that is not a checkout may be in one of another project.
    if not (root / ".git").exists():
        return "unknown commit"
    try:
        name = _run_git(root, "rev-parse", "--short", "HEAD").strip()
        changed = _run_git(root, "status", "--porcelain")
    except (OSError, subprocess.CalledProcessError):
        return "unknown commit"
    return f"commit {name} with changes" if changed else f"commit {name}"


def _run_git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True).stdout
