"""The start of a run, new or resumed, in one process or several."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

from scalex.runs.folder import COMPOSED, claim_folder, make_folder
from scalex.system.processes import ignore_launcher, is_first, make_once

__all__ = ["start_run", "resume_run"]

Settings = TypeVar("Settings")


@contextmanager
def start_run(
    folder: Path,
    settings: Settings,
    *,
    several: bool,
    write: Callable[[Settings, Path], None],
    save: Callable[[Settings, Path], None],
    load: Callable[[Path], Settings],
) -> Iterator[Settings]:
    """Make the folder of a run and claim it. Of several processes, the first does.

    Parameters
    ----------
    folder
        The folder of the results.
    settings
        The settings of the run.
    several
        Whether several processes work together. Otherwise this process ignores its launcher.
    write
        Function that writes the settings to the folder for good.
    save, load
        Functions that write the settings to a file and read them, for the other processes.

    Yields
    ------
    The settings of the first process.

    Raises
    ------
    FileExistsError
        If the folder holds results, or a run is using it.
    OSError
        If it is not writable.
    TimeoutError
        If the first process does not make the folder.
    """
    with ExitStack() as stack:

        def make() -> Settings:
            make_folder(folder)
            stack.enter_context(claim_folder(folder))
            write(settings, folder)
            return settings

        if several:
            hint = "Set output=: its default contains the time, which differs between processes."
            yield stack.enter_context(make_once(folder / COMPOSED, make, save, load, hint=hint, seconds=120))
        else:
            stack.enter_context(ignore_launcher())
            yield make()


@contextmanager
def resume_run(folder: Path, *, several: bool) -> Iterator[None]:
    """Claim the folder of a resumed run. Of several processes, the first does.

    Raises
    ------
    FileExistsError
        If a run is using the folder.
    """
    with ExitStack() as stack:
        if not several:
            stack.enter_context(ignore_launcher())
        if is_first():
            stack.enter_context(claim_folder(folder))
        yield
