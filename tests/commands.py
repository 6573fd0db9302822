"""The commands, as a person types them, in this process: a new one takes seconds to import what it needs."""

from __future__ import annotations

import logging
import os
import runpy
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import NamedTuple

from hydra.core.global_hydra import GlobalHydra
from hydra.core.singleton import Singleton

ROOT = Path(__file__).parents[1]
# Runs a command in a new process, after something else.
WITHIN = """
import os, runpy, signal, sys
sys.argv[0] = {script!r}
sys.path.insert(0, {root!r})
def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
{before}
runpy.run_path(sys.argv[0], run_name="__main__")
"""


# Seconds: long enough for the busiest machine.
TIMEOUT = 900


class Done(NamedTuple):
    """What a command said, and with which code it ended."""

    returncode: int
    stdout: str
    stderr: str


def typed(script: str, *arguments: str, cwd: Path) -> Done:
    """`python script arguments`; all that it changes in this process is put back."""
    out, err = StringIO(), StringIO()
    with _put_back(cwd), redirect_stdout(out), redirect_stderr(err):
        sys.argv = [str(ROOT / script), *arguments]
        sys.path.insert(0, str(ROOT))
        try:
            runpy.run_path(sys.argv[0], run_name="__main__")
            code: object = 0
        except SystemExit as exit_:
            code = exit_.code
        except BaseException:
            traceback.print_exc()
            code = 1
        if isinstance(code, str):
            err.write(f"{code}\n")
            code = 1
    return Done(int(code or 0), out.getvalue(), err.getvalue())  # type: ignore[call-overload]


def command(script: str, *arguments: str, before: str = "") -> list[str]:
    """The same for a process of its own, where it does something else `before`."""
    path = str(ROOT / script)
    run = ["-c", WITHIN.format(script=path, root=str(ROOT), before=before)] if before else [path]
    return [sys.executable, *run, *arguments]


def run_alone(script: str, *arguments: str, cwd: Path, before: str = "", returncode: int = 0) -> str:
    """Run it so, see how it ends, and give what it said on its error stream."""
    run = command(script, *arguments, before=before)
    done = subprocess.run(run, cwd=cwd, capture_output=True, text=True, check=False, timeout=TIMEOUT)
    assert done.returncode == returncode, done.stderr
    return done.stderr


@contextmanager
def _put_back(cwd: Path) -> Iterator[None]:
    """Go to a folder, without a Hydra that is in use; at the end put back what Hydra and a run change."""
    folder, argv, path, environment = Path.cwd(), sys.argv, sys.path[:], os.environ.copy()
    hydra = Singleton.get_state()
    loggers = [logging.getLogger(name) for name in ("", "hydra", "scalex")]
    logged = [(one.level, one.handlers[:], one.propagate) for one in loggers]
    GlobalHydra.instance().clear()
    os.chdir(cwd)
    try:
        yield
    finally:
        os.chdir(folder)
        sys.argv, sys.path[:] = argv, path
        os.environ.clear()
        os.environ.update(environment)
        Singleton.set_state(hydra)
        for one, (level, handlers, propagate) in zip(loggers, logged, strict=True):
            one.setLevel(level)
            one.handlers[:] = handlers
            one.propagate = propagate
