"""Run folders: creating, claiming and resuming them without overwriting results."""

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

# The configuration with unresolved interpolations, from which a run is resumed. In config.yaml they are resolved.
COMPOSED = ".composed.yaml"
# Results of a run. Settings and log do not count, so that a run that failed at once does not occupy its folder.
RESULTS = ("adata.h5ad", "checkpoint", "growth.json", "lineage.json", "metrics.csv", "metrics.json", "report.json", "umap.pdf", "umap.png")


def new_folder(folder: str | Path, *, resume: bool = False) -> Path:
    """Create a run folder, check that it can be written to, and return its path.

    Parameters
    ----------
    folder
        Folder of the results.
    resume
        Whether the folder holds a stopped run to resume.

    Raises
    ------
    FileExistsError
        If the folder holds results and `resume` is false, or a finished run and `resume` is true.
    FileNotFoundError
        If there is nothing to resume.
    OSError
        If the folder cannot be written to.
    """
    folder = Path(folder)
    results = [name for name in RESULTS if (folder / name).exists()]
    if resume and not (folder / COMPOSED).exists():
        raise FileNotFoundError(f"Nothing to resume in {folder}: it holds no run.")
    if resume and "adata.h5ad" in results:
        raise FileExistsError(f"The run in {folder} is finished (adata.h5ad exists): there is nothing to resume.")
    if results and not resume:
        raise FileExistsError(
            f"The output folder {folder} holds another run's results ({', '.join(results)}). Choose another folder with output=, or "
            f"resume a stopped training with python train.py {format_for_shell('resume', folder)}"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        # Another process of this launch may have removed it.
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise OSError(f"Cannot write to the output folder {folder} ({error.strerror}). Choose another with output=.") from error
    return folder


@contextmanager
def claim_folder(folder: Path) -> Iterator[None]:
    """Lock a folder against other runs for the duration of the context. Without locks on its disk, do nothing.

    Raises
    ------
    FileExistsError
        If another run has locked the folder.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            # Unlike a lock file, this lock ends with its process, even if the process is killed.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FileExistsError(
                f"Another run is using the folder {folder}. Give each run its own folder with output=. To train with several processes, "
                "use trainer=ddp."
            ) from None
        except OSError:
            logger.debug("The disk of %s has no locks.", folder)
        yield
    finally:
        os.close(descriptor)


def find_checkpoint(folder: Path) -> Path | None:
    """Return the checkpoint from which the run in `folder` can be resumed, or None if it has none yet."""
    checkpoint = folder / "checkpoint" / "last.ckpt"
    return checkpoint if checkpoint.exists() else None


def check_resume(overrides: Iterable[str]) -> None:
    """Check that the command line has no setting except ``resume=``, because a run is resumed with its own settings.

    Raises
    ------
    ValueError
        If there is another setting. The message names it.
    """
    others = [override for override in overrides if not override.startswith("resume=")]
    if others:
        raise ValueError(
            f"resume= continues a run with its own settings, and {' '.join(others)} would change them. Omit it, or start a new run "
            "with these settings and another output=."
        )
