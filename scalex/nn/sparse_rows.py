"""Sparse rows, which can be cut, made dense and multiplied by a matrix.

Dimension letters: C cells, G features, N stored values, H columns of a matrix.
"""

from __future__ import annotations

from typing import NamedTuple, Self

import torch
from scipy import sparse
from torch import Tensor
from torch.nn import functional as F

from scalex.nn.transfer import send

__all__ = ["SparseRows"]


class SparseRows(NamedTuple):
    """Sparse rows of C cells x G features with N stored values, as in CSR.

    Attributes
    ----------
    value_N
        float32.
    feature_N
        Feature of each value, int32 or int64.
    pointer_C1
        (C + 1,) first value of each row, and the end of the last row; of the type of `feature_N`.
    n_features
        Number of features G.
    """

    value_N: Tensor
    feature_N: Tensor
    pointer_C1: Tensor
    n_features: int

    @classmethod
    def of(cls, matrix: sparse.csr_matrix) -> Self:
        """Return the rows of a CSR matrix, whose memory they share."""
        value_N, feature_N, pointer_C1 = (torch.from_numpy(part) for part in (matrix.data, matrix.indices, matrix.indptr))
        return cls(value_N, feature_N, pointer_C1, matrix.shape[1])

    @property
    def n_rows(self) -> int:
        """Number of rows C."""
        return len(self.pointer_C1) - 1

    def rows(self) -> Tensor:
        """Return the row of each value, (N,) int64."""
        return torch.repeat_interleave(torch.diff(self.pointer_C1).long(), output_size=len(self.value_N))

    def cut(self, start: int, stop: int) -> Self:
        """Return rows `start` to `stop` - 1."""
        pointer_C1 = self.pointer_C1[start : stop + 1]
        first, last = int(pointer_C1[0]), int(pointer_C1[-1])
        return self._replace(value_N=self.value_N[first:last], feature_N=self.feature_N[first:last], pointer_C1=pointer_C1 - first)

    @property
    def parts(self) -> tuple[Tensor, Tensor, Tensor]:
        """The three tensors."""
        return self.value_N, self.feature_N, self.pointer_C1

    def take(self, row_C: Tensor, n_values: int) -> Self:
        """Return the given rows, with repeats and in any order.

        Parameters
        ----------
        row_C
            (C,) int64, the rows, on the device of the values.
        n_values
            Number of their values. On a GPU, it would have to be waited for.
        """
        first_C = self.pointer_C1[row_C]
        length_C = self.pointer_C1[row_C + 1] - first_C
        end_C = torch.cumsum(length_C, 0)
        shift_N = torch.repeat_interleave(first_C - end_C + length_C, length_C, output_size=n_values)
        position_N = shift_N.add_(torch.arange(n_values, device=row_C.device))
        pointer_C1 = torch.cat([end_C.new_zeros(1), end_C]).to(self.feature_N.dtype)
        return self._replace(value_N=self.value_N[position_N], feature_N=self.feature_N[position_N], pointer_C1=pointer_C1)

    def to(self, device: torch.device) -> Self:
        """Return the rows on a device."""
        value_N, feature_N, pointer_C1 = (send(part, device) for part in self.parts)
        return self._replace(value_N=value_N, feature_N=feature_N, pointer_C1=pointer_C1)

    def csr(self) -> sparse.csr_matrix:
        """Return a CSR matrix, (n_rows, n_features), that shares the memory of the rows."""
        return sparse.csr_matrix(tuple(part.numpy() for part in self.parts), shape=(self.n_rows, self.n_features))

    def dense(self) -> Tensor:
        """Return the rows as a dense tensor, (n_rows, n_features) float32."""
        dense_CG = self.value_N.new_zeros(self.n_rows, self.n_features)
        dense_CG.view(-1).scatter_(0, self.rows().mul_(self.n_features).add_(self.feature_N), self.value_N)
        return dense_CG

    def times(self, weight_GH: Tensor) -> Tensor:
        """Return the product with a dense matrix, (n_rows, H), in its precision. No row's result depends on other rows, to the last bit.

        It is a weighted sum of rows of the matrix, torch's embedding bag. Where one value in 14 is above 0, it takes a third of the time of
        the dense product.
        """
        value_N = self.value_N.to(weight_GH.dtype)
        return F.embedding_bag(self.feature_N, weight_GH, self.pointer_C1[:-1], mode="sum", per_sample_weights=value_N)
