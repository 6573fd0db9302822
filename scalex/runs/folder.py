"""The folder of a run. Results in it are never overwritten."""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from scalex.system.overrides import format_for_shell

__all__ = ["COMPOSED", "RESULTS", "check_resume", "claim_folder", "make_folder", "find_checkpoint"]

logger = logging.getLogger(__name__)

# The configuration from which a run is resumed, with references between settings. In config.yaml they are resolved.
COMPOSED = ".composed.yaml"
# Results of a run. Settings and log are not among them, so that the folder of a run that failed early can be used again.
RESULTS = ("adata.h5ad", "checkpoint", "growth.json", "lineage.json", "metrics.csv", "metrics.json", "report.json", "umap.pdf", "umap.png")


def make_folder(folder: str | Path, *, resume: bool = False) -> Path:
    """Make the folder of a run, and check that it is writable.

    Parameters
    ----------
    folder
        The folder of the results.
    resume
        Whether the folder holds a stopped run that is resumed.

    Raises
    ------
    FileExistsError
        If it holds results and `resume` is false.
    FileNotFoundError
        If there is nothing to resume.
    OSError
        If it is not writable.
    """
    folder = Path(folder)
    results = [name for name in RESULTS if (folder / name).exists()]
    if resume and not (folder / COMPOSED).exists():
        raise FileNotFoundError(f"There is nothing to resume in {folder}: it holds no run.")
    if resume and "adata.h5ad" in results:
        raise FileExistsError(f"There is nothing to resume in {folder}: its run is finished (adata.h5ad exists).")
    if results and not resume:
        raise FileExistsError(
            f"The output folder {folder} holds another run's results ({', '.join(results)}). Choose another folder with output=, or "
            f"resume a stopped run with {format_for_shell('resume', folder)}"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        # Another process of this launch may do the same now.
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise OSError(f"Cannot write to the output folder {folder} ({error.strerror}). Choose another with output=.") from error
    return folder


@contextmanager
def claim_folder(folder: Path) -> Iterator[None]:
    """Keep other runs out of a folder, if its file system has locks.

    Raises
    ------
    FileExistsError
        If a run is using the folder.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            # A lock ends with its process, also if that is killed. A file would stay.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FileExistsError(
                f"A run is using the folder {folder}. Give each run a folder of its own with output=. For processes that train together, "
                "use trainer=ddp."
            ) from None
        except OSError:
            logger.debug("The file system of %s has no locks.", folder)
        yield
    finally:
        os.close(descriptor)


def find_checkpoint(folder: Path) -> Path | None:
    """Return the checkpoint from which a run is resumed; None if it was stopped before its first checkpoint."""
    last = folder / "checkpoint" / "last.ckpt"
    return last if last.exists() else None


def check_resume(overrides: Iterable[str]) -> None:
    """Check that no other setting is given with ``resume=``, since a run is resumed with its own settings.

    Raises
    ------
    ValueError
        Naming the other settings.
    """
    others = [override for override in overrides if not override.startswith("resume=")]
    if others:
        raise ValueError(
            f"resume= resumes a run with its own settings, which {' '.join(others)} would change. Leave it out, or start a new run with "
            "these settings and another output=."
        )
