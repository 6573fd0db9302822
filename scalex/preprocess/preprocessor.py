"""Fitted, frozen preprocessing: the result for a cell depends on that cell and on numbers fixed at the fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Self, get_args

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy import sparse

from scalex.features.matching import match_features
from scalex.preprocess import steps
from scalex.preprocess.normalization import Normalization, compute_row_factors, to_binary

__all__ = ["Preprocessor", "RowTransform", "Scaling"]

Scaling = Literal["global", "domain"]


# Rounding may take the mean of inputs, which are at most 1, a little above 1.
MAX_MEAN = 1.001


@dataclass(frozen=True, eq=False)
class Preprocessor:
    """Frozen preprocessing. It is saved with the model.

    Attributes
    ----------
    features
        (n_features,) names of the model's inputs, in order.
    expressed
        Names of the features that passed the filters, a superset of `features`.
    total_features
        Names of the features that make up a cell's total; None: cells are not normalized.
    normalization
        How cells are normalized; see `scalex.preprocess.normalization`.
    target_sum
        Total of every cell before log1p.
    binarize
        Replace values above 0 by 1 first.
    weight
        (n_kept_features,) float32 factor of each kept feature, applied before log1p; None: no factor.
    maximum
        (n_domains, n_features) float32, the largest normalized value of each feature in each domain.
    mean
        (n_features,) float32 in [0, 1], the mean input of each feature over the training cells. It replaces features that cells lack.
    domains
        (n_domains,) names of the rows of `maximum`.
    scaling
        Divide by the maximum over all cells ("global") or over the cells of the same domain ("domain").
    min_features
        The filter of the training cells: cells with fewer detected features were dropped.
    fractional
        Most training cells had fractional values: processed ones, or corrected or estimated counts.
    """

    features: pd.Index
    kept_features: pd.Index
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

    def for_features(self, names: pd.Index) -> RowTransform:
        """Return the preprocessing of rows whose features are `names`, in that order."""
        return RowTransform(self, names)

    @property
    def input_position(self) -> NDArray[np.int64]:
        """(n_features,) the place of each input feature among the kept features."""
        position: NDArray[np.int64] = self.kept_features.get_indexer(self.features)
        return position

    @property
    def unit(self) -> NDArray[np.float32]:
        """(n_domains, n_features) or (1, n_features), float32: the normalized expression that an input of 1 stands for."""
        maximum = self.maximum if self.scaling == "domain" else self.maximum.max(0, keepdims=True)
        # A maximum of 0 counts as 1, as in scaling.
        return np.where(maximum > 0, maximum, np.float32(1))

    @property
    def keeps_counts(self) -> bool:
        """Whether counts can be told from normalized expression, and have a single source.

        The logarithm of 1 + multiples of a cell's counts keeps them. Counts of proteins are sums of signal and background.
        """
        return self.normalization == "total"

    def to_plain(self) -> dict[str, Any]:
        """Return plain values and tensors, for a checkpoint."""
        # Names from some files are texts of NumPy, with which a checkpoint does not open.
        return {
            "features": [str(name) for name in self.features],
            "expressed": [str(name) for name in self.kept_features],
            "total_features": None if self.total_features is None else [str(name) for name in self.total_features],
            "normalization": self.normalization,
            "target_sum": self.target_sum,
            "binarize": self.binarize,
            "weight": None if self.weight is None else torch.from_numpy(self.weight.copy()),
            "maximum": torch.from_numpy(self.maximum.copy()),
            "mean": torch.from_numpy(self.mean.copy()),
            "domains": [str(name) for name in self.domains],
            "scaling": self.scaling,
            "min_features": self.min_features,
            "fractional": self.fractional,
        }

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> Self:
        """Return the preprocessor of `to_plain`.

        Raises
        ------
        ValueError
            If no training could have made these values.
        """
        names = plain["total_features"]
        made = cls(
            features=pd.Index(plain["features"]),
            kept_features=pd.Index(plain["expressed"]),
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
        if problem := made._find_problem():
            raise ValueError(f"The preprocessing is damaged: {problem}. Copy the file again from its origin.")
        return made

    def _find_problem(self) -> str | None:
        """Return what is wrong with values that were read from a file."""
        shape = (len(self.domains), len(self.features))
        total, weight = self.total_features, self.weight
        tests = {
            f"normalization is {self.normalization!r}": self.normalization not in get_args(Normalization),
            f"scaling is {self.scaling!r}": self.scaling not in get_args(Scaling),
            "there are no features or no domains": 0 in shape,
            "names of features are repeated": not (self.features.is_unique and self.kept_features.is_unique),
            "names of the features of the total are repeated": total is not None and not total.is_unique,
            "names of domains are repeated": len(set(self.domains)) < shape[0],
            "input features are not among the kept features": not self.features.isin(self.kept_features).all(),
            "the maxima are not those of the domains and features": self.maximum.shape != shape or not _are_values(self.maximum),
            "the means are not those of the features, from 0 to 1": self.mean.shape != shape[1:]
            or not _are_values(self.mean)
            or float(self.mean.max(initial=0)) > MAX_MEAN,
            "the factors are not those of the kept features": weight is not None
            and (weight.shape != self.kept_features.shape or not _are_values(weight)),
            f"target_sum is {self.target_sum}": self.normalization in ("total", "tfidf") and not 0 < self.target_sum < np.inf,
            f"min_features is {self.min_features}": not isinstance(self.min_features, int) or self.min_features < 0,
        }
        return next((problem for problem, is_true in tests.items() if is_true), None)


def _are_values(array: NDArray[np.float32]) -> bool:
    """Return whether all values are finite and not negative."""
    return bool(np.isfinite(array).all() and (array >= 0).all())


class RowTransform:
    """A `Preprocessor` applied to rows with given feature names. Each row's result depends on that row alone.

    Features are matched by name. A feature that the rows lack is 0 in the result. The model adds `fill_value` in its place.

    Attributes
    ----------
    match : FeatureMatch
        The match of the names to the features of the preprocessor.
    found
        (n_features,) bool, which of the input features the rows have.
    fill_value
        (n_features,) float32 to add to each row of the model's input: the mean input of features that the rows lack, else 0. None if the
        rows have all features.
    """

    def __init__(self, preprocessor: Preprocessor, names: pd.Index) -> None:
        self.preprocessor = preprocessor
        known = preprocessor.kept_features if preprocessor.total_features is None else preprocessor.total_features
        self.match = match_features(known, names)
        self.found: NDArray[np.bool_] = self.match.found[known.get_indexer(preprocessor.features)]
        self._known = known
        self._input = self._find_positions(preprocessor.features)
        self._kept = self._find_positions(preprocessor.kept_features)
        weight = preprocessor.weight
        self._input_weight = None if weight is None else weight[preprocessor.input_position]
        self.fill_value = None if self.found.all() else np.where(self.found, np.float32(0), preprocessor.mean)
        # The maximum over all domains scales a domain that the fit has not seen.
        overall = preprocessor.maximum.max(0)
        self._maximum = overall if preprocessor.scaling == "global" else np.vstack([preprocessor.maximum, overall])

    def normalized(self, rows: sparse.csr_matrix) -> sparse.csr_matrix:
        """Return the normalized expression of the kept features, (n_cells, n_kept_features) float32 CSR."""
        return self._normalize(rows, self._kept, len(self.preprocessor.kept_features), self.preprocessor.weight)

    def __call__(self, rows: sparse.csr_matrix, domain: NDArray[np.int64]) -> sparse.csr_matrix:
        """Return the model's input, (n_cells, n_features) float32 CSR in [0, 1].

        Parameters
        ----------
        rows
            (n_cells, len(names)) values of the source.
        domain
            (n_cells,) codes of `Preprocessor.domains`; -1 for an unknown domain.
        """
        values = self._normalize(rows, self._input, len(self.preprocessor.features), self._input_weight)
        return steps.scale(values, self._maximum, domain)

    def count_detected(self, rows: sparse.csr_matrix) -> NDArray[np.int64]:
        """Return the number of known features above 0 in each row, (n_cells,), to compare with `Preprocessor.min_features`."""
        counted = (self.match.position >= 0).astype(np.float64)
        return np.asarray((rows > 0) @ counted).astype(np.int64)

    def _find_positions(self, wanted: pd.Index) -> NDArray[np.int64]:
        """Return the position among `wanted` of each feature of the rows."""
        known_to_wanted = np.append(steps.match(wanted, self._known), -1)
        return known_to_wanted[self.match.position]

    def _normalize(
        self, rows: sparse.csr_matrix, position: NDArray[np.int64], n_features: int, weight: NDArray[np.float32] | None
    ) -> sparse.csr_matrix:
        preprocessor = self.preprocessor
        rows = to_binary(rows) if preprocessor.binarize else rows
        if preprocessor.normalization == "none":
            return steps.pack(rows, position, n_features)
        counted = self.match.position >= 0
        if preprocessor.normalization == "clr":
            packed = steps.pack(rows, position, n_features)
            packed.data *= np.repeat(compute_row_factors(rows, counted, "clr"), np.diff(packed.indptr))
        else:
            packed = steps.pack(rows, position, n_features, counted=counted, target=preprocessor.target_sum)
        if weight is not None:
            packed.data *= weight[packed.indices]
        np.log1p(packed.data, out=packed.data)
        return packed
