"""What a report of a problem needs: versions, devices, free space, and which optional parts are there."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path

from scalex import __version__

__all__ = ["describe_machine"]

# What extras are for, and a module by which they are found.
OPTIONAL: Mapping[str, tuple[str, str]] = {
    "loom": ("loompy", "reads .loom files"),
    "filters": ("hdf5plugin", "reads HDF5 files with zstd, blosc and other filters"),
    "tensorboard": ("tensorboard", "logger=tensorboard"),
    "mlflow": ("mlflow", "logger=mlflow"),
    "launchers": ("hydra_plugins.hydra_submitit_launcher", "launch=local and launch=slurm"),
    "ray": ("hydra_plugins.hydra_ray_launcher", "launch=ray"),
    "tune": ("optuna", "scalex tune"),
    "de": ("pydeseq2", "scalex.genes.compare_conditions"),
}
# Environment variables that change how many threads there are, or which devices.
VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "NUMBA_CACHE_DIR", "MPLBACKEND")
GB = 1e9


def describe_machine() -> str:
    """Return versions, threads, devices, free memory and disk, and the optional parts, as lines of text."""
    return "".join(f"{f'{name}:':24} {text}\n" for name, text in _list_lines())


def _list_lines() -> Iterator[tuple[str, str]]:
    import psutil
    import torch

    yield "scalex", f"{__version__}, {Path(__file__).parents[1]}"
    yield "python", f"{platform.python_version()}, {sys.executable}"
    yield "system", platform.platform()
    for name in _list_requirements():
        yield name, _find_version(name)
    yield "CPU cores", f"{os.cpu_count()}, torch uses {torch.get_num_threads()} thread(s)"
    given = [f"{name}={os.environ[name]}" for name in VARIABLES if name in os.environ]
    yield "environment", " ".join(given) or "none of " + ", ".join(VARIABLES)
    yield "GPU", "; ".join(_list_gpus(torch.cuda.device_count())) or f"none that torch finds (built for CUDA {torch.version.cuda or 'no'})"
    memory, disk = psutil.virtual_memory(), shutil.disk_usage(Path.cwd())
    yield "memory", f"{memory.available / GB:.1f} of {memory.total / GB:.1f} GB free"
    yield "disk here", f"{disk.free / GB:.1f} of {disk.total / GB:.1f} GB free"
    for extra, (module, use) in OPTIONAL.items():
        yield f"for {use}", "installed" if _is_there(module) else f"not installed: pip install 'scalex[{extra}]'"


def _list_requirements() -> list[str]:
    """Return the names of the packages that SCALEX needs in any case."""
    try:
        needed = requires("scalex") or []
    except PackageNotFoundError:
        needed = ["torch", "lightning", "hydra-core", "anndata", "scanpy"]
    names = [one for one in needed if "extra ==" not in one]
    return [one[: next((n for n, letter in enumerate(one) if letter in " <>=!~;["), len(one))] for one in names]


def _find_version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _list_gpus(n_gpus: int) -> Iterator[str]:
    import torch

    for n in range(n_gpus):
        free, total = torch.cuda.mem_get_info(n)
        yield f"{n}: {torch.cuda.get_device_name(n)}, {free / GB:.1f} of {total / GB:.1f} GB free, CUDA {torch.version.cuda}"


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        # The package that should hold it is absent.
        return False
