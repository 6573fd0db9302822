"""Downloads from a server on this machine."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from scalex.system.download import Address, find_cache

CONTENT = bytes(range(256)) * 5000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
Serve = Callable[..., str]


def test_an_address_is_told_from_a_path() -> None:
    assert Address.is_one("https://host/a.zip")
    assert Address.is_one("ftp://host/a.zip")
    assert not any(Address.is_one(one) for one in ("a.zip", "/data/a.zip", "C:\\a.zip", Path("https://host/a.zip"), "run", "a://b"[1:]))


def test_an_address_is_read_with_its_checksum() -> None:
    address = Address.parse(f"https://host/a/atlas.zip?version=2#sha256={SHA256.upper()}")
    assert address == Address("https://host/a/atlas.zip?version=2", SHA256)
    assert address.name == "atlas.zip"
    assert Address.parse(f"https://host#sha256={SHA256}").name == "host"


@pytest.mark.parametrize("end", ["", "#", f"#{SHA256}", f"#sha256={SHA256[:-1]}", f"#sha256={SHA256}0", f"#md5={SHA256[:32]}", "#sha256="])
def test_an_address_without_a_checksum_is_refused(end: str) -> None:
    message = (
        r"^https://host/a\.zip.*: an address needs the checksum of its file at its end: https://host/a\.zip#sha256=\.\.\. \(64 digits\)\."
    )
    with pytest.raises(ValueError, match=message):
        Address.parse(f"https://host/a.zip{end}")


@pytest.mark.parametrize("start", ["http://host/", "http://127.0.0.1.host/", "ftp://host/", "file:///", "https:///", "s3://host/"])
def test_only_https_is_opened(start: str) -> None:
    with pytest.raises(ValueError, match=r": only https:// addresses are opened \(http:// on this machine alone\)\. Download the file"):
        Address.parse(f"{start}a.zip#sha256={SHA256}")


def test_a_file_is_downloaded_whole(serve: Serve, tmp_path: Path) -> None:
    path = Address.parse(f"{serve(CONTENT)}#sha256={SHA256}").download(tmp_path)
    assert path.read_bytes() == CONTENT
    assert list(tmp_path.iterdir()) == [path]


def test_a_wrong_checksum_leaves_nothing(serve: Serve, tmp_path: Path) -> None:
    wrong = hashlib.sha256(b"another").hexdigest()
    with pytest.raises(ValueError, match=rf"^http://127.* does not have the checksum sha256={wrong}\. Nothing was kept: .*ask the sender"):
        Address.parse(f"{serve(CONTENT)}#sha256={wrong}").download(tmp_path)
    assert list(tmp_path.iterdir()) == []


HALF = len(CONTENT) // 2


@pytest.fixture
def partial(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("SCALEX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("scalex.system.download.CHUNK", 1000)
    (tmp_path / "target").mkdir()
    return tmp_path / "cache" / "downloads" / f"{SHA256}.part"


def stop_half_way(serve: Serve, folder: Path) -> None:
    message = r"^http://127.* cannot be downloaded \(.*IncompleteRead.*\)\. 0\.6 MB are kept, and the same command goes on from there\."
    with pytest.raises(OSError, match=message):
        Address.parse(f"{serve(CONTENT, sent=HALF)}#sha256={SHA256}").download(folder)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("parts", [True, False])
def test_a_download_goes_on_where_it_stopped(serve: Serve, partial: Path, tmp_path: Path, parts: bool) -> None:
    stop_half_way(serve, tmp_path / "target")
    assert CONTENT.startswith(partial.read_bytes())
    n_kept = partial.stat().st_size
    assert 0 < n_kept <= HALF
    requests: list[int] = []
    url = serve(CONTENT, parts=parts, requests=requests)
    path = Address.parse(f"{url}#sha256={SHA256}").download(tmp_path / "target")
    assert path.read_bytes() == CONTENT
    assert requests == [n_kept if parts else 0]
    assert not partial.exists()


def test_a_shorter_file_on_the_server_is_downloaded_from_its_start(serve: Serve, partial: Path, tmp_path: Path) -> None:
    partial.parent.mkdir(parents=True)
    partial.write_bytes(CONTENT + b"more")
    path = Address.parse(f"{serve(CONTENT)}#sha256={SHA256}").download(tmp_path / "target")
    assert path.read_bytes() == CONTENT


def test_wrong_bytes_from_before_are_not_kept(serve: Serve, partial: Path, tmp_path: Path) -> None:
    partial.parent.mkdir(parents=True)
    partial.write_bytes(b"x" * HALF)
    url = f"{serve(CONTENT)}#sha256={SHA256}"
    with pytest.raises(ValueError, match="does not have the checksum"):
        Address.parse(url).download(tmp_path / "target")
    assert not partial.exists()
    assert Address.parse(url).download(tmp_path / "target").read_bytes() == CONTENT


def test_a_process_beside_another_downloads_on_its_own(serve: Serve, partial: Path, tmp_path: Path) -> None:
    partial.parent.mkdir(parents=True)
    with partial.open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        path = Address.parse(f"{serve(CONTENT)}#sha256={SHA256}").download(tmp_path / "target")
    assert path.read_bytes() == CONTENT
    assert partial.read_bytes() == b""


def test_a_file_that_the_server_does_not_have(serve: Serve, partial: Path, tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"cannot be downloaded \(404 Not Found\)\. Nothing was kept"):
        Address.parse(f"{serve(CONTENT)}.absent#sha256={SHA256}").download(tmp_path / "target")
    assert list((tmp_path / "target").iterdir()) == list(partial.parent.iterdir()) == []


def test_a_file_that_the_disk_has_no_space_for_is_not_begun(
    serve: Serve, partial: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=10**9 + len(CONTENT) // 2)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(OSError, match=r"sends 1 MB, and the disk of \S* has 1,001 MB free\. .* choose a folder on another disk"):
        Address.parse(f"{serve(CONTENT)}#sha256={SHA256}").download(tmp_path / "target")
    assert list((tmp_path / "target").iterdir()) == list(partial.parent.iterdir()) == []


def test_a_server_that_sends_without_end_does_not_fill_the_disk(
    serve: Serve, partial: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{serve(CONTENT, says_size=False)}#sha256={SHA256}"
    usage = shutil.disk_usage(tmp_path)
    free = iter(range(10**9 + 3000, 0, -1000))
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=next(free)))
        with pytest.raises(OSError, match=r"does not say how large its file is, and sent 0 MB, .* nearly full\. Nothing was kept\."):
            Address.parse(url).download(tmp_path / "target")
    assert list((tmp_path / "target").iterdir()) == list(partial.parent.iterdir()) == []
    assert Address.parse(url).download(tmp_path / "target").read_bytes() == CONTENT


def test_no_server(serve: Serve, tmp_path: Path) -> None:
    url = serve(CONTENT, ends=True)
    with pytest.raises(OSError, match=r"cannot be downloaded \(.*refused.*\)\. Nothing was kept"):
        Address.parse(f"{url}#sha256={SHA256}").download(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    def find_no_host(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", find_no_host)
    with pytest.raises(OSError, match=r"^https://host/a\.zip cannot be downloaded \(.*Name or service not known\)\. Nothing was kept"):
        Address.parse(f"https://host/a.zip#sha256={SHA256}").download(tmp_path)


def test_the_cache_is_the_one_of_the_system_or_of_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    import platformdirs

    monkeypatch.setenv("SCALEX_CACHE", "/elsewhere")
    assert find_cache() == Path("/elsewhere")
    monkeypatch.delenv("SCALEX_CACHE")
    assert find_cache() == Path(platformdirs.user_cache_dir("scalex"))
