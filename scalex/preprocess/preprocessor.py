"""The fitted, frozen preprocessing: what is done to a cell depends on that cell and on numbers fixed at the fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy import sparse

from scalex.features.matching import match_features
from scalex.preprocess import steps
from scalex.preprocess.normalization import Normalization, binary, row_factors

__all__ = ["Preprocessor", "RowTransform", "Scaling"]

Scaling = Literal["global", "domain"]


@dataclass(frozen=True, eq=False)
class Preprocessor:
    """Frozen preprocessing, as a value that is saved with the model.

    Attributes
    ----------
    features
        (n_features,) names of the model's inputs, in order.
    expressed
        Names of all features worth keeping as normalized expression; `features` are among them.
    total_features
        Names of the features whose sum is a cell's size; None: cells are not normalized, values are used as they are.
    normalization
        How cells are brought to a common size; see `scalex.preprocess.normalization`.
    target_sum
        The size every cell is brought to before log1p.
    binarize
        Values above 0 are 1 before all else.
    weight
        (n_expressed,) float32, by which the values of each feature of `expressed` are multiplied before log1p; None: by 1.
    maximum
        (n_domains, n_features) float32, largest value seen of each feature in each domain.
    mean
        (n_features,) float32, mean input of each feature over the training cells, in [0, 1]; stands in for a feature that cells lack.
    domains
        (n_domains,) names, the rows of `maximum`.
    scaling
        Divide by the maximum over all cells ("global") or over the cells of the same domain ("domain").
    min_features
        Cells with fewer detected features were left out of training.
    fractional
        Most training cells held other values than whole numbers, so they were not counts.
    """

    features: pd.Index
    expressed: pd.Index
    total_features: pd.Index | None
    normalization: Normalization
    target_sum: float
    binarize: bool
    weight: NDArray[np.float32] | None
    maximum: NDArray[np.float32]
    mean: NDArray[np.float32]
    domains: tuple[str, ...]
    scaling: Scaling
    min_features: int
    fractional: bool

    def rows_with(self, names: pd.Index) -> RowTransform:
        """The preprocessing for rows whose features are called `names`, in that order."""
        return RowTransform(self, names)

    def to_plain(self) -> dict[str, Any]:
        """As plain values and tensors, for a checkpoint."""
        return {
            "features": self.features.tolist(),
            "expressed": self.expressed.tolist(),
            "total_features": None if self.total_features is None else self.total_features.tolist(),
            "normalization": self.normalization,
            "target_sum": self.target_sum,
            "binarize": self.binarize,
            "weight": None if self.weight is None else torch.from_numpy(self.weight.copy()),
            "maximum": torch.from_numpy(self.maximum.copy()),
            "mean": torch.from_numpy(self.mean.copy()),
            "domains": list(self.domains),
            "scaling": self.scaling,
            "min_features": self.min_features,
            "fractional": self.fractional,
        }

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Self:
        """The inverse of `to_plain`."""
        names = plain["total_features"]
        return cls(
            features=pd.Index(plain["features"]),
            expressed=pd.Index(plain["expressed"]),
            total_features=None if names is None else pd.Index(names),
            normalization=plain["normalization"],
            target_sum=plain["target_sum"],
            binarize=plain["binarize"],
            weight=None if plain["weight"] is None else plain["weight"].numpy(),
            maximum=plain["maximum"].numpy(),
            mean=plain["mean"].numpy(),
            domains=tuple(plain["domains"]),
            scaling=plain["scaling"],
            min_features=plain["min_features"],
            fractional=plain["fractional"],
        )


class RowTransform:
    """A `Preprocessor` applied to rows with given feature names. Each row's result depends on that row alone.

    Features are matched by name; one that the rows lack is 0 in the result, and `lacking` says what the model should see in its place.

    Attributes
    ----------
    match : FeatureMatch
        How the names relate to all that the preprocessor knows.
    found
        (n_features,) bool, which of the model's inputs are there.
    lacking
        (n_features,) float32, to be added to each row of the model's input: the mean input where a feature is lacking, else 0. None where
        none is lacking.
    """

    def __init__(self, preprocessor: Preprocessor, names: pd.Index) -> None:
        self.preprocessor = preprocessor
        known = preprocessor.expressed if preprocessor.total_features is None else preprocessor.total_features
        self.match = match_features(known, names)
        self.found: NDArray[np.bool_] = self.match.found[known.get_indexer(preprocessor.features)]
        self._known = known
        self._input = self._position_in(preprocessor.features)
        self._expressed = self._position_in(preprocessor.expressed)
        weight = preprocessor.weight
        self._input_weight = None if weight is None else weight[preprocessor.expressed.get_indexer(preprocessor.features)]
        self.lacking = None if self.found.all() else np.where(self.found, np.float32(0), preprocessor.mean)
        # A domain that was not there at the fit is scaled by the maximum over all.
        overall = preprocessor.maximum.max(0)
        self._maximum = overall if preprocessor.scaling == "global" else np.vstack([preprocessor.maximum, overall])

    def normalized(self, rows: sparse.csr_matrix) -> sparse.csr_matrix:
        """Normalized expression of the features in `Preprocessor.expressed`, (n_cells, len(expressed)) float32 CSR."""
        return self._normalized(rows, self._expressed, len(self.preprocessor.expressed), self.preprocessor.weight)

    def __call__(self, rows: sparse.csr_matrix, domain: NDArray[np.int64]) -> sparse.csr_matrix:
        """The model's input, (n_cells, n_features) float32 CSR in [0, 1].

        Parameters
        ----------
        rows
            (n_cells, len(names)) values as they come from the source.
        domain
            (n_cells,) codes of `Preprocessor.domains`; -1 for one that it does not know.
        """
        values = self._normalized(rows, self._input, len(self.preprocessor.features), self._input_weight)
        return steps.scale(values, self._maximum, domain)

    def n_detected(self, rows: sparse.csr_matrix) -> NDArray[np.int64]:
        """Number of known features above 0 in each row, (n_cells,): what `Preprocessor.min_features` is compared with."""
        counted = (self.match.position >= 0).astype(np.float64)
        return np.asarray((rows > 0) @ counted).astype(np.int64)

    def _position_in(self, wanted: pd.Index) -> NDArray[np.int64]:
        """Position among `wanted` of each feature of the rows."""
        known_to_wanted = np.append(steps.match(wanted, self._known), -1)
        return known_to_wanted[self.match.position]

    def _normalized(
        self, rows: sparse.csr_matrix, position: NDArray[np.int64], n_features: int, weight: NDArray[np.float32] | None
    ) -> sparse.csr_matrix:
        preprocessor = self.preprocessor
        rows = binary(rows) if preprocessor.binarize else rows
        if preprocessor.normalization == "none":
            return steps.pack(rows, position, n_features)
        counted = self.match.position >= 0
        if preprocessor.normalization == "clr":
            packed = steps.pack(rows, position, n_features)
            packed.data *= np.repeat(row_factors(rows, counted, "clr"), np.diff(packed.indptr))
        else:
            packed = steps.pack(rows, position, n_features, counted=counted, target=preprocessor.target_sum)
        if weight is not None:
            packed.data *= weight[packed.indices]
        np.log1p(packed.data, out=packed.data)
        return packed
