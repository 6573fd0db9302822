"""Run the commands in this process or in child processes that inherit its imports: a new process takes seconds to import."""

from __future__ import annotations

import logging
import multiprocessing
import os
import runpy
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import NamedTuple

from hydra.core.global_hydra import GlobalHydra
from hydra.core.singleton import Singleton

from scalex.commands.main import main

ROOT = Path(__file__).parents[1]
# Child processes are copies of one that has already imported the slow modules.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["scalex.training.fit", "scalex.training.growth", "scalex.callbacks", "hydra"])
# Seconds, enough for a very busy machine.
TIMEOUT = 900


class Done(NamedTuple):
    """Output and exit code of a command."""

    returncode: int
    stdout: str
    stderr: str


def run_command(script: str, *arguments: str, cwd: Path) -> Done:
    """Run `python script arguments` in this process, and restore all that it changes."""
    return _run(str(ROOT / script), arguments, cwd, lambda: runpy.run_path(str(ROOT / script), run_name="__main__"))


def run_program(*arguments: str, cwd: Path) -> Done:
    """Run `scalex arguments` in this process, and restore all that it changes."""
    return _run("scalex", arguments, cwd, main)


def _run(program: str, arguments: tuple[str, ...], cwd: Path, run: Callable[[], object]) -> Done:
    out, err = StringIO(), StringIO()
    with _restore_process(cwd), redirect_stdout(out), redirect_stderr(err):
        sys.argv = [program, *arguments]
        sys.path.insert(0, str(ROOT))
        try:
            run()
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


class Child:
    """A child process that has already imported what a run needs.

    Parameters
    ----------
    code
        Code to run. It may call `die()` to kill the process.
    cwd
        Working directory.
    environment
        Environment variables in addition to those of this process.
    """

    def __init__(self, code: str, *, cwd: Path, environment: Mapping[str, str] | None = None) -> None:
        self._output = NamedTemporaryFile("w+")  # noqa: SIM115 -- `end` closes and removes it
        with _use_one_thread():
            variables = os.environ | (environment or {})
            self.process = FORKS.Process(target=_run_code, args=(code, str(cwd), variables, self._output.name))
            self.process.start()

    def end(self, returncode: int = 0) -> str:
        """Wait for the process, check its exit code and return its output."""
        with self._output:
            self.process.join(TIMEOUT)
            exitcode = self.process.exitcode
            self.process.kill()
            self.process.join()
            self.process.close()
            self._output.seek(0)
            output = self._output.read()
        assert exitcode == returncode, output
        return output


def start_child(script: str, *arguments: str, cwd: Path, before: str = "", environment: Mapping[str, str] | None = None) -> Child:
    """Start `python script arguments` in a child process, after the code `before`."""
    argv = [str(ROOT / script), *arguments]
    path = f"sys.path.insert(0, {str(ROOT)!r})"
    run = f"import runpy, sys\nsys.argv = {argv}\n{path}\nrunpy.run_path(sys.argv[0], run_name='__main__')"
    return Child(f"{before}\n{run}", cwd=cwd, environment=environment)


def run_child(script: str, *arguments: str, cwd: Path, before: str = "", returncode: int = 0) -> str:
    """Run `python script arguments` in a child process to its end, and return its output."""
    return start_child(script, *arguments, cwd=cwd, before=before).end(returncode)


def start_tasks(
    script: str,
    *arguments: str,
    cwd: Path,
    before: tuple[str, str] = ("", ""),
    wait: float = 0,
    launcher: Callable[[int], Mapping[str, str]] | None = None,
) -> list[Child]:
    """Start the command in the two tasks of a launch, each after its own code. The first starts `wait` seconds after the second."""
    started = []
    for task in (1, 0):
        if task == 0:
            time.sleep(wait)
        environment = slurm(task, NTASKS_PER_NODE="2") if launcher is None else launcher(task)
        started.append(start_child(script, *arguments, cwd=cwd, before=before[task], environment=environment))
    return started[::-1]


def torchrun(rank: int, started: str = "a", port: int = 29500) -> dict[str, str]:
    """Return the environment variables that torchrun sets for one of two processes."""
    return {
        "TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_RESTART_COUNT": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port),
        "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0",
        "TORCHELASTIC_ERROR_FILE": f"/tmp/torchelastic_{started}/none_{started}/attempt_0/{rank}/error.json",
    }  # fmt: skip


def find_free_port() -> int:
    """Return a port that nothing listens on."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return int(free.getsockname()[1])


def slurm(task: int, **variables: str) -> dict[str, str]:
    """Return the environment variables that srun sets for one of two tasks on one node."""
    own = {"PROCID": str(task), "LOCALID": str(task)}
    return {f"SLURM_{name}": value for name, value in (STEP | own | variables).items()}


# The port of a process group follows from the job: each process that runs tests has its own.
JOB_ID = str(1234 + int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")))
STEP = {
    "NTASKS": "2", "NODEID": "0", "NODELIST": "localhost", "JOB_NODELIST": "localhost", "JOB_ID": JOB_ID, "STEP_ID": "0",
    "JOB_NAME": "train",
}  # fmt: skip


def _run_code(code: str, cwd: str, environment: dict[str, str], output: str) -> None:
    file = os.open(output, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(file, stream)
    # A background process ignores the signal otherwise.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    try:
        exec(code, {"die": lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL), "os": os})
    except KeyboardInterrupt as error:
        # multiprocessing would print a traceback. Python calls the hook, and ends with the signal.
        sys.excepthook(type(error), error, error.__traceback__)
        sys.exit(130)


@contextmanager
def _use_one_thread() -> Iterator[None]:
    """Let child processes use one thread, so that sums do not depend on the machine."""
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        del os.environ["OMP_NUM_THREADS"]
        if before is not None:
            os.environ["OMP_NUM_THREADS"] = before


@contextmanager
def _restore_process(cwd: Path) -> Iterator[None]:
    """Change to a folder with a fresh Hydra, and finally restore what Hydra and a run change."""
    folder, argv, path, environment = Path.cwd(), sys.argv, sys.path[:], os.environ.copy()
    hydra = Singleton.get_state()
    loggers = [logging.getLogger(name) for name in ("", "hydra", "scalex")]
    show_error = sys.excepthook
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
        sys.excepthook = show_error
        for one, (level, handlers, propagate) in zip(loggers, logged, strict=True):
            one.setLevel(level)
            one.handlers[:] = handlers
            one.propagate = propagate
