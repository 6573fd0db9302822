"""Where cells are: paths, globs and names, as they are given."""

from __future__ import annotations

import re
from collections.abc import Sequence
from glob import glob
from pathlib import Path

__all__ = ["inside_h5mu", "find_sources", "name_of_source"]

# Names without a path are looked up here, as the published package did.
KEPT = Path("~/.scalex")


def find_sources(given: str | Path) -> list[Path]:
    """The sources that a path, a glob or a name stands for, in alphabetical order.

    Parameters
    ----------
    given
        A path; one with ``*``, ``?`` or ``[...]`` for several; ``file.h5mu/modality``; or a name without a path, of a file in the working
        directory or, with or without its ending, in ``~/.scalex/``.

    Raises
    ------
    FileNotFoundError
        If nothing is there; the message says where was looked.
    """
    if not str(given).strip() or str(given) == ".":
        raise FileNotFoundError("path is empty: give a file or folder of cells.")
    path = Path(given).expanduser()
    if path.exists() or inside_h5mu(path) is not None:
        return [path]
    if re.search(r"[*?\[]", str(path)):
        found = sorted(glob(str(path), recursive=True))  # noqa: PTH207
        if not found:
            raise FileNotFoundError(f"Nothing matches {given} (looked from {Path.cwd()}).")
        return [Path(one) for one in found]
    if path.parent.suffix == ".h5mu":
        path = path.parent
    looked = [path.absolute().parent]
    if path.name == str(path):
        kept = KEPT.expanduser()
        looked.append(kept)
        for candidate in (kept / path.name, kept / f"{path.name}.h5ad"):
            if candidate.exists():
                return [candidate]
    raise FileNotFoundError(f"No such file: {path} (looked in {' and '.join(map(str, looked))}{_similar(path)}).")


def inside_h5mu(path: Path) -> tuple[Path, str] | None:
    """The file and the modality that ``file.h5mu/modality`` names; None for any other path."""
    if path.parent.suffix == ".h5mu" and path.parent.is_file():
        return path.parent, path.name
    return None


def name_of_source(path: Path) -> str:
    """A file's name without its endings, with the modality if it names one: what the source is called if nothing else is said."""
    modality = inside_h5mu(path)
    if modality is not None:
        return f"{modality[0].stem}-{modality[1]}"
    return re.sub(r"(?:\.(?:h5ad|zarr|csv|tsv|txt|mtx|h5|loom|gz|zip))+$", "", path.name) or path.name


def _similar(path: Path) -> str:
    """Files beside a missing one that may be meant."""
    if not path.parent.is_dir():
        return ", a folder that does not exist"
    near: Sequence[str] = sorted(one.name for one in path.parent.iterdir() if one.stem.lower() == path.stem.lower())
    return f"; there is: {', '.join(near[:5])}" if near else ""
