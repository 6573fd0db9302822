from __future__ import annotations

import ctypes
import sys

import pytest

from scalex.system.memory import keep_freed_memory


class Library:
    def __init__(self) -> None:
        self.set: dict[int, int] = {}

    def mallopt(self, option: int, value: int) -> int:
        self.set[option] = value
        return 1


def test_both_thresholds_of_glibc_are_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library()
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda _: library)
    keep_freed_memory()
    # M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of malloc.h.
    assert library.set == {-3: 32 * 2**20, -1: 512 * 2**20}


@pytest.mark.skipif(sys.platform != "linux", reason="glibc")
def test_glibc_takes_the_thresholds() -> None:
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        pytest.skip("another C library")
    assert mallopt(-3, 32 * 2**20) == 1
    assert mallopt(-1, 512 * 2**20) == 1


def test_elsewhere_nothing_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library()
    monkeypatch.setattr(ctypes, "CDLL", lambda _: library)
    monkeypatch.setattr(sys, "platform", "darwin")
    keep_freed_memory()
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    keep_freed_memory()
    assert library.set == {}
