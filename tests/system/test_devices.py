from __future__ import annotations

from typing import Any

import pytest
import torch

import scalex
from scalex.system.devices import check_devices, choose_accelerator, count_devices


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)


@pytest.mark.parametrize(
    ("devices", "expected"),
    [(3, 3), ("3", 3), ("auto", None), (-1, None), ("-1", None), ([0], 1), ([1, 4], 2), ("1,4", 2), ("2,", 1)],
)
def test_devices_are_counted(devices: Any, expected: int | None) -> None:
    assert count_devices({"devices": devices}) == expected


def test_a_gpu_of_apple_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_accelerator() == "cpu"
    check_devices({"accelerator": "auto", "devices": 1})


@pytest.mark.usefixtures("two_gpus")
def test_a_gpu_is_taken_if_there_is_one() -> None:
    assert choose_accelerator() == "cuda"
    assert choose_accelerator("cpu") == "cpu"
    for devices in (1, 2, [0], [1], "0,1", "auto", -1):
        check_devices({"accelerator": "auto", "devices": devices})


@pytest.mark.usefixtures("two_gpus")
@pytest.mark.parametrize("accelerator", ["auto", "gpu", "cuda"])
@pytest.mark.parametrize(
    ("devices", "message"),
    [
        (3, r"trainer.devices=3 asks for 3 devices, but this machine has 2 GPUs. Use at most that many, or trainer=cpu."),
        ([2], r"trainer.devices=\[2\]: there is no GPU 2, since this machine has 2 GPUs: 0, 1. Use one of these, or trainer=cpu."),
        ("0,5", r"trainer.devices=0,5: there is no GPU 5, "),
    ],
)
def test_devices_that_are_not_there_are_refused(accelerator: str, devices: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_devices({"accelerator": accelerator, "devices": devices})


@pytest.mark.usefixtures("two_gpus")
def test_the_function_for_notebooks_names_its_own_parameter() -> None:
    with pytest.raises(ValueError, match=r"^gpu=5: this machine has 2 GPUs: 0, 1\.$"):
        scalex.SCALEX(scalex.demo_cells(50, 400), gpu=5, min_features=0)
