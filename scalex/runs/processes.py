"""Beginning and resuming runs, in one process or in several."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

from scalex.runs.folder import COMPOSED, claim_folder, new_folder
from scalex.system.processes import ignore_launcher, is_first, make_once

__all__ = ["begin_run", "resume_run"]

Settings = TypeVar("Settings")


@contextmanager
def begin_run(
    folder: Path,
    settings: Settings,
    *,
    several: bool,
    write: Callable[[Settings, Path], None],
    save: Callable[[Settings, Path], None],
    load: Callable[[Path], Settings],
) -> Iterator[Settings]:
    """Create the folder of a run and claim it for the duration of the context. Of several processes, rank 0 does this.

    Parameters
    ----------
    folder
        Folder of the results.
    settings
        Settings of the run.
    several
        Whether several processes work together. Otherwise this process ignores its launcher.
    write
        Function that writes the settings to the folder.
    save, load
        Functions that write the settings to a temporary file and read them back, for the other processes.

    Yields
    ------
    Settings
        The settings of rank 0.

    Raises
    ------
    FileExistsError
        If the folder holds results, or another run uses it.
    OSError
        If the folder cannot be written to.
    TimeoutError
        If rank 0 does not create the folder in time.
    """
    with ExitStack() as stack:

        def begin() -> Settings:
            new_folder(folder)
            stack.enter_context(claim_folder(folder))
            write(settings, folder)
            return settings

        if several:
            hint = "Set output=: its default contains the time, which differs between processes."
            yield stack.enter_context(make_once(folder / COMPOSED, begin, save, load, hint=hint, seconds=120))
        else:
            stack.enter_context(ignore_launcher())
            yield begin()


@contextmanager
def resume_run(folder: Path, *, several: bool) -> Iterator[None]:
    """Claim the folder of a resumed run for the duration of the context. Of several processes, rank 0 does this.

    Raises
    ------
    FileExistsError
        If another run uses the folder.
    """
    with ExitStack() as stack:
        if not several:
            stack.enter_context(ignore_launcher())
        if is_first():
            stack.enter_context(claim_folder(folder))
        yield
