"""Unpacking of known files from archives, and refusal of those that are not safe."""

from __future__ import annotations

import errno
import io
import stat
import warnings
from collections.abc import Mapping
from pathlib import Path
from zipfile import ZIP_BZIP2, ZIP_DEFLATED, ZIP_LZMA, ZIP_STORED, ZipFile, ZipInfo

import pytest

from scalex.system import archive
from scalex.system.archive import Archive


def make_zip(contents: Mapping[str, bytes], compression: int = ZIP_DEFLATED) -> io.BytesIO:
    file = io.BytesIO()
    with ZipFile(file, "w", compression) as packed:
        for name, content in contents.items():
            packed.writestr(name, content)
    return file


def unpack(file: io.BytesIO, target: Path, *known: str, folder: str = "") -> list[str]:
    Archive.open(file, "sent.zip").unpack(folder, known, target)
    return sorted(str(path.relative_to(target)) for path in target.rglob("*") if path.is_file())


def test_only_known_files_of_the_chosen_folder_are_unpacked(tmp_path: Path) -> None:
    file = make_zip({"run/a.txt": b"one", "run/sub/b.txt": b"two", "run/other.py": b"code", "a.txt": b"of the top"})
    assert unpack(file, tmp_path, "a.txt", "sub/b.txt", "absent.txt", folder="run/") == ["a.txt", "sub/b.txt"]
    assert (tmp_path / "a.txt").read_bytes() == b"one"
    assert (tmp_path / "sub" / "b.txt").read_bytes() == b"two"


def test_the_folders_that_hold_all_needed_files_are_found() -> None:
    names = ["a", "x/b", "one/a", "one/x/b", "two/a", "__MACOSX/one/._a", "deep/er/a", "deep/er/x/b"]
    found = Archive.open(make_zip(dict.fromkeys(names, b"")), "sent.zip").find_folders(("a", "x/b"))
    assert found == ["", "deep/er/", "one/"]


@pytest.mark.parametrize(
    "name", ["../outside", "run/../../outside", "/etc/outside", "C:\\outside", "C:/outside", "..\\outside", "\\\\host\\share", "a/.."]
)
def test_an_entry_that_points_outside_is_refused(name: str) -> None:
    with pytest.raises(
        ValueError, match=r"^sent\.zip: the entry '.*' points outside of the archive\. Nothing was unpacked: ask the sender"
    ):
        Archive.open(make_zip({"a.txt": b"harmless", name: b"hostile"}), "sent.zip")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_links_and_devices_are_refused(kind: int) -> None:
    file, entry = io.BytesIO(), ZipInfo("a.txt")
    entry.external_attr = (kind | 0o777) << 16
    with ZipFile(file, "w") as packed:
        packed.writestr(entry, "/etc/passwd")
    with pytest.raises(ValueError, match=r"the entry 'a\.txt' is a link or a device\. Nothing was unpacked"):
        Archive.open(file, "sent.zip")


def test_a_name_that_is_there_twice_is_refused() -> None:
    file = io.BytesIO()
    with warnings.catch_warnings(), ZipFile(file, "w") as packed:
        warnings.simplefilter("ignore")
        packed.writestr("a.txt", "one")
        packed.writestr("a.txt", "two")
    with pytest.raises(ValueError, match=r"the entry 'a\.txt' is in it twice"):
        Archive.open(file, "sent.zip")


def test_an_entry_with_a_password_is_refused() -> None:
    file = make_zip({"a.txt": b"secret"})
    content = bytearray(file.getvalue())
    # The flag of encryption, in the list of entries.
    content[content.index(b"PK\x01\x02") + 8] |= 1
    with pytest.raises(ValueError, match=r"the entry 'a\.txt' is protected by a password"):
        Archive.open(io.BytesIO(bytes(content)), "sent.zip")


