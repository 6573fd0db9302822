"""Allowed values of the hyperparameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from scalex.nn.likelihood import check_likelihood

__all__ = ["Schedule", "Statistics", "check_plan"]

Schedule = Literal["constant", "one_cycle"]
Statistics = Literal["running", "domain"]


def check_plan(plan: Mapping[str, Any]) -> None:
    """Check the hyperparameters of `ScalexModule`.

    Raises
    ------
    ValueError
        Naming the first that is out of range.
    """
    for name, allowed in (("schedule", get_args(Schedule)), ("statistics", get_args(Statistics))):
        if plan[name] not in allowed:
            raise ValueError(f"{name}={plan[name]!r}: allowed are {', '.join(allowed)}.")
    check_likelihood(plan["likelihood"])
    for name in ("n_latent", "n_hidden", "max_steps"):
        if plan[name] < 1:
            raise ValueError(f"{name}={plan[name]}: it must be at least 1.")
    for name in ("lr", "encoder_lr"):
        if plan[name] <= 0:
            raise ValueError(f"{name}={plan[name]}: it must be above 0.")
    if plan["correction_weight"] < 0:
        raise ValueError(f"correction_weight={plan['correction_weight']}: it must be at least 0.")
    if plan["use_labels"] and not plan["correct_at"]:
        raise ValueError("use_labels=True: labels take part in the corrections, of which correct_at allows none.")
