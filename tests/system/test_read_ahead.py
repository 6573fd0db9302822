from __future__ import annotations

import threading

import pytest

from scalex.system.read_ahead import read_ahead


@pytest.mark.parametrize("n", [0, 1, 2, 7])
@pytest.mark.parametrize("threads", [1, 3])
def test_each_item_comes_in_order_with_its_result(n: int, threads: int) -> None:
    assert list(read_ahead(range(n), lambda i: i * i, threads=threads)) == [(i, i * i) for i in range(n)]


@pytest.mark.parametrize("threads", [1, 2])
def test_the_next_are_read_while_one_is_in_use_and_no_further(threads: int) -> None:
    begun: list[int] = []
    last = threading.Event()

    def read(i: int) -> int:
        begun.append(i)
        if i == threads:
            last.set()
        return i

    found = read_ahead(range(5), read, threads=threads)
    assert next(found) == (0, 0)
    assert last.wait(5)
    assert sorted(begun) == list(range(threads + 1))
    found.close()


def test_what_goes_wrong_is_raised_where_it_is_due() -> None:
    def read(i: int) -> int:
        if i == 1:
            raise OSError("rows 10-19 of a.h5ad")
        return i

    found = read_ahead(range(3), read)
    assert next(found) == (0, 0)
    with pytest.raises(OSError, match="rows 10-19"):
        next(found)
