"""The devices that compute: CPU cores or GPUs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

__all__ = ["check_devices", "choose_accelerator", "count_devices"]


def choose_accelerator(accelerator: str = "auto") -> str:
    """Return what computes: for "auto" a GPU of CUDA if there is one, and the CPU otherwise.

    Lightning would also take a GPU of Apple, which lacks float64 and embedding bags.
    """
    import torch

    if accelerator != "auto":
        return accelerator
    return "cuda" if torch.cuda.is_available() else "cpu"


def check_devices(trainer: Mapping[str, Any]) -> None:
    """Check that this machine has the devices that a trainer's settings ask for, each of which gets a process.

    Parameters
    ----------
    trainer
        Settings "devices" and "accelerator" of Lightning's trainer.

    Raises
    ------
    ValueError
        If it has fewer, or no GPU of such a number.
    """
    import torch

    devices, n_devices = trainer.get("devices", "auto"), count_devices(trainer)
    on_gpus = choose_accelerator(trainer.get("accelerator", "auto")) != "cpu"
    limit, name = (torch.cuda.device_count(), "GPU") if on_gpus else (os.cpu_count() or 1, "CPU core")
    has = f"this machine has {limit} {name}{'' if limit == 1 else 's'}"
    instead = ", or trainer=cpu." if on_gpus else "."
    if n_devices is not None and n_devices > limit:
        raise ValueError(f"trainer.devices={devices} asks for {n_devices} devices, but {has}. Use at most that many{instead}")
    missing = [n for n in _list_numbers(devices) or [] if n >= limit]
    if on_gpus and missing:
        known = ", ".join(map(str, range(limit)))
        raise ValueError(f"trainer.devices={devices}: there is no {name} {missing[0]}, since {has}: {known}. Use one of these{instead}")


def count_devices(trainer: Mapping[str, Any]) -> int | None:
    """Return the number of devices in a trainer's settings, or None if the trainer chooses it."""
    devices = trainer.get("devices", "auto")
    numbers = _list_numbers(devices)
    if numbers is not None:
        return len(numbers)
    return None if devices in ("auto", "-1", -1) else int(devices)


def _list_numbers(devices: Any) -> list[int] | None:
    """Return the numbers of the devices, if they are listed."""
    if isinstance(devices, str) and "," in devices:
        return [int(device) for device in devices.split(",") if device.strip()]
    return None if isinstance(devices, int | str) else [int(device) for device in devices]
