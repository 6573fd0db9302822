"""Likelihoods of the inputs given their reconstruction. A new one is a function here and a line in `LIKELIHOODS`."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from torch import Tensor

from scalex.nn.loss import reconstruction_loss

__all__ = ["LIKELIHOODS", "Likelihood", "check_likelihood"]

# Function of logits and inputs in [0, 1], (n_cells, n_features) each. It returns the negative log-likelihood summed over features and
# cells, without terms that do not depend on the logits. The sigmoid of a logit is the mean.
Likelihood = Callable[[Tensor, Tensor], Tensor]

LIKELIHOODS: dict[str, Likelihood] = {"bernoulli": reconstruction_loss}


def check_likelihood(name: str, known: Iterable[str] = LIKELIHOODS) -> None:
    """Check that there is a likelihood of that name.

    Raises
    ------
    ValueError
        If there is none.
    """
    if name not in known:
        raise ValueError(f"likelihood={name!r}: allowed are {', '.join(known)}.")
