"""Copies between the memory of the CPU and that of a GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
from torch import Tensor

__all__ = ["copy_aside", "free_memory", "send", "wait_for"]

Copied = TypeVar("Copied")

# torch does not give pinned memory back. More than this is copied from where it lies, which takes a few tenths of a second per GB.
MOST_PINNED_BYTES = 2**28


def send(values: Tensor, device: torch.device) -> Tensor:
    """Return the values on a device. A copy of up to 256 MiB to a GPU goes on while the program does."""
    if values.device == device:
        return values
    # The GPU can copy by itself from memory that stays in its place.
    pins = device.type == "cuda" and values.device.type == "cpu" and values.nbytes <= MOST_PINNED_BYTES
    return (values.pin_memory() if pins else values).to(device, non_blocking=True)


def copy_aside(copy: Callable[[], Copied], device: torch.device) -> tuple[Copied, torch.cuda.Event]:
    """Call a function that copies to a GPU, beside what the GPU computes, and return what it returns and the event of its end.

    A thread may call this, while another computes. See `wait_for`.
    """
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    with torch.cuda.stream(stream):
        return copy(), stream.record_event()


def wait_for(event: torch.cuda.Event, copied: Iterable[Tensor]) -> None:
    """Let what the GPU computes next, but not the program, wait for the end of a copy."""
    for part in copied:
        computing = torch.cuda.current_stream(part.device)
        computing.wait_event(event)
        # Otherwise the next copy could take the memory of a freed tensor that is still being read.
        part.record_stream(computing)


def free_memory(device: torch.device) -> int:
    """Return the free memory of a GPU in bytes."""
    return torch.cuda.mem_get_info(device)[0]
