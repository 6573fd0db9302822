"""The step of a training as code that torch compiles for it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from scalex.nn import VAE, BoundTerms, MinibatchCounts, bound_terms
from scalex.nn.batch import CellBatch

__all__ = ["ComputeTerms", "compile_terms"]

logger = logging.getLogger(__name__)

# The signature of `bound_terms`.
ComputeTerms: TypeAlias = Callable[[VAE, CellBatch, Tensor, MinibatchCounts], BoundTerms]


def compile_terms() -> ComputeTerms:
    """Return `bound_terms` as a function that torch compiles at its first call.

    Operations then share kernels, of which a GPU starts fewer. Minibatches of all sizes use the same code: the number of values above 0
    differs from one to the next, so that a recorded sequence of kernels, a CUDA graph, would serve only one of them.
    """
    # Code of an earlier training in this process would count against the number of versions that torch compiles.
    torch.compiler.reset()
    logger.info("torch compiles the step, which takes some tens of seconds at the first minibatch")
    return torch.compile(bound_terms, dynamic=True)
