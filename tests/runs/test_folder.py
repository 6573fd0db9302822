from __future__ import annotations

from pathlib import Path

import pytest

from scalex.runs.folder import COMPOSED, RESULTS, check_stopped, check_unused, remove_leftovers


def listed(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_with_other_files_is_used(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    check_unused(tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("name", RESULTS)
def test_another_runs_results_are_never_overwritten(tmp_path: Path, name: str) -> None:
    """Among them is growth.json, which would say of another run that it is no reference."""
    (tmp_path / name).write_text("precious")
    message = rf"The output folder {tmp_path} holds another run's results \({name}\)\. Choose another folder with output="
    with pytest.raises(FileExistsError, match=rf"{message}\.$"):
        check_unused(tmp_path)
    # Only a run of the command line can be resumed.
    (tmp_path / COMPOSED).touch()
    with pytest.raises(FileExistsError, match=rf"{message}, or resume a stopped training with scalex train resume={tmp_path}$"):
        check_unused(tmp_path)
    assert (tmp_path / name).read_text() == "precious"


def test_a_run_that_failed_at_once_does_not_take_the_folder(tmp_path: Path) -> None:
    for name in ("config.yaml", COMPOSED, "log.txt"):
        (tmp_path / name).touch()
    check_unused(tmp_path)


def test_there_must_be_something_to_resume(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=f"Nothing to resume in {tmp_path}: it holds no run"):
        check_stopped(tmp_path)
    assert listed(tmp_path) == []


def test_a_finished_run_is_not_resumed(tmp_path: Path) -> None:
    (tmp_path / COMPOSED).touch()
    (tmp_path / "checkpoint").mkdir()
    check_stopped(tmp_path)
    (tmp_path / "adata.h5ad").touch()
    with pytest.raises(FileExistsError, match=rf"The run in {tmp_path} is finished \(adata\.h5ad exists\): there is nothing to resume"):
        check_stopped(tmp_path)


def test_leftovers_are_removed_and_results_stay(tmp_path: Path) -> None:
    (tmp_path / "checkpoint").mkdir()
    kept = {COMPOSED, "adata.h5ad", "checkpoint", ".owner"}
    for name in (
        *kept - {"checkpoint"},
        ".composed-lightning.yaml",
        ".fitted-123456789abc.pt",
        ".input_pca",
        ".unfinished-7@other@adata.h5ad",
    ):
        (tmp_path / name).touch()
    for name in ("last.ckpt", ".unfinished-7@other@last.ckpt"):
        (tmp_path / "checkpoint" / name).touch()
    remove_leftovers(tmp_path)
    assert set(listed(tmp_path)) == kept
    assert listed(tmp_path / "checkpoint") == ["last.ckpt"]
