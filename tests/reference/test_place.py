"""Opening a reference from a folder, a .zip and an address."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from zipfile import ZipFile, ZipInfo

import h5py
import numpy as np
import pytest
from commands import Child

from scalex import SCALEX
from scalex.projection.reference import Reference
from scalex.reference import place
from scalex.system.download import Address

KNOWN = {"adata.h5ad", "checkpoint", "metrics.json", "umap.png"}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of unpacked references, which is empty."""
    monkeypatch.setenv("SCALEX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "references"


@pytest.fixture
def archive(trained: Any, tmp_path: Path) -> Path:
    """Return a plain .zip of a run folder, within a top folder, as a file manager makes it."""
    return Path(shutil.make_archive(str(tmp_path / "sent"), "zip", trained.folder.parent, trained.folder.name))


def compute_sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def list_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_a_plain_zip_of_a_run_opens(trained: Any, archive: Path, cache: Path) -> None:
    found, expected = Reference.load(archive), Reference.load(trained.folder)
    assert list_names(cache) == [compute_sha256(archive)]
    assert found.folder == cache / compute_sha256(archive)
    # The others, such as the log, stay packed.
    assert {"adata.h5ad", "checkpoint"} <= set(list_names(found.folder)) <= KNOWN
    assert list_names(found.folder / "checkpoint") == ["best.ckpt"]
    np.testing.assert_array_equal(found.embed(trained.query), expected.embed(trained.query))
    assert found.transfer_labels(trained.query).equals(expected.transfer_labels(trained.query))
    assert found.describe() == expected.describe() | {"folder": str(archive), "lineage": [expected.lineage[0] | {"folder": "sent"}]}


def test_a_zip_without_a_top_folder_opens_by_every_door(trained: Any, tmp_path: Path) -> None:
    archive = Path(shutil.make_archive(str(tmp_path / "flat"), "zip", trained.folder))
    expected = Reference.load(trained.folder).embed(trained.query)
    np.testing.assert_array_equal(Reference.load(str(archive)).embed(trained.query), expected)
    projected = SCALEX(trained.query, projection=archive, eval=True, repeat=True, show=False)
    np.testing.assert_array_equal(projected.obsm["latent"], expected)


def test_an_archive_is_unpacked_once(archive: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Reference.load(archive)
    before = (cache / compute_sha256(archive) / "adata.h5ad").stat()
    monkeypatch.setattr(ZipFile, "open", lambda *_, **__: pytest.fail("unpacked again"))
    Reference.load(archive.rename(archive.with_name("renamed.zip")))
    assert (cache / list_names(cache)[0] / "adata.h5ad").stat() == before


def test_what_something_removed_from_the_cache_is_unpacked_again(archive: Path, cache: Path) -> None:
    folder = Reference.load(archive).folder
    (folder / "adata.h5ad").unlink()
    assert Reference.load(archive).folder == folder
    assert (folder / "adata.h5ad").is_file()


def refuse(given: Path | str, message: str, cache: Path, error: type[Exception] = ValueError) -> None:
    with pytest.raises(error, match=message):
        Reference.load(given)
    assert list_names(cache) == []


def test_files_that_are_no_archive_are_refused(trained: Any, tmp_path: Path, archive: Path, cache: Path) -> None:
    (tmp_path / "text.zip").write_text("no archive")
    refuse(tmp_path / "text.zip", r"text\.zip is not a readable \.zip \(File is not a zip file\)\. It may be truncated", cache)
    (tmp_path / "half.zip").write_bytes(archive.read_bytes()[: archive.stat().st_size // 2])
    refuse(tmp_path / "half.zip", r"half\.zip is not a readable \.zip", cache)
    refuse(trained.folder / "adata.h5ad", r"adata\.h5ad is not a readable \.zip", cache)
    # A checkpoint is a .zip, too.
    refuse(trained.folder / "checkpoint" / "best.ckpt", r"best\.ckpt holds no reference: no folder in it has adata\.h5ad and", cache)
    refuse(
        tmp_path / "absent.zip", r"absent\.zip: no such folder\. Give the folder of a finished training, a \.zip", cache, FileNotFoundError
    )


def test_an_archive_without_a_reference_or_with_several_is_refused(trained: Any, tmp_path: Path, cache: Path) -> None:
    for name, folders in (("none", []), ("several", ["one/", "two/"])):
        with ZipFile(tmp_path / f"{name}.zip", "w") as packed:
            packed.writestr("adata.h5ad", "alone")
            for folder in folders:
                packed.writestr(f"{folder}adata.h5ad", "")
                packed.writestr(f"{folder}checkpoint/best.ckpt", "")
    refuse(tmp_path / "none.zip", r"none\.zip holds no reference: no folder in it has adata\.h5ad and checkpoint/best\.ckpt\. Give", cache)
    refuse(tmp_path / "several.zip", r"several\.zip holds several references \(one/, two/\)\. Unpack it, and give the folder of one", cache)


def add_entry(archive: Path, name: str, content: bytes = b"hostile", kind: int = stat.S_IFREG) -> Path:
    entry = ZipInfo(name)
    entry.external_attr = (kind | 0o644) << 16
    with ZipFile(archive, "a") as packed:
        packed.writestr(entry, content)
    return archive


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("../../outside.txt", stat.S_IFREG, "points outside of the archive"),
        ("/outside.txt", stat.S_IFREG, "points outside of the archive"),
        ("run/lineage.json", stat.S_IFLNK, "is a link or a device"),
    ],
)
def test_a_hostile_archive_leaves_nothing(archive: Path, cache: Path, tmp_path: Path, name: str, kind: int, message: str) -> None:
    before = set(tmp_path.rglob("*"))
    refuse(add_entry(archive, name, kind=kind), rf"sent\.zip: the entry '{name}' {message}\. Nothing was unpacked", cache)
    assert set(tmp_path.rglob("*")) - {cache, cache.parent} == before


def test_a_bomb_leaves_nothing(tmp_path: Path, cache: Path) -> None:
    with ZipFile(tmp_path / "bomb.zip", "w", 8) as packed:
        packed.writestr("checkpoint/best.ckpt", b"")
        packed.writestr("adata.h5ad", bytes(60_000_000))
    refuse(tmp_path / "bomb.zip", r"its files would have 60,000,000 bytes, and it has [0-9,]+\. At most 100 times as many", cache)


def test_files_that_are_no_reference_after_all_are_removed(tmp_path: Path, cache: Path) -> None:
    with ZipFile(tmp_path / "sent.zip", "w") as packed:
        packed.writestr("adata.h5ad", "a text")
        packed.writestr("checkpoint/best.ckpt", "a text")
    refuse(tmp_path / "sent.zip", r"best\.ckpt is not a checkpoint of scalex", cache)


def test_a_growth_that_was_not_accepted_is_no_reference(archive: Path, cache: Path) -> None:
    refuse(add_entry(archive, "run/growth.json", b'{"accepted": false}'), r"is not a reference: it is a continued training that", cache)


def test_damage_is_found_before_anything_is_left(archive: Path, cache: Path) -> None:
    content = bytearray(archive.read_bytes())
    with ZipFile(archive) as packed:
        start = packed.getinfo("run/adata.h5ad").header_offset
    content[start + 5000 : start + 5100] = bytes(100)
    archive.write_bytes(content)
    refuse(archive, r"sent\.zip: run/adata\.h5ad in it cannot be unpacked \(.*copy it again", cache)


def delete_domains(file: h5py.File) -> None:
    del file["obs/domain"]
    file["obs"].attrs["column-order"] = [name for name in file["obs"].attrs["column-order"] if name != "domain"]


def shorten_latents(file: h5py.File) -> None:
    latent = file["obsm/latent"][:5]
    del file["obsm/latent"]
    file["obsm/latent"] = latent
    file["obsm/latent"].attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})


