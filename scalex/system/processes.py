"""The processes of a launch: which one this is, and how the first shares files with the others before they can communicate."""

from __future__ import annotations

import ctypes
import hashlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from scalex.system.atomic_files import atomic_write
from scalex.system.devices import count_devices

__all__ = [
    "Launch",
    "end_with_parent",
    "ignore_launcher",
    "is_first",
    "make_once",
    "name_parent",
    "read_launch",
    "uses_several_processes",
    "wait_for",
]

# Environment variables of launchers, and of Lightning for the processes that it starts.
VARIABLES = ("GROUP_RANK", "LOCAL_RANK", "NODE_RANK", "RANK", "SLURM_NTASKS", "SLURM_PROCID", "TORCHELASTIC_RUN_ID", "WORLD_SIZE")
# Environment variable with the number of the process that has started this one by Lightning.
PARENT = "SCALEX_PARENT"
# The request "send me a signal when my parent ends" of Linux, from sys/prctl.h.
PR_SET_PDEATHSIG = 1
# Seconds.
TIMEOUT = 24 * 3600.0
STOPPED = "Check whether that process has stopped."

Value = TypeVar("Value")


class Launch(NamedTuple):
    """The launch that started this process.

    Attributes
    ----------
    name
        Identifier that all processes of the launch share, and that differs from one launch to the next.
    first
        Whether this is the first process.
    """

    name: str
    first: bool


def read_launch() -> Launch:
    """Return the launch of this process, from the environment. As in Lightning, torchrun takes precedence over Slurm."""
    env = os.environ
    if "TORCHELASTIC_RUN_ID" in env:
        variables = ["TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "MASTER_ADDR", "MASTER_PORT", "SLURM_JOB_ID"]
        values = [env.get(name, "") for name in variables]
        if env.get("LOCAL_WORLD_SIZE", "") == env.get("WORLD_SIZE"):
            # Without --rdzv-id all launches have the same name and port, but torchrun creates a new folder for the errors of each.
            values.append(str(Path(env.get("TORCHELASTIC_ERROR_FILE", "/0/error.json")).parent.parent))
        return Launch(_digest(values), env.get("RANK", "0") == "0")
    if "SLURM_NTASKS" in env and env.get("SLURM_JOB_NAME") not in ("bash", "interactive"):
        values = [env.get(f"SLURM_{name}", "") for name in ("JOB_ID", "STEP_ID", "RESTART_COUNT")]
        return Launch(_digest(values), env.get("SLURM_PROCID", "0") == "0")
    # Lightning starts the other processes only after the first has written its files, so they cannot find files of an earlier launch.
    node = env.get("NODE_RANK", env.get("GROUP_RANK", "0"))
    return Launch("lightning", node == env.get("LOCAL_RANK", "0") == "0")


def is_first() -> bool:
    """Return whether this is the first, or only, process of its launch."""
    return read_launch().first


def uses_several_processes(trainer: Mapping[str, Any]) -> bool:
    """Return whether a trainer's settings may start several processes. With "auto" devices they may.

    Parameters
    ----------
    trainer
        Settings "devices" and "num_nodes" of Lightning's trainer: a number, or devices as a list or text.
    """
    n_devices = count_devices(trainer)
    return n_devices is None or n_devices * int(trainer.get("num_nodes", 1)) > 1


def name_parent() -> None:
    """Tell the processes that Lightning will start that this process is their parent; see `end_with_parent`."""
    os.environ[PARENT] = str(os.getpid())


def end_with_parent() -> None:
    """Let this process end with the one that has started it by Lightning, however that ends. Only Linux offers this.

    Otherwise a process could wait for half an hour for one that was killed.
    """
    launch = read_launch()
    if launch.first or launch.name != "lightning" or PARENT not in os.environ or sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    # The parent may have ended before the request.
    if os.getppid() != int(os.environ[PARENT]):
        os.kill(os.getpid(), signal.SIGKILL)


@contextmanager
def ignore_launcher() -> Iterator[None]:
    """Hide the launcher's environment variables, so that this process trains by itself although the launcher has started others."""
    one_task = os.environ.get("SLURM_NTASKS") == "1" and "TORCHELASTIC_RUN_ID" not in os.environ
    hidden = {} if one_task else {name: os.environ.pop(name) for name in VARIABLES if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)


def wait_for(path: Path, hint: str = STOPPED, *, seconds: float = TIMEOUT) -> None:
    """Wait until the first process has written a file.

    Raises
    ------
    TimeoutError
        If the file does not appear in time. The message ends with `hint`.
    """
    end = time.monotonic() + seconds
    while not path.exists():
        if time.monotonic() > end:
            raise TimeoutError(f"Waited {seconds:,.0f} s for {path}, which the first process should have written. {hint}")
        time.sleep(0.2)


@contextmanager
def make_once(
    path: Path,
    make: Callable[[], Value],
    save: Callable[[Value, Path], None],
    load: Callable[[Path], Value],
    *,
    hint: str = STOPPED,
    seconds: float = TIMEOUT,
) -> Iterator[Value]:
    """Make a value in the first process and yield it in all processes of the launch.

    The first process passes the value on in a file, and removes the file at the end.

    Parameters
    ----------
    path
        The file, in a folder that all processes see. The name of the launch is added to it.
    make, save, load
        Functions that make the value, write it to a path and read it back.
    hint, seconds
        See `wait_for`.
    """
    name, first = read_launch()
    own = path.with_name(f"{path.stem}-{name}{path.suffix}")
    if not first:
        wait_for(own, hint, seconds=seconds)
        yield load(own)
        return
    value = make()
    with atomic_write(own) as unfinished:
        save(value, unfinished)
    try:
        yield value
    finally:
        own.unlink(missing_ok=True)


def _digest(values: list[str]) -> str:
    return hashlib.sha256("\n".join(values).encode()).hexdigest()[:12]