def test_too_many_entries_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_ENTRIES", 3)
    Archive.open(make_zip(dict.fromkeys("abc", b"")), "sent.zip")
    with pytest.raises(ValueError, match=r"sent\.zip holds 4 files, and at most 3 are allowed\. Nothing was unpacked"):
        Archive.open(make_zip(dict.fromkeys("abcd", b"")), "sent.zip")


def test_a_bomb_is_refused_before_anything_is_unpacked(tmp_path: Path) -> None:
    file = make_zip({"a.txt": b"harmless", "bomb": bytes(archive.ALWAYS_ALLOWED + 1)})
    n_bytes = len(file.getvalue())
    assert n_bytes < archive.ALWAYS_ALLOWED / 500
    message = (
        rf"sent\.zip: its files would have 50,000,009 bytes, and it has {n_bytes:,}\. At most 100 times as many are allowed, .*unpack it"
    )
    with pytest.raises(ValueError, match=message):
        unpack(file, tmp_path, "a.txt", "bomb")
    assert list(tmp_path.iterdir()) == []
    # What stays packed does no harm.
    assert unpack(file, tmp_path, "a.txt") == ["a.txt"]


def test_too_many_bytes_are_refused_whatever_the_ratio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_BYTES", 10)
    file = make_zip({"a": b"123456", "b": b"12345"}, ZIP_STORED)
    assert unpack(file, tmp_path, "a") == ["a"]
    with pytest.raises(ValueError, match=r"would have 11 bytes, .* times as many are allowed, and 10\. Nothing was unpacked"):
        unpack(file, tmp_path, "a", "b")


def test_an_entry_that_hides_its_size_is_refused(tmp_path: Path) -> None:
    content = make_zip({"a.txt": bytes(100_000)}).getvalue()
    lying = content.replace((100_000).to_bytes(4, "little"), (100).to_bytes(4, "little"))
    with pytest.raises(ValueError, match=r"sent\.zip: a\.txt in it cannot be unpacked \(Bad CRC-32 .*copy it again"):
        unpack(io.BytesIO(lying), tmp_path, "a.txt")
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 100


def test_an_entry_at_an_impossible_place_is_refused(tmp_path: Path) -> None:
    """As if bytes before the archive had been lost."""
    file = make_zip({"a.txt": b"one"})
    opened = Archive.open(file, "sent.zip")
    opened.zip.infolist()[0].header_offset = -5
    with pytest.raises(ValueError, match=r"sent\.zip: a\.txt in it cannot be unpacked \(.*negative.*\)\. It may be truncated"):
        opened.unpack("", ["a.txt"], tmp_path)


def test_a_full_disk_is_no_fault_of_the_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(archive.shutil, "copyfileobj", fail)
    with pytest.raises(OSError, match="No space left on device"):
        unpack(make_zip({"a.txt": b"one"}), tmp_path, "a.txt")


@pytest.mark.parametrize("compression", [ZIP_STORED, ZIP_DEFLATED, ZIP_BZIP2, ZIP_LZMA])
def test_damaged_content_is_refused(tmp_path: Path, compression: int) -> None:
    content = bytearray(make_zip({"a.txt": bytes(range(256)) * 4}, compression).getvalue())
    content[60:70] = bytes(10)
    with pytest.raises(ValueError, match=r"sent\.zip: a\.txt in it cannot be unpacked \(.*\)\. It may be truncated or damaged: copy it"):
        unpack(io.BytesIO(bytes(content)), tmp_path, "a.txt")


@pytest.mark.parametrize("part", [0, 0.5, 0.99])
def test_a_truncated_archive_is_refused(part: float) -> None:
    content = make_zip({"a.txt": bytes(range(256))}, ZIP_STORED).getvalue()
    with pytest.raises(ValueError, match=r"^sent\.zip is not a readable \.zip \(.*\)\. It may be truncated or damaged: copy it again"):
        Archive.open(io.BytesIO(content[: int(part * len(content))]), "sent.zip")
