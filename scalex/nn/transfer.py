"""Copies between the memory of the CPU and that of a GPU."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["send"]


def send(values: Tensor, device: torch.device) -> Tensor:
    """Return the values on a device. A copy to a GPU goes on while the program does."""
    if values.device == device:
        return values
    # The GPU can copy by itself from memory that stays in its place.
    return (values.pin_memory() if device.type == "cuda" and values.device.type == "cpu" else values).to(device, non_blocking=True)
