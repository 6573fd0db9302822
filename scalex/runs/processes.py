"""A run begins, or goes on, in one process or in several that work together."""

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
    """Make the folder of a run and hold it while this lasts; of several processes, the first does.

    Parameters
    ----------
    folder
        Where the results go.
    settings
        What the run was asked for.
    several
        Whether processes work together. Otherwise this one ignores what its launcher says of others.
    write
        Write the settings to the folder, to stay there.
    save, load
        Write the settings to a file, and read them from it, for the other processes.

    Yields
    ------
    The settings of the first process.

    Raises
    ------
    FileExistsError
        If the folder holds results, or a run is at work there.
    OSError
        If it cannot be written to.
    TimeoutError
        If the first process does not make the folder.
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
    """Hold the folder of a run that goes on while this lasts; of several processes, the first does.

    Raises
    ------
    FileExistsError
        If a run is at work there.
    """
    with ExitStack() as stack:
        if not several:
            stack.enter_context(ignore_launcher())
        if is_first():
            stack.enter_context(claim_folder(folder))
        yield
