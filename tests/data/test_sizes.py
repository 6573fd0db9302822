from __future__ import annotations

import psutil
import pytest

from scalex.data.sizes import choose_sizes, default_memory_gb, fits


def test_buffers_have_the_usual_size_if_memory_allows() -> None:
    found = choose_sizes(1000, 150, 256, 4.0)
    assert found.buffer_minibatches == 128
    assert found.rows_per_read == 4096
    assert found.megabytes < 4000
    # A buffer holds 64 large minibatches.
    assert choose_sizes(1000, 150, 1024, 4.0).buffer_minibatches == 64


@pytest.mark.parametrize("memory_gb", [0.07, 0.1, 0.2, 0.5])
@pytest.mark.parametrize("values", [300, 1000, 20_000])
def test_sizes_stay_within_the_memory(values: float, memory_gb: float) -> None:
    found = choose_sizes(values, 100, 64, memory_gb)
    assert found.megabytes <= memory_gb * 1000
    assert found.buffer_minibatches >= 64
    assert 64 <= found.rows_per_read <= 4096


def test_too_little_memory_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"memory_gb=0.01 is too small .* at least 0.\d+ GB. Raise dataset"):
        choose_sizes(1000, 150, 256, 0.01)


def test_inputs_may_take_half_of_the_memory_of_a_gpu() -> None:
    assert fits(500, 1000)
    assert not fits(501, 1000)
    assert not fits(1, 0)


def test_the_default_memory_is_a_share_of_all() -> None:
    assert 0 < default_memory_gb() < psutil.virtual_memory().total / 1e9 / 2
