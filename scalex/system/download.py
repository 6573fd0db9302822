"""Downloads of files whose checksum is known: whole and verified, or not at all."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

__all__ = ["Address", "find_cache"]

logger = logging.getLogger(__name__)

LOCAL = ("127.0.0.1", "localhost", "::1")
CHECKSUM = re.compile("sha256=([0-9a-fA-F]{64})")
# Seconds without a byte after which a download ends with an error.
TIMEOUT = 60
CHUNK = 1 << 20


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
        """Download the file to a folder, and return its path. On an error, nothing is left.

        Raises
        ------
        OSError
            If the server cannot be reached, does not have the file, or stops half-way. The message names the address.
        ValueError
            If the file has another checksum.
        """
        import pooch
        from requests import RequestException

        logger.info("Downloads %s", self.url)
        try:
            with _quiet(pooch.get_logger()):
                return Path(
                    pooch.retrieve(
                        self.url,
                        f"sha256:{self.sha256}",
                        fname=f"{self.sha256}.zip",
                        path=folder,
                        downloader=pooch.HTTPDownloader(timeout=TIMEOUT, chunk_size=CHUNK),
                    )
                )
        except RequestException as error:
            raise OSError(
                f"{self.url} cannot be downloaded ({_get_reason(error)}). Nothing was kept. Check the address and the network, or give the "
                "path of the file."
            ) from error
        except ValueError as error:
            raise ValueError(
                f"{self.url} does not have the checksum sha256={self.sha256}. Nothing was kept: the file or the checksum is another "
                "version. Ask the sender for both."
            ) from error


def find_cache() -> Path:
    """Return the user's folder for files that can be made or downloaded again: that of the system, or the variable SCALEX_CACHE."""
    import pooch

    return Path(os.environ.get("SCALEX_CACHE") or pooch.os_cache("scalex"))


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
