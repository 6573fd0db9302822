"""Rows of which only the values above 0 are stored, and their product with a matrix."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor
from torch.nn import functional as F

__all__ = ["SparseRows"]


class SparseRows(NamedTuple):
    """Sparse rows of C cells x G features, their N stored values one after the other.

    Attributes
    ----------
    value_N
        float32.
    feature_N
        Feature of each value, int32 or int64.
    start_C
        Where each row begins among the values, of the type of `feature_N`.
    """

    value_N: Tensor
    feature_N: Tensor
    start_C: Tensor

    @property
    def n_rows(self) -> int:
        """Number of rows C."""
        return len(self.start_C)

    def times(self, weight_GH: Tensor) -> Tensor:
        """Product with a dense matrix, (n_rows, H), in its precision. A row's result does not depend on the other rows, to the last bit.

        A sum of the rows of the matrix that a cell's features name, which torch has as the sum of a bag of embeddings: of inputs with one
        value in 14 above 0 it takes a third of the time of the dense product.
        """
        value_N = self.value_N.to(weight_GH.dtype)
        return F.embedding_bag(self.feature_N, weight_GH, self.start_C, mode="sum", per_sample_weights=value_N)
