from __future__ import annotations

import argparse

import numpy as np
import pytest

from benchmarks.tables import markdown_table, mean_and_spread
from benchmarks.timing import measure_in_turn, ratio, seconds_per_call
from benchmarks.tiny import parse_arguments


def test_figures_are_measured_in_turn_after_a_warm_up_round() -> None:
    order: list[str] = []

    def measure(name: str) -> float:
        order.append(name)
        return float(len(order))

    figures = {name: lambda name=name: measure(name) for name in "ab"}
    found = measure_in_turn(figures, 2)
    assert order == ["a", "b"] * 3
    assert {name: values.tolist() for name, values in found.items()} == {"a": [3, 5], "b": [4, 6]}
    order.clear()
    assert {name: values.tolist() for name, values in measure_in_turn(figures, 0).items()} == {"a": [1], "b": [2]}


def test_the_ratio_compares_figures_of_the_same_round() -> None:
    assert ratio(np.array([1.0, 20.0, 3.0]), np.array([2.0, 10.0, 3.0])) == 1


def test_calls_are_timed_after_a_warm_up() -> None:
    calls: list[int] = []
    assert 0 <= seconds_per_call(lambda: calls.append(1), 3)() < 0.1
    assert len(calls) == 8


def test_tables_and_spreads_are_formatted() -> None:
    assert markdown_table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"
    assert mean_and_spread([0.5]) == "0.500"
    assert mean_and_spread([0.5, 0.7], 2) == "0.60 ± 0.14"
    assert mean_and_spread([]) == mean_and_spread([0.5, float("nan")]) == ""


@pytest.mark.parametrize(("argv", "cells"), [([], 9), (["--tiny"], 2), (["--tiny", "--cells", "5"], 5)])
def test_tiny_replaces_only_defaults(argv: list[str], cells: int) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--cells", type=int, default=9)
    assert parse_arguments(parser, argv, cells=2).cells == cells
