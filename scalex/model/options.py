"""Allowed values of the hyperparameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from scalex.nn.likelihood import check_likelihood

__all__ = ["Schedule", "Statistics", "check_plan", "choose_batch_size"]

Schedule = Literal["constant", "one_cycle"]
Statistics = Literal["running", "domain"]
# Sizes of minibatches that suit few and many domains. With three cells of each of 40 domains, types are learned much more slowly.
MIN_BATCH_SIZE = 128
MAX_BATCH_SIZE = 1024
CELLS_PER_DOMAIN = 16


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
