"""The runs of a sweep that have failed: a file for each in the folder of the sweep, since runs may be processes on other machines."""

from __future__ import annotations

from pathlib import Path

from scalex.runs.folder import FINISHED
from scalex.system.atomic_files import atomic_write

__all__ = ["forget_failed_runs", "note_failed_run", "read_failed_runs"]

PREFIX = ".failed-"


def note_failed_run(folder: Path, name: str, message: str) -> None:
    """Write why a run has failed.

    Parameters
    ----------
    folder
        The folder of the sweep.
    name
        The name of the run's folder.
    message
        The error.
    """
    with atomic_write(folder / f"{PREFIX}{name}") as path:
        path.write_text(message)


def read_failed_runs(folder: Path) -> dict[str, str]:
    """Return the messages of the failed runs of a sweep, without those that have finished since, by the names of their folders."""
    paths = {path.name.removeprefix(PREFIX): path for path in folder.glob(f"{PREFIX}*")}
    failed = sorted((name for name in paths if not _has_finished(folder / name, paths[name])), key=lambda name: (len(name), name))
    return {name: paths[name].read_text() for name in failed}


def _has_finished(run: Path, message: Path) -> bool:
    """Return whether a run has finished since it failed. Results that were there before can be the reason of the failure."""
    result = run / FINISHED
    return result.exists() and result.stat().st_mtime_ns >= message.stat().st_mtime_ns


def forget_failed_runs(folder: Path) -> None:
    """Remove the messages, before runs are tried again."""
    for path in folder.glob(f"{PREFIX}*"):
        path.unlink(missing_ok=True)
