"""Entries of folders, and matrices in the folders below."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

__all__ = ["find_below", "is_hidden", "list_entries", "prefer_filtered"]

# The folder of the files that macOS puts into a .zip beside those of the user.
MACOS_FOLDER = "__MACOSX"
# Cell Ranger puts its results into this folder, beside thousands of intermediate files.
RESULTS = "outs"
# Levels and folders that are searched. The longest known: outs/per_sample_outs/A/count/sample_filtered_feature_bc_matrix.
MAX_LEVELS, MAX_FOLDERS = 6, 1000
# Parts of the names of folders with all droplets, and with those that hold cells.
RAW, FILTERED = r"(?:sample_)?(?:raw|unfiltered)", r"(?:sample_)?filtered"
SAMPLES, MULTI = "per_sample_outs", "multi"


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is not of the user: .DS_Store, ._matrix.mtx and others of macOS."""
    return name.startswith(".") or name == MACOS_FOLDER


def list_entries(folder: Path) -> list[Path]:
    """Return the files and folders in a folder, in alphabetical order, without hidden ones."""
    return sorted(entry for entry in folder.iterdir() if not is_hidden(entry.name))


def find_below(folder: Path, is_wanted: Callable[[Path], bool]) -> list[Path]:
    """Return the folders below a folder that are wanted, without searching below these."""
    found: list[Path] = []
    level, n_searched = [folder], 0
    for _ in range(MAX_LEVELS):
        subfolders = [entry for parent in level for entry in _list_subfolders(parent)][: MAX_FOLDERS - n_searched]
        n_searched += len(subfolders)
        found += [entry for entry in subfolders if is_wanted(entry)]
        level = [entry for entry in subfolders if entry not in found and not entry.is_symlink()]
    return found


def _list_subfolders(folder: Path) -> list[Path]:
    results = folder / RESULTS
    return [results] if results.is_dir() else [entry for entry in list_entries(folder) if entry.is_dir()]


def prefer_filtered(found: Sequence[Path], top: Path) -> list[Path]:
    """Return the folders below `top` without those of all droplets, if the folder of those droplets that hold cells is among them."""
    parts = {folder: folder.relative_to(top).parts for folder in found}
    filtered = {_remove(FILTERED, own) for own in parts.values() if _remove(FILTERED, own) != own}
    kept = [folder for folder, own in parts.items() if _remove(RAW, own) == own or _remove(RAW, own) not in filtered]
    # Cell Ranger multi: all samples together, before they were told apart.
    has_samples = any(SAMPLES in parts[folder] for folder in kept)
    return [folder for folder in kept if not (has_samples and MULTI in parts[folder])]


def _remove(pattern: str, parts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(re.sub(rf"(^|_){pattern}(?=_|$)", r"\1", part) for part in parts)
