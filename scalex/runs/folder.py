"""The folder of a run: made, resumed, and never written over."""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from scalex.system.overrides import format_for_shell

__all__ = ["COMPOSED", "RESULTS", "check_resume", "claim_folder", "new_folder", "find_checkpoint"]

logger = logging.getLogger(__name__)

# The configuration of a run with its references between settings, from which it is resumed; config.yaml has them resolved.
COMPOSED = ".composed.yaml"
# What a run leaves in its folder. Its settings and its log are not among them: a run that failed at once does not take the folder.
RESULTS = ("adata.h5ad", "checkpoint", "growth.json", "lineage.json", "metrics.csv", "metrics.json", "report.json", "umap.pdf", "umap.png")


def new_folder(folder: str | Path, *, resume: bool = False) -> Path:
    """Make the folder of a run, and see that it can be written to.

    Parameters
    ----------
    folder
        Where the results of the run go.
    resume
        The folder holds a run that was stopped and goes on.

    Raises
    ------
    FileExistsError
        If it holds results and `resume` is false.
    FileNotFoundError
        If there is nothing to resume.
    OSError
        If it cannot be written to.
    """
    folder = Path(folder)
    found = [name for name in RESULTS if (folder / name).exists()]
    if resume and not (folder / COMPOSED).exists():
        raise FileNotFoundError(f"Nothing to resume in {folder}: it holds no run.")
    if resume and "adata.h5ad" in found:
        raise FileExistsError(f"The run in {folder} is finished (adata.h5ad is there): there is nothing to resume.")
    if found and not resume:
        raise FileExistsError(
            f"The output folder {folder} holds another run's results ({', '.join(found)}). Choose another folder with output=, or go "
            f"on with a run that was stopped with {format_for_shell('resume', folder)}"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        # Another process of this launch may look at once.
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise OSError(f"Cannot write to the output folder {folder} ({error.strerror}). Choose another with output=.") from error
    return folder


@contextmanager
def claim_folder(folder: Path) -> Iterator[None]:
    """While this lasts, no other run can begin in a folder, as far as its disk knows locks.

    Raises
    ------
    FileExistsError
        If a run is at work there.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            # Of a process that is killed nothing stays, unlike of a file.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FileExistsError(
                f"A run is at work in the folder {folder}. Give each run its own with output=; processes that train together are asked "
                "for with trainer=ddp."
            ) from None
        except OSError:
            logger.debug("The disk of %s has no locks.", folder)
        yield
    finally:
        os.close(descriptor)


def find_checkpoint(folder: Path) -> Path | None:
    """The checkpoint from which a run in `folder` can go on; None if it was stopped before its first."""
    last = folder / "checkpoint" / "last.ckpt"
    return last if last.exists() else None


def check_resume(overrides: Iterable[str]) -> None:
    """See that nothing is typed beside ``resume=``, since a run goes on with the settings that it began with.

    Raises
    ------
    ValueError
        Naming what else is typed.
    """
    others = [override for override in overrides if not override.startswith("resume=")]
    if others:
        raise ValueError(
            f"resume= goes on with a run as it was configured, and {' '.join(others)} would change that. Leave it out, or begin a new run "
            "with these settings and another output=."
        )
