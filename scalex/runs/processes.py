"""Beginning and resuming runs, in one process or in several."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

from scalex.runs.folder import COMPOSED, check_stopped, check_unused, remove_leftovers
from scalex.runs.owner import own_folder
from scalex.system.processes import ignore_launcher, is_first, make_once, read_launch

__all__ = ["begin_run", "resume_run", "use_new_folder"]

Settings = TypeVar("Settings")


@contextmanager
def begin_run(
    folder: Path,
    settings: Settings,
    *,
    several: bool,
    name_is_given: bool,
    prepare: Callable[[Settings, Path], None],
    save: Callable[[Settings, Path], None],
    load: Callable[[Path], Settings],
) -> Iterator[Settings]:
    """Create the folder of a run and own it for the duration of the context. Of several processes, rank 0 does this.

    Parameters
    ----------
    folder
        Folder of the results.
    settings
        Settings of the run, with the name of the folder.
    several
        Whether several processes work together. Otherwise this process ignores its launcher.
    name_is_given
        Whether all processes were given the same folder. Otherwise its name contains the time, and that of rank 0 counts.
    prepare
        Function that checks the folder and writes the settings to it. It is called by the folder's owner.
    save, load
        Functions that write the settings to a temporary file and read them back, for the other processes.

    Yields
    ------
    Settings
        The settings of rank 0.

    Raises
    ------
    FileExistsError
        If another run uses the folder.
    OSError
        If the folder cannot be written to.
    TimeoutError
        If rank 0 does not create the folder in time.
    """
    with ExitStack() as stack:

        def begin() -> Settings:
            stack.enter_context(_own(folder))
            prepare(settings, folder)
            return settings

        if several:
            # Lightning gives the folder to the processes that it starts.
            meeting = folder if name_is_given or read_launch().name == "lightning" else folder.parent
            yield stack.enter_context(make_once(meeting / COMPOSED, begin, save, load, seconds=120))
        else:
            stack.enter_context(ignore_launcher())
            yield begin()


@contextmanager
def resume_run(folder: Path, *, several: bool) -> Iterator[None]:
    """Own the folder of a stopped run for the duration of the context. Of several processes, rank 0 does this.

    Raises
    ------
    FileExistsError
        If another run uses the folder, or the run is finished.
    FileNotFoundError
        If the folder holds no run.
    """
    with ExitStack() as stack:
        if not several:
            stack.enter_context(ignore_launcher())
        if is_first():
            stack.enter_context(_own(folder))
            check_stopped(folder)
        yield


@contextmanager
def use_new_folder(folder: Path) -> Iterator[None]:
    """Create a folder for results and own it for the duration of the context.

    Raises
    ------
    FileExistsError
        If it holds results, or another run uses it.
    OSError
        If it cannot be written to.
    """
    with _own(folder):
        check_unused(folder)
        yield


@contextmanager
def _own(folder: Path) -> Iterator[None]:
    with own_folder(folder):
        remove_leftovers(folder)
        yield
