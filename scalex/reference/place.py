"""Where a reference is: a folder, a .zip of one, or the address of such a file."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from scalex.system.archive import Archive
from scalex.system.atomic_files import atomic_folder
from scalex.system.download import Address, find_cache, make_cache_folder

__all__ = ["CARD", "CELLS", "CHECKPOINT", "CONFIG", "PICTURE", "SCORES", "Place", "open_place"]

CELLS, CHECKPOINT = "adata.h5ad", "checkpoint/best.ckpt"
CARD, PICTURE, SCORES, CONFIG = "README.md", "umap.png", "metrics.json", "config.yaml"
# The files that are unpacked. Those of an archive that was made by hand may be many more.
KNOWN = (CELLS, CHECKPOINT, "lineage.json", "growth.json", SCORES, CONFIG, PICTURE, CARD)
# The folder in the cache.
UNPACKED = "references"


@dataclass(frozen=True)
class Place:
    """Where a reference is.

    Attributes
    ----------
    folder
        Its folder, which may be one in the user's cache.
    name
        Its name: that of the folder or of the archive.
    given
        What the user gave.
    is_new
        Whether it was just unpacked, so that nobody has looked into its files yet.
    """

    folder: Path
    name: str
    given: str
    is_new: bool = False


@contextmanager
def open_place(given: str | Path) -> Iterator[Place]:
    """Yield the place of a reference. What was unpacked for it is removed if the body finds that it is not a reference.

    Parameters
    ----------
    given
        A folder; a .zip of one, at its top or in a folder; or ``https://host/file.zip#sha256=...``, which is downloaded. An archive is
        unpacked once, to a folder in the user's cache whose name is the archive's checksum. No code from it is executed.

    Raises
    ------
    FileNotFoundError
        If there is no such folder or file.
    ValueError
        If the archive is damaged, is not safe to unpack, or holds no reference or several; and as `Address.parse` and `Address.download`.
    OSError
        If it cannot be downloaded, or if the disk is full.
    """
    is_new = False
    if Address.is_one(given):
        address = Address.parse(str(given))
        place = Place(_name_unpacked(address.sha256), Path(address.name).stem, str(given))
        if is_new := not _is_unpacked(place.folder):
            make_cache_folder(UNPACKED)
            with atomic_folder(place.folder) as unfinished:
                downloaded = address.download(unfinished)
                with downloaded.open("rb") as file:
                    _unpack(file, str(given), unfinished)
                downloaded.unlink()
    elif Path(given).is_file():
        with Path(given).open("rb") as file:
            place = Place(_name_unpacked(hashlib.file_digest(file, "sha256").hexdigest()), Path(given).stem, str(given))
            if is_new := not _is_unpacked(place.folder):
                make_cache_folder(UNPACKED)
                with atomic_folder(place.folder) as unfinished:
                    _unpack(file, str(given), unfinished)
    elif Path(given).is_dir():
        place = Place(Path(given), Path(given).absolute().name, str(given))
    else:
        raise FileNotFoundError(
            f"reference={given}: no such folder. Give the folder of a finished training, a .zip of it, or its https:// address."
        )
    try:
        yield replace(place, is_new=is_new)
    except (ValueError, FileNotFoundError) as error:
        if is_new:
            shutil.rmtree(place.folder, ignore_errors=True)
            # Messages name what was given instead of the folder in the cache.
            error.args = tuple(one.replace(str(place.folder), place.given) if isinstance(one, str) else one for one in error.args)
        raise


def _name_unpacked(sha256: str) -> Path:
    return find_cache() / UNPACKED / sha256


def _is_unpacked(folder: Path) -> bool:
    """Return whether an archive was unpacked before. What is left of a folder that something else removes files from is removed."""
    is_whole = all((folder / name).is_file() for name in (CELLS, CHECKPOINT))
    if not is_whole:
        shutil.rmtree(folder, ignore_errors=True)
    return is_whole


def _unpack(file: BinaryIO, name: str, target: Path) -> None:
    """Unpack the reference in an archive, which messages call `name`."""
    archive = Archive.open(file, name)
    folders = archive.find_folders((CELLS, CHECKPOINT))
    if not folders:
        raise ValueError(f"{name} holds no reference: no folder in it has {CELLS} and {CHECKPOINT}. Give a .zip of a finished run.")
    if len(folders) > 1:
        names = ", ".join(folder or "the top" for folder in folders[:5])
        raise ValueError(f"{name} holds several references ({names}). Unpack it, and give the folder of one.")
    archive.unpack(folders[0], KNOWN, target)
