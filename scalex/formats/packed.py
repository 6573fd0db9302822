"""Opening of files by their content: plain, or compressed by gzip, bzip2, xz or zip, whatever their names say."""

from __future__ import annotations

import bz2
import gzip
import lzma
import shlex
import zlib
from collections.abc import Callable
from io import BufferedReader, TextIOWrapper
from pathlib import Path
from typing import Any, TextIO
from zipfile import BadZipFile, ZipFile

from scalex.formats.advice import AdvisedError
from scalex.formats.folders import is_hidden

__all__ = ["DAMAGE", "check_content", "open_bytes", "open_text"]

# Errors of files that are truncated or have wrong bytes. RuntimeError: a zip with a password.
DAMAGE = (OSError, EOFError, zlib.error, lzma.LZMAError, BadZipFile, RuntimeError, NotImplementedError)
# First bytes of compressed files.
OPENERS: dict[bytes, Callable[[Path], Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open}
ZIP = b"PK\x03\x04"
N_TESTED = 1024
EXCEL = "is a spreadsheet of Excel, not text: save its sheet as .csv"
R_DATA = "is a file of R: in R, write its cells to .h5ad, as with zellkonverter::writeH5AD(as.SingleCellExperiment(object), 'cells.h5ad')"
# First bytes, in lower case, of files that are no data of cells, or not in the format that their name says.
FOREIGN = {
    b"<!doctype html": "is a web page, not data: the download failed or needs a login. Download the file again",
    b"<html": "is a web page, not data: the download failed or needs a login. Download the file again",
    b"<?xml": "is XML, such as the error message of a server, not data. Download the file again, or save a spreadsheet as .csv",
    b"<error": "is XML, such as the error message of a server, not data. Download the file again, or save a spreadsheet as .csv",
    b"version https://git-lfs": "is a pointer of Git LFS, not the data: run git lfs pull in its repository, or download the file itself",
    b"\xff\xfe": "is text in UTF-16: save it as text in UTF-8",
    b"\xfe\xff": "is text in UTF-16: save it as text in UTF-8",
    b"\xd0\xcf\x11\xe0": EXCEL,
    b"rdx2\n": R_DATA,
    b"rdx3\n": R_DATA,
    b"x\n\x00\x00\x00": R_DATA,
}
HDF5 = b"\x89hdf\r\n\x1a\n"


def open_bytes(path: Path) -> BufferedReader:
    """Open a file to read its bytes, decompressed.

    Raises
    ------
    AdvisedError
        If it is something else, such as a web page, or a .zip of several files.
    """
    file = BufferedReader(_decompress(path))
    start = file.peek(N_TESTED)[:N_TESTED]
    problem = _describe_foreign(start, path)
    if problem is None and start.startswith(HDF5[:1]) and start[:8].lower() == HDF5:
        problem = "is an HDF5 file, not text: rename it to .h5ad, .h5 or the format that it is in"
    if problem is not None:
        file.close()
        raise AdvisedError(f"{path} {problem}.")
    return file


def open_text(path: Path, encoding: str = "utf-8-sig") -> TextIO:
    """Open a file to read its text, decompressed. Raises the errors of `open_bytes`."""
    return TextIOWrapper(open_bytes(path), encoding)


def check_content(path: Path) -> None:
    """Check that a file is not something else than data. Raises the errors of `open_bytes`."""
    with path.open("rb") as file:
        start = file.read(N_TESTED)
    problem = _describe_foreign(start, path)
    if problem is not None:
        raise AdvisedError(f"{path} {problem}.")


def _describe_foreign(start: bytes, path: Path) -> str | None:
    """Return what a file is that begins with these bytes; None if it may be data."""
    if start[257:262] == b"ustar":
        quoted = shlex.quote(str(path))
        return f"is a tar archive: unpack it with tar -xf {quoted} -C {shlex.quote(str(path.parent))}, and give the files in it"
    texts = (start.lower(), start.removeprefix(b"\xef\xbb\xbf").lstrip().lower())
    return next((problem for signature, problem in FOREIGN.items() if any(text.startswith(signature) for text in texts)), None)


def _decompress(path: Path) -> Any:
    with path.open("rb") as file:
        start = file.read(8)
    if start.startswith(ZIP):
        return _open_zip(path)
    return next((opener for signature, opener in OPENERS.items() if start.startswith(signature)), lambda path: path.open("rb"))(path)


def _open_zip(path: Path) -> Any:
    """Open the only file in a .zip."""
    archive = ZipFile(path)
    names = [name for name in archive.namelist() if not name.endswith("/") and not any(map(is_hidden, Path(name).parts))]
    if len(names) == 1:
        return archive.open(names[0])
    archive.close()
    if "[Content_Types].xml" in names:
        raise AdvisedError(f"{path} {EXCEL}.")
    raise AdvisedError(
        f"{path} holds {len(names)} files: {', '.join(names[:5]) or 'nothing'}. Unpack it with unzip {shlex.quote(str(path))}, and give "
        "the files in it."
    )
