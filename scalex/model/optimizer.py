"""Adam for the encoder and the decoder, and the schedule of their learning rates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.optim import Adam
from torch.optim.lr_scheduler import OneCycleLR

from scalex.nn import VAE

__all__ = ["make_optimizer", "one_cycle"]


def make_optimizer(net: VAE, plan: Mapping[str, Any], *, fused: bool) -> Adam:
    """Return Adam with an L2 penalty and separate learning rates for decoder and encoder.

    The logarithms of mean counts, which are far from 0, and of dispersions have no penalty.

    Parameters
    ----------
    net
        The network.
    plan
        "lr", "encoder_lr" and "weight_decay", as in `ScalexModule`.
    fused
        Whether one kernel updates all parameters.
    """
    encoder = [*net.hidden.parameters(), *net.hidden_norm.parameters(), *net.heads.parameters()]
    decoder, shift = [net.output_weight, net.output_norm.weight], net.output_norm.bias
    groups: list[dict[str, Any]] = [
        {"params": decoder, "lr": plan["lr"]},
        {"params": encoder, "lr": plan["lr"] * plan["encoder_lr"]},
    ]
    if net.likelihood.of_counts:
        groups.append({"params": [shift, *net.likelihood.parameters()], "lr": plan["lr"], "weight_decay": 0.0})
    else:
        decoder.append(shift)
    return Adam(groups, weight_decay=plan["weight_decay"], fused=fused)


def one_cycle(optimizer: Adam, n_steps: int) -> OneCycleLR:
    """Return a schedule that rises to each group's learning rate and falls to nearly 0 (Smith & Topin 2018)."""
    # The first learning rate is set before the first step, so there is one more than steps.
    return OneCycleLR(optimizer, [group["lr"] for group in optimizer.param_groups], total_steps=n_steps + 1)
