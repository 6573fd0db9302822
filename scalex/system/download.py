"""Downloads of files whose checksum is known: verified, and continued after an interruption."""

from __future__ import annotations

import fcntl
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedWriter
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

__all__ = ["Address", "find_cache", "make_cache_folder"]

logger = logging.getLogger(__name__)

LOCAL = ("127.0.0.1", "localhost", "::1")
CHECKSUM = re.compile("sha256=([0-9a-fA-F]{64})")
# Bytes that a download leaves free on the disk: a server may send without end.
RESERVE = 10**9
ANOTHER_DISK = f"{RESERVE / 1e6:,.0f} MB are left free: free space, or choose a folder on another disk by the variable SCALEX_CACHE."
# Seconds without a byte after which a download ends with an error.
TIMEOUT = 60
CHUNK = 1 << 16
MB = 1e6


@dataclass(frozen=True)
class Address:
    """Where a file is, and what is in it.

    Attributes
    ----------
    url
        The address without the checksum.
    sha256
        The checksum of the file, 64 hexadecimal digits.
    """

    url: str
    sha256: str

    @staticmethod
    def is_one(given: object) -> bool:
        """Return whether something given is an address, and no path."""
        return isinstance(given, str) and re.match("[A-Za-z][A-Za-z0-9+.-]*://", given) is not None

    @classmethod
    def parse(cls, given: str) -> Self:
        """Read an address with its checksum at its end, as in ``https://host/atlas.zip#sha256=...``.

        Raises
        ------
        ValueError
            If it is no https:// address, or lacks the checksum.
        """
        url, _, end = given.partition("#")
        parts = urlsplit(url)
        if not (parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOCAL)) or not parts.hostname:
            raise ValueError(
                f"{given}: only https:// addresses are opened (http:// on this machine alone). Download the file, and give its path."
            )
        checksum = CHECKSUM.fullmatch(end)
        if checksum is None:
            raise ValueError(
                f"{given}: an address needs the checksum of its file at its end: {url}#sha256=... (64 digits). The sender knows it from "
                "scalex pack, or by sha256sum FILE."
            )
        return cls(url, checksum[1].lower())

    @property
    def name(self) -> str:
        """Name of the file."""
        return Path(urlsplit(self.url).path).name or str(urlsplit(self.url).hostname)

    def download(self, folder: Path) -> Path:
        """Download the file to a folder, and return its path.

        What came before an interruption is kept in the user's cache, and the next call goes on from there.

        Raises
        ------
        OSError
            If the server cannot be reached, does not have the file, or stops half-way, or if the disk has too little space. The message
            names the address.
        ValueError
            If the file has another checksum. Nothing is kept then.
        """
        import pooch
        from requests import RequestException

        logger.info("Downloads %s", self.url)
        partial = make_cache_folder("downloads") / f"{self.sha256}.part"
        try:
            with _quiet(pooch.get_logger()):
                name, checksum = f"{self.sha256}.zip", f"sha256:{self.sha256}"
                return Path(pooch.retrieve(self.url, checksum, fname=name, path=folder, downloader=_continue_in(partial)))
        except RequestException as error:
            n_bytes = partial.stat().st_size if partial.exists() else 0
            kept = f"{n_bytes / MB:,.1f} MB are kept, and the same command goes on from there" if n_bytes else "Nothing was kept"
            raise OSError(
                f"{self.url} cannot be downloaded ({_get_reason(error)}). {kept}. Check the address and the network, or give the path of "
                "the file."
            ) from error
        except ValueError as error:
            raise ValueError(
                f"{self.url} does not have the checksum sha256={self.sha256}. Nothing was kept: the download was cut off, or the "
                "file or the checksum is another version. Try again, or ask the sender for both."
            ) from error


def _continue_in(partial: Path) -> Callable[[str, str, object], None]:
    """Return a downloader for pooch that goes on where an interrupted one stopped.

    Parameters
    ----------
    partial
        The file that has what came. Another process that downloads the same file at the same time begins on its own.
    """

    def download(url: str, output: str, _: object) -> None:
        with partial.open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                with Path(output).open("wb") as own:
                    _fetch(url, own)
                return
            try:
                _fetch(url, file)
                partial.replace(output)
            finally:
                if partial.exists() and partial.stat().st_size == 0:
                    partial.unlink()

    return download


def _fetch(url: str, file: BufferedWriter) -> None:
    """Append to a file what it lacks, or write all of it if the server does not send parts. A bar shows how much came."""
    import requests
    from tqdm import tqdm

    start = file.tell()
    # Parts are those of the file itself, so that it must not come compressed once more.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    with requests.get(url, stream=True, timeout=TIMEOUT, headers=headers) as response:
        if start and response.status_code != requests.codes.partial_content:
            # The server sends all, or does not have so much: the file is another one.
            file.seek(0)
            file.truncate()
            if response.status_code == requests.codes.requested_range_not_satisfiable:
                _fetch(url, file)
                return
            start = 0
        response.raise_for_status()
        n_coming = int(response.headers.get("Content-Length", 0))
        folder = Path(file.name).parent
        if n_coming + RESERVE > (free := shutil.disk_usage(folder).free):
            raise OSError(f"{url} sends {n_coming / MB:,.0f} MB, and the disk of {folder} has {free / MB:,.0f} MB free. {ANOTHER_DISK}")
        total = start + n_coming if n_coming else None
        with tqdm(total=total, initial=start, unit="B", unit_scale=True, desc="download", disable=None, leave=False) as bar:
            for chunk in response.iter_content(CHUNK):
                file.write(chunk)
                if total is None and shutil.disk_usage(folder).free < RESERVE:
                    n_bytes = file.tell()
                    file.truncate(0)
                    raise OSError(
                        f"{url} does not say how large its file is, and sent {n_bytes / MB:,.0f} MB, with which the disk of {folder} is "
                        f"nearly full. Nothing was kept. {ANOTHER_DISK}"
                    )
                file.flush()
                bar.update(len(chunk))


def find_cache() -> Path:
    """Return the user's folder for files that can be made or downloaded again: that of the system, or the variable SCALEX_CACHE."""
    import pooch

    return Path(os.environ.get("SCALEX_CACHE") or pooch.os_cache("scalex"))


def make_cache_folder(name: str) -> Path:
    """Make a folder in the user's cache, and return it.

    Raises
    ------
    OSError
        If nothing can be written there. The message names the variable that chooses another place.
    """
    cache = find_cache()
    folder = cache / name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        reason = None if os.access(folder, os.W_OK) else "it is not writable"
    except OSError as error:
        reason = str(error.strerror)
    if reason is not None:
        raise OSError(f"The cache folder {cache} cannot be used ({reason}): choose another one by the variable SCALEX_CACHE.")
    return folder


@contextmanager
def _quiet(log: logging.Logger) -> Iterator[None]:
    """Let a logger that writes to the terminal itself tell only warnings."""
    level = log.level
    log.setLevel(logging.WARNING)
    try:
        yield
    finally:
        log.setLevel(level)


def _get_reason(error: Exception) -> str:
    """Return what the server said, or the innermost reason: libraries wrap it several times."""
    response = getattr(error, "response", None)
    if response is not None:
        return f"{response.status_code} {response.reason}"
    inner: BaseException = error
    while (deeper := inner.__cause__ or inner.__context__) is not None:
        inner = deeper
    return str(inner) or type(inner).__name__
