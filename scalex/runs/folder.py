"""Run folders: their files, states and checks.

One process owns the folder while it writes to it (`scalex.runs.owner`). All checks of its content come after that.

A run goes through four states. Each begins with one file, which is written whole and after all other files of the step:

=========  ========================  ===========================================================================
begun      ``.composed.yaml``        the settings are known; ``config.yaml`` is written before
training   ``checkpoint/last.ckpt``  the training goes on from here; ``metrics.csv`` is written before
trained    ``checkpoint/best.ckpt``  the weights from which the latents are computed
finished   ``adata.h5ad``            UMAP, scores, ``growth.json`` and ``lineage.json`` are written before
=========  ========================  ===========================================================================

A run that is stopped in one of the first three goes on from there, by ``resume=`` or by the same command, to the same result. A projection
has begun (``config.yaml``) or is finished (``adata.h5ad``; report, figures and the copied model are written before), and is made again.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from scalex.system.atomic_files import remove_unfinished
from scalex.system.overrides import format_for_shell
from scalex.system.program import name_command

__all__ = [
    "COMPOSED",
    "FINISHED",
    "RESULTS",
    "SEARCH",
    "check_resume",
    "check_stopped",
    "check_unused",
    "find_checkpoint",
    "remove_leftovers",
]

# The configuration with unresolved interpolations, from which a run is resumed. In config.yaml they are resolved.
COMPOSED = ".composed.yaml"
# The settings of a search, in the folder that holds the runs of its trials.
SEARCH = "tune.yaml"
# The last file of a run, and of a projection.
FINISHED = "adata.h5ad"
# Results of a run. Settings and log do not count, so that a run that failed at once does not occupy its folder.
RESULTS = (
    FINISHED,
    "checkpoint",
    "growth.json",
    "lineage.json",
    "metrics.csv",
    "metrics.json",
    "report.html",
    "report.json",
    "scores.pdf",
    "scores.png",
    "umap.pdf",
    "umap.png",
)
# Files that a killed process leaves, in addition to unfinished ones: those for the other processes of its launch, and a scratch table.
LEFTOVERS = (".composed-*.yaml", ".fitted-*.pt", ".input_pca")


def check_unused(folder: Path) -> None:
    """Check that a folder holds no results.

    Raises
    ------
    FileExistsError
        If it does.
    """
    results = [name for name in RESULTS if (folder / name).exists()]
    if results:
        resume = f", or resume a stopped training with {name_command('train')} {format_for_shell('resume', folder)}"
        raise FileExistsError(
            f"The output folder {folder} holds another run's results ({', '.join(results)}). Choose another folder with output="
            + (resume if (folder / COMPOSED).exists() else ".")
        )


def check_stopped(folder: Path) -> None:
    """Check that a folder holds a run that has begun and is not finished.

    Raises
    ------
    FileExistsError
        If the run is finished.
    FileNotFoundError
        If there is nothing to resume.
    """
    if not (folder / COMPOSED).exists():
        raise FileNotFoundError(f"Nothing to resume in {folder}: it holds no run.")
    if (folder / FINISHED).exists():
        raise FileExistsError(f"The run in {folder} is finished ({FINISHED} exists): there is nothing to resume.")


def remove_leftovers(folder: Path) -> None:
    """Remove what processes that were killed have left in a folder. Only its owner may do this."""
    for part in (folder, folder / "checkpoint"):
        remove_unfinished(part, of_other_hosts=True)
    for pattern in LEFTOVERS:
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)


def find_checkpoint(folder: Path) -> Path | None:
    """Return the checkpoint from which the run in `folder` can be resumed, or None if it has none yet."""
    checkpoint = folder / "checkpoint" / "last.ckpt"
    return checkpoint if checkpoint.exists() else None


def check_resume(overrides: Iterable[str]) -> None:
    """Check that the command line has no setting except ``resume=`` and ``allow=``, because a run is resumed with its own settings.

    Raises
    ------
    ValueError
        If there is another setting. The message names it.
    """
    others = [override for override in overrides if not override.startswith(("resume=", "allow="))]
    if others:
        raise ValueError(
            f"resume= continues a run with its own settings, and {' '.join(others)} would change them. Omit it, or start a new run "
            "with these settings and another output=."
        )
