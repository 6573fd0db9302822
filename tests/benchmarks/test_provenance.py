from __future__ import annotations

import re
import subprocess
from datetime import date
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.provenance import provenance, source_hash


def run_git(folder: Path, *arguments: str) -> str:
    options = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
    return subprocess.run(["git", "-C", str(folder), *options, *arguments], capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    run_git(tmp_path, "init")
    (tmp_path / ".gitignore").write_text("kept/\n")
    (tmp_path / "code.py").write_text("1\n")
    run_git(tmp_path, "add", ".")
    run_git(tmp_path, "commit", "-m", "one")
    return tmp_path


def test_provenance_names_commit_versions_and_day(checkout: Path) -> None:
    (checkout / "kept").mkdir()
    (checkout / "kept" / "ignored").touch()
    about = provenance(checkout)
    commit = run_git(checkout, "rev-parse", "--short", "HEAD")
    libraries = f"torch {version('torch')}, lightning {version('lightning')}, numpy {np.__version__}"
    assert about == f"commit {commit}, {libraries}, {torch.get_num_threads()} thread(s), {date.today().isoformat()}"
    assert provenance(checkout, tiny=True) == f"{about}; --tiny: these figures mean nothing"


@pytest.mark.parametrize("file", ["code.py", "new.py"])
def test_provenance_names_uncommitted_changes(checkout: Path, file: str) -> None:
    (checkout / file).write_text("2\n")
    commit = run_git(checkout, "rev-parse", "--short", "HEAD")
    assert provenance(checkout).startswith(f"commit {commit} with changes, torch ")


def test_provenance_outside_a_checkout_names_no_commit(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = checkout / "unpacked"
    folder.mkdir()
    assert provenance(folder).startswith("unknown commit, torch ")
    monkeypatch.setenv("PATH", "")
    assert provenance(checkout).startswith("unknown commit, torch ")


def test_provenance_of_an_empty_checkout_names_no_commit(tmp_path: Path) -> None:
    run_git(tmp_path, "init")
    assert provenance(tmp_path).startswith("unknown commit, torch ")


def test_the_hash_of_the_source_is_short() -> None:
    assert re.fullmatch("[0-9a-f]{8}", source_hash())
