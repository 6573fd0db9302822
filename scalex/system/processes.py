"""The processes that train together: which of them this one is, and what the first does for all before they can talk to each other."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from scalex.system.whole_files import written_whole

__all__ = ["Launch", "alone", "is_first", "launch", "made_once", "trains_with_others", "wait_for"]

# What launchers tell their processes, and Lightning those that it starts.
TOLD = ("GROUP_RANK", "LOCAL_RANK", "NODE_RANK", "RANK", "SLURM_NTASKS", "SLURM_PROCID", "TORCHELASTIC_RUN_ID", "WORLD_SIZE")
PATIENCE = 24 * 3600.0

Made = TypeVar("Made")


class Launch(NamedTuple):
    """What has started this process, maybe with others.

    Attributes
    ----------
    name
        The same in all processes of the launch, and another one in the next launch.
    first
        Whether this is the first process.
    """

    name: str
    first: bool


def launch() -> Launch:
    """What the environment says of this process, read as Lightning reads it: torchrun comes before Slurm, Slurm before Lightning itself."""
    told = os.environ
    if "TORCHELASTIC_RUN_ID" in told:
        says = ["TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "MASTER_ADDR", "MASTER_PORT", "SLURM_JOB_ID"]
        names = [told.get(name, "") for name in says]
        if told.get("LOCAL_WORLD_SIZE", "") == told.get("WORLD_SIZE"):
            # Without --rdzv-id all launches have one name and one port; what torchrun keeps its errors in is made anew for each.
            names.append(str(Path(told.get("TORCHELASTIC_ERROR_FILE", "/0/error.json")).parent.parent))
        return Launch(_digest(names), told.get("RANK", "0") == "0")
    if "SLURM_NTASKS" in told and told.get("SLURM_JOB_NAME") not in ("bash", "interactive"):
        names = [told.get(f"SLURM_{name}", "") for name in ("JOB_ID", "STEP_ID", "RESTART_COUNT")]
        return Launch(_digest(names), told.get("SLURM_PROCID", "0") == "0")
    # Lightning starts the others when the first has done its part, so that they find what this launch has left, and not an earlier one.
    node = told.get("NODE_RANK", told.get("GROUP_RANK", "0"))
    return Launch("lightning", node == told.get("LOCAL_RANK", "0") == "0")


def is_first() -> bool:
    """Whether this is the first of the processes that train together, or the only one."""
    return launch().first


def trains_with_others(trainer: Mapping[str, Any]) -> bool:
    """Whether a trainer's settings ask for several processes; where they leave it to the machine, the launcher is believed.

    Parameters
    ----------
    trainer
        "devices" and "num_nodes" as Lightning's trainer has them: a number, or a list or text of devices.
    """
    devices = trainer.get("devices", "auto")
    if isinstance(devices, str) and "," in devices:
        devices = [device for device in devices.split(",") if device.strip()]
    if devices in ("auto", "-1", -1):
        return True
    n_devices = int(devices) if isinstance(devices, int | str) else len(devices)
    return n_devices * int(trainer.get("num_nodes", 1)) > 1


@contextmanager
def alone() -> Iterator[None]:
    """While this lasts, this process trains by itself, whatever others its launcher has started: what it was told of them is hidden."""
    one_task = os.environ.get("SLURM_NTASKS") == "1" and "TORCHELASTIC_RUN_ID" not in os.environ
    hidden = {} if one_task else {name: os.environ.pop(name) for name in TOLD if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)


def wait_for(path: Path, what: str, *, seconds: float = PATIENCE) -> None:
    """Wait until the first process has written a file.

    Raises
    ------
    TimeoutError
        If it is not there in time; `what` says what may be wrong.
    """
    end = time.monotonic() + seconds
    while not path.exists():
        if time.monotonic() > end:
            raise TimeoutError(f"Waited {seconds:,.0f} s for {path}, which the first process writes. {what}")
        time.sleep(0.2)


@contextmanager
def made_once(
    path: Path,
    make: Callable[[], Made],
    save: Callable[[Made, Path], None],
    load: Callable[[Path], Made],
    *,
    what: str = "Has it stopped?",
    seconds: float = PATIENCE,
) -> Iterator[Made]:
    """What the first process makes, for all of its launch: it leaves it in a file, for which the others wait, and removes it at the end.

    Parameters
    ----------
    path
        The file, in a folder that all processes see; the name of the launch is added to its own. Those of earlier launches are removed.
    make, save, load
        Make it, write it to a path, read it from there.
    what, seconds
        How long the others wait, and what they say then; see `wait_for`.
    """
    name, first = launch()
    own = path.with_name(f"{path.stem}-{name}{path.suffix}")
    if not first:
        wait_for(own, what, seconds=seconds)
        yield load(own)
        return
    for earlier in path.parent.glob(f"{path.stem}-*{path.suffix}"):
        earlier.unlink(missing_ok=True)
    made = make()
    with written_whole(own) as unfinished:
        save(made, unfinished)
    try:
        yield made
    finally:
        own.unlink(missing_ok=True)


def _digest(names: list[str]) -> str:
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:12]
