"""Allowed values of the hyperparameters."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from scalex.nn.likelihood import check_likelihood

__all__ = ["Schedule", "Statistics", "check_plan", "choose_batch_size", "choose_n_steps"]

Schedule = Literal["constant", "one_cycle"]
Statistics = Literal["running", "domain"]
# Sizes of minibatches that suit few and many domains. With three cells of each of 40 domains, types are learned much more slowly.
MIN_BATCH_SIZE = 128
MAX_BATCH_SIZE = 1024
CELLS_PER_DOMAIN = 16
# Steps that suit up to so many cells. More cells have more types, whose learning takes longer.
MIN_STEPS = 1200
MAX_CELLS_OF_MIN_STEPS = 20_000


def check_plan(plan: Mapping[str, Any]) -> None:
    """Check the hyperparameters of `ScalexModule` that types cannot check.

    Raises
    ------
    ValueError
        If there is no such likelihood, or if labels are to take part in no corrections.
    """
    check_likelihood(plan["likelihood"])
    if plan["use_labels"] and not plan["correct_at"]:
        raise ValueError("use_labels=true: labels take part in the corrections, of which correct_at allows none.")


def choose_batch_size(n_domains: int) -> int:
    """Return the number of cells of a minibatch in which each domain has enough, if that takes not too many."""
    return min(max(CELLS_PER_DOMAIN * n_domains, MIN_BATCH_SIZE), MAX_BATCH_SIZE)


def choose_n_steps(n_cells: int) -> int:
    """Return the number of steps that suits a number of cells."""
    return round(MIN_STEPS * math.sqrt(max(n_cells / MAX_CELLS_OF_MIN_STEPS, 1)))
