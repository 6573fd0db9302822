"""The commands, as a person types them, in this process: a new one takes seconds to import what it needs."""

from __future__ import annotations

import logging
import multiprocessing
import os
import runpy
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import NamedTuple

from hydra.core.global_hydra import GlobalHydra
from hydra.core.singleton import Singleton

ROOT = Path(__file__).parents[1]
# Processes that start as copies of one that has imported what takes seconds to import.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["scalex.training.fit", "scalex.training.growth", "scalex.callbacks", "hydra"])
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


class Started:
    """A process of its own, a copy of one that has imported what a run needs.

    Parameters
    ----------
    code
        What it does; `die()` kills it.
    cwd
        Where.
    environment
        What it is told besides what this process is.
    """

    def __init__(self, code: str, *, cwd: Path, environment: Mapping[str, str] | None = None) -> None:
        self._said = NamedTemporaryFile("w+")  # noqa: SIM115 -- removed when it is closed, in `end`
        with _one_thread():
            told = os.environ | (environment or {})
            self.process = FORKS.Process(target=_do, args=(code, str(cwd), told, self._said.name))
            self.process.start()

    def end(self, returncode: int = 0) -> str:
        """Wait until it ends, see how, and give what it said."""
        with self._said:
            self.process.join(TIMEOUT)
            ended = self.process.exitcode
            self.process.kill()
            self.process.join()
            self.process.close()
            self._said.seek(0)
            said = self._said.read()
        assert ended == returncode, said
        return said


def start(script: str, *arguments: str, cwd: Path, before: str = "", environment: Mapping[str, str] | None = None) -> Started:
    """`python script arguments` in a process of its own, after some code."""
    argv = [str(ROOT / script), *arguments]
    path = f"sys.path.insert(0, {str(ROOT)!r})"
    run = f"import runpy, sys\nsys.argv = {argv}\n{path}\nrunpy.run_path(sys.argv[0], run_name='__main__')"
    return Started(f"{before}\n{run}", cwd=cwd, environment=environment)


def run_alone(script: str, *arguments: str, cwd: Path, before: str = "", returncode: int = 0) -> str:
    """The same, to its end."""
    return start(script, *arguments, cwd=cwd, before=before).end(returncode)


def start_tasks(script: str, *arguments: str, cwd: Path, before: Sequence[str] = ("", ""), wait: float = 0) -> list[Started]:
    """The same in several tasks of Slurm on one node, each after other code; `wait` seconds after the others comes the first."""
    n_tasks = {"NTASKS": str(len(before)), "NTASKS_PER_NODE": str(len(before))}
    started = []
    for task in reversed(range(len(before))):
        if task == 0:
            time.sleep(wait)
        started.append(start(script, *arguments, cwd=cwd, before=before[task], environment=slurm(task, **n_tasks)))
    return started[::-1]


def slurm(task: int, **told: str) -> dict[str, str]:
    """What srun tells a task of two, on one node."""
    own = {"PROCID": str(task), "LOCALID": str(task)}
    return {f"SLURM_{name}": value for name, value in (STEP | own | told).items()}


STEP = {
    "NTASKS": "2", "NODEID": "0", "NODELIST": "localhost", "JOB_NODELIST": "localhost", "JOB_ID": "1234", "STEP_ID": "0",
    "JOB_NAME": "train",
}  # fmt: skip


def _do(code: str, cwd: str, environment: dict[str, str], said: str) -> None:
    file = os.open(said, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(file, stream)
    # Of a process in the background it is ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    exec(code, {"die": lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL), "os": os})


@contextmanager
def _one_thread() -> Iterator[None]:
    """While this lasts, a process that starts has one thread for its sums, so that they do not depend on the machine."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        del os.environ["OMP_NUM_THREADS"]
        if before is not None:
            os.environ["OMP_NUM_THREADS"] = before


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