def break_latents(file: h5py.File) -> None:
    file["obsm/latent"][3, 0] = np.nan


@pytest.mark.parametrize("break_file", [delete_domains, shorten_latents, break_latents])
def test_damage_within_a_file_is_found_when_it_is_unpacked(
    trained: Any, cache: Path, tmp_path: Path, break_file: Callable[[h5py.File], None]
) -> None:
    folder = Path(shutil.copytree(trained.folder, tmp_path / "broken"))
    with h5py.File(folder / "adata.h5ad", "r+") as file:
        break_file(file)
    archive = Path(shutil.make_archive(str(tmp_path / "sent"), "zip", folder.parent, folder.name))
    refuse(archive, r"sent\.zip/adata\.h5ad is damaged \(.*\)\.", cache)


def test_a_cache_that_cannot_be_written_names_its_variable(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("SCALEX_CACHE", str(tmp_path / "file"))
    for given in (archive, f"http://127.0.0.1:1/a.zip#sha256={'0' * 64}"):
        with pytest.raises(
            OSError, match=r"The cache folder \S*file cannot be used \(.*\): choose another one by the variable SCALEX_CACHE"
        ):
            Reference.load(given)


class TestAddress:
    def test_a_reference_is_downloaded_once(
        self, trained: Any, archive: Path, cache: Path, serve: Callable[..., str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        url = f"{serve(archive.read_bytes())}#sha256={compute_sha256(archive)}"
        found = Reference.load(url)
        assert found.describe()["folder"] == url
        assert found.describe()["lineage"][0]["folder"] == "atlas"
        assert list_names(cache) == [compute_sha256(archive)]
        assert "atlas.zip" not in list_names(found.folder)
        np.testing.assert_array_equal(found.embed(trained.query), Reference.load(trained.folder).embed(trained.query))
        monkeypatch.setattr(Address, "download", lambda *_: pytest.fail("downloaded again"))
        assert Reference.load(url).folder == Reference.load(archive).folder == found.folder

    def test_a_download_that_fails_leaves_nothing(self, archive: Path, cache: Path, serve: Callable[..., str]) -> None:
        content, sha256 = archive.read_bytes(), compute_sha256(archive)
        url = serve(content)
        refuse(url, r"an address needs the checksum of its file at its end", cache)
        refuse(f"{url}#sha256={'0' * 64}", "does not have the checksum sha256=0000", cache)
        refuse(f"{url}.no#sha256={sha256}", r"cannot be downloaded \(404 Not Found\)", cache, OSError)
        refuse(f"{serve(content, sent=1000)}#sha256={sha256}", "cannot be downloaded", cache, OSError)
        refuse(f"{serve(content, ends=True)}#sha256={sha256}", "cannot be downloaded", cache, OSError)

    def test_a_verified_file_that_holds_no_reference_leaves_nothing(self, cache: Path, serve: Callable[..., str]) -> None:
        content = io.BytesIO()
        with ZipFile(content, "w") as packed:
            packed.writestr("a.txt", "text")
        sha256 = hashlib.sha256(content.getvalue()).hexdigest()
        refuse(f"{serve(content.getvalue())}#sha256={sha256}", "holds no reference", cache)


@pytest.fixture
def barrier() -> Iterator[threading.Barrier]:
    barrier = threading.Barrier(2, timeout=60)
    yield barrier
    barrier.abort()


def test_two_that_open_an_archive_at_once_do_not_disturb_each_other(
    archive: Path, cache: Path, barrier: threading.Barrier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have begun to unpack before either is done."""
    unpack = place._unpack

    def unpack_together(*arguments: Any) -> None:
        barrier.wait()
        unpack(*arguments)
        barrier.wait()

    monkeypatch.setattr(place, "_unpack", unpack_together)
    found: list[bytes] = []

    def read() -> None:
        with place.open_place(archive) as opened:
            found.append((opened.folder / "adata.h5ad").read_bytes())

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    with ZipFile(archive) as packed:
        assert found == [packed.read("run/adata.h5ad")] * 2
    assert list_names(cache) == [compute_sha256(archive)]


def test_processes_open_an_archive_at_once_and_one_that_was_killed_leaves_nothing(archive: Path, cache: Path, tmp_path: Path) -> None:
    code = f"from scalex.reference.place import open_place\nwith open_place({str(archive)!r}) as place:\n    pass\n"
    killed = "from scalex.system.archive import Archive\nArchive.unpack = die\n"
    environment = {"SCALEX_CACHE": os.environ["SCALEX_CACHE"]}
    Child(killed + code, cwd=tmp_path, environment=environment).end(-9)
    assert [name.startswith(".unfinished-") for name in list_names(cache)] == [True]
    for child in [Child(code, cwd=tmp_path, environment=environment) for _ in range(2)]:
        child.end()
    assert list_names(cache) == [compute_sha256(archive)]
