"""Allowed values of the hyperparameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from scalex.nn.likelihood import check_likelihood

__all__ = ["Schedule", "Statistics", "check_plan"]

Schedule = Literal["constant", "one_cycle"]
Statistics = Literal["running", "domain"]


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
