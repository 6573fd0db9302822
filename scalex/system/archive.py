"""Safe unpacking of a few known files from a .zip that somebody has sent."""

from __future__ import annotations

import errno
import lzma
import re
import shutil
import stat
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO
from zipfile import BadZipFile, ZipFile, ZipInfo

__all__ = ["Archive"]

# More entries than any run folder has.
MAX_ENTRIES = 10_000
# Bytes of the unpacked files, all of them together.
MAX_BYTES = 200 * 10**9
# Times the size of the archive that its files may have. Annotation and empty matrices reach some 30, and zip itself 1,030.
MAX_RATIO = 100
# Bytes that files may have in any case.
ALWAYS_ALLOWED = 50 * 10**6
ENCRYPTED = 1
# Errors of entries that are damaged or compressed in an unknown way.
DAMAGE = (BadZipFile, EOFError, zlib.error, lzma.LZMAError, RuntimeError, ValueError, OSError)
# Wrong offsets, and wrong bytes in bzip2, which is an error without a number.
NO_FAULT_OF_THE_DISK = (errno.EINVAL, None)


@dataclass(frozen=True)
class Archive:
    """An open .zip, whose list of files is checked when it is made. Nothing is unpacked before all of them are.

    Parameters
    ----------
    zip
        The open archive.
    name
        What messages call it.
    n_bytes
        Its size.

    Raises
    ------
    ValueError
        If an entry points outside, is a link, is protected by a password or is there twice, or if there are too many.
    """

    zip: ZipFile
    name: str
    n_bytes: int

    @classmethod
    def open(cls, file: BinaryIO, name: str) -> Archive:
        """Open a file. The parameters are those of the class.

        Raises
        ------
        ValueError
            If it is no .zip, or if it is truncated, and as in the class.
        """
        try:
            archive = ZipFile(file)
        except (BadZipFile, OSError, ValueError, NotImplementedError) as error:
            raise ValueError(f"{name} is not a readable .zip ({error}). It may be truncated or damaged: copy it again.") from error
        return cls(archive, name, file.seek(0, 2))

    def __post_init__(self) -> None:
        entries = self.zip.infolist()
        if len(entries) > MAX_ENTRIES:
            raise ValueError(f"{self.name} holds {len(entries):,} files, and at most {MAX_ENTRIES:,} are allowed. Nothing was unpacked.")
        seen = set()
        for entry in entries:
            reason = _find_fault(entry)
            if reason is None and entry.filename in seen:
                reason = "is in it twice"
            if reason is not None:
                raise ValueError(
                    f"{self.name}: the entry {entry.filename!r} {reason}. Nothing was unpacked: ask the sender for another file."
                )
            seen.add(entry.filename)

    def find_folders(self, needed: Sequence[str]) -> list[str]:
        """Return the folders in the archive that hold all `needed` files, as "" for the top and "run/" for another one."""
        names = set(self.zip.namelist())
        first, *others = needed
        folders = [name.removesuffix(first) for name in sorted(names) if PurePosixPath(name).parts[-1:] == (first,)]
        return [folder for folder in folders if all(folder + other in names for other in others)]

    def unpack(self, folder: str, known: Sequence[str], target: Path) -> None:
        """Unpack the known files of one of its folders. The others stay packed.

        Parameters
        ----------
        folder
            As `find_folders` returns it.
        known
            Names of the files within it. Those that are missing are left out.
        target
            An empty folder.

        Raises
        ------
        ValueError
            If the files are too large, or damaged.
        """
        entries = {name: self.zip.NameToInfo[folder + name] for name in known if folder + name in self.zip.NameToInfo}
        n_bytes = sum(entry.file_size for entry in entries.values())
        if n_bytes > min(MAX_BYTES, max(ALWAYS_ALLOWED, MAX_RATIO * self.n_bytes)):
            raise ValueError(
                f"{self.name}: its files would have {n_bytes:,} bytes, and it has {self.n_bytes:,}. At most {MAX_RATIO} times as many are "
                f"allowed, and {MAX_BYTES:,}. Nothing was unpacked: if you trust the sender, unpack it yourself, and give the folder."
            )
        for name, entry in entries.items():
            path = target / name
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                # Reading ends after file_size bytes, whatever is packed.
                with self.zip.open(entry) as packed, path.open("wb") as unpacked:
                    shutil.copyfileobj(packed, unpacked, 1 << 20)
            except DAMAGE as error:
                if isinstance(error, OSError) and error.errno not in NO_FAULT_OF_THE_DISK:
                    raise
                raise ValueError(
                    f"{self.name}: {entry.filename} in it cannot be unpacked ({error}). It may be truncated or damaged: copy it again."
                ) from error


def _find_fault(entry: ZipInfo) -> str | None:
    """Return why an entry is refused, or None."""
    name = entry.filename
    if name.startswith(("/", "\\")) or re.match("[A-Za-z]:", name) or ".." in re.split(r"[/\\]", name):
        return "points outside of the archive"
    # The upper half is the mode of the file on Unix; 0 for archives of other systems.
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or a device"
    return "is protected by a password" if entry.flag_bits & ENCRYPTED else None
