"""Recipes: the options of preprocessing. Fitting one to cells gives a frozen `Preprocessor`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol, Self, get_args

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy import sparse

from scalex.cells import Cells, chunks
from scalex.preprocess.checks import check_values
from scalex.preprocess.kernels import row_totals
from scalex.preprocess.preprocessor import Preprocessor, Scaling
from scalex.preprocess.statistics import FeatureStatistics, FeatureSums
from scalex.preprocess.variable_features import highly_variable
from scalex.read_ahead import read_ahead

__all__ = ["AsIsRecipe", "FittedRecipe", "Recipe", "RnaRecipe"]

logger = logging.getLogger(__name__)

# Three chunks, with all their features, are in memory at a time: small enough that freed memory is used again.
CHUNK_SIZE = 4096
THREADS = 2
SPIKE_INS = ("ERCC",)
MITOCHONDRIAL = ("MT-", "mt-")


class FittedRecipe(NamedTuple):
    """The frozen preprocessing and the rows (int64, ascending) of the cells to train on."""

    preprocessor: Preprocessor
    rows: NDArray[np.int64]

    def save(self, path: Path | BinaryIO) -> None:
        """Write it as plain values."""
        torch.save({"preprocessor": self.preprocessor.to_plain(), "rows": torch.from_numpy(self.rows)}, path)

    @classmethod
    def load(cls, path: Path | BinaryIO) -> Self:
        """The inverse of `save`."""
        plain = torch.load(path, weights_only=True)
        return cls(Preprocessor.from_plain(plain["preprocessor"]), plain["rows"].numpy())


class Recipe(Protocol):
    """Options of preprocessing."""

    def fit(self, cells: Cells) -> FittedRecipe:
        """Read the cells once and fix everything that preprocessing needs.

        Raises
        ------
        ValueError
            Where a value is not finite or negative, or where no cell or no feature is left.
        """
        ...

    def identity(self) -> str:
        """Text that says all that the result depends on besides the cells."""
        ...


@dataclass(frozen=True, kw_only=True)
class RnaRecipe:
    """Counts of RNA: filter, bring cells to a common size, log1p, choose variable features, scale to [0, 1].

    Parameters
    ----------
    min_features
        Cells with fewer detected features are left out.
    min_cells
        Features detected in fewer of the remaining cells are left out.
    target_sum
        Counts per cell after normalization. A cell's size is the sum over all features that `keep_mt` leaves.
    n_top_features
        How many highly variable features to use; or their names; or a text file with one name a line.
    keep_mt
        Keep features whose name starts with ERCC, MT- or mt-.
    min_cell_per_batch
        Domains with fewer cells do not vote on the variable features.
    scaling
        Divide each feature by its largest value over all cells ("global"), or over the cells of a domain ("domain").
    """

    min_features: int = 600
    min_cells: int = 3
    target_sum: float = 10_000.0
    n_top_features: int | str | Path | Sequence[str] = 2000
    keep_mt: bool = False
    min_cell_per_batch: int = 10
    scaling: Scaling = "global"

    def __post_init__(self) -> None:
        _check_scaling(self.scaling)
        if self.target_sum <= 0:
            raise ValueError(f"target_sum={self.target_sum}: it must be above 0.")
        if isinstance(self.n_top_features, int | np.integer) and self.n_top_features < 1:
            raise ValueError(f"n_top_features={self.n_top_features}: it must be at least 1.")

    def fit(self, cells: Cells) -> FittedRecipe:
        """See `Recipe.fit`."""
        names = cells.var.index
        named = np.ones(len(names), bool) if self.keep_mt else ~names.str.startswith(SPIKE_INS + MITOCHONDRIAL)
        _log_filter("features ERCC*, MT-*, mt-* (keep_mt=false)", len(names), int(named.sum()))
        if not named.any():
            raise ValueError("keep_mt=false leaves no feature: all names start with ERCC, MT- or mt-. Use keep_mt=true.")
        # Counts are brought to size as they are read, so that one pass gives the filters and the variable features alike.
        total_features = names[named]
        found = _read_once(cells, named, self.min_features, self.target_sum)
        if found.n_fractional:
            logger.warning(
                "The values look normalized, not like counts (%s of %s cells hold fractions): if so, use preprocess=none "
                "(SCALEX: processed=True).",
                f"{found.n_fractional:,}", f"{len(cells.domain):,}",
            )  # fmt: skip
        n_detected = found.statistics.n_detected.sum(0)
        expressed = n_detected >= max(self.min_cells, 1)
        _log_filter(f"features in >= {self.min_cells} cells (min_cells)", len(total_features), int(expressed.sum()))
        if not expressed.any():
            if n_detected.max() == 0:
                raise ValueError(f"All {len(cells.domain):,} cells are empty: there is no value above 0.")
            raise ValueError(
                f"min_cells={self.min_cells} leaves no feature: the most widespread is in {n_detected.max()} cells. "
                f"Use min_cells={n_detected.max()} or less."
            )
        statistics = found.statistics.features(expressed)
        chosen = self._choose(statistics, total_features[expressed])
        logger.info("Uses %s features", f"{len(chosen):,}")
        maximum = np.log1p(statistics.maximum[:, chosen])
        preprocessor = Preprocessor(
            features=total_features[expressed][chosen],
            expressed=total_features[expressed],
            total_features=total_features,
            target_sum=float(self.target_sum),
            maximum=maximum,
            mean=_mean_input(statistics.total_of_logs[:, chosen], maximum, statistics.n_cells, self.scaling),
            domains=tuple(cells.domain.categories.astype(str)),
            scaling=self.scaling,
            min_features=self.min_features,
            fractional=2 * found.n_fractional > len(cells.domain),
        )
        return FittedRecipe(preprocessor, found.rows)

    def identity(self) -> str:
        """See `Recipe.identity`; of a file of features its content."""
        given = self.n_top_features
        return f"{self!r} {Path(given).read_text()}" if isinstance(given, str | Path) and Path(given).is_file() else repr(self)

    def _choose(self, statistics: FeatureStatistics, names: pd.Index) -> NDArray[np.int64]:
        """Positions of the features to use among `names`."""
        given = self.n_top_features
        if isinstance(given, str | Path):
            path = Path(given)
            if not path.is_file():
                raise FileNotFoundError(f"n_top_features={given}: no such file. Give a number, a list of names or a text file.")
            given = [line.strip() for line in path.read_text().splitlines() if line.strip()]
        if not isinstance(given, int | np.integer):
            position = names.get_indexer(pd.Index(given).unique())
            missing = [name for name, at in zip(pd.Index(given).unique(), position, strict=True) if at < 0]
            if len(missing) == len(position):
                raise ValueError(
                    f"None of the features in n_top_features is in the data (asked: {', '.join(missing[:5])}; "
                    f"data: {', '.join(names[:5])})."
                )
            if missing:
                logger.warning("%d of the features in n_top_features are not in the data: %s", len(missing), ", ".join(missing[:5]))
            return np.asarray(position[position >= 0], np.int64)
        voting = statistics.n_cells >= max(self.min_cell_per_batch, 1)
        if not voting.any():
            return highly_variable(statistics.pooled(), names, int(given))
        return highly_variable(statistics.domains(voting), names, int(given))


@dataclass(frozen=True, kw_only=True)
class AsIsRecipe:
    """Values that are ready: used as they are, only scaled to [0, 1].

    Parameters
    ----------
    scaling
        Divide each feature by its largest value over all cells ("global"), or over the cells of a domain ("domain").
    """

    scaling: Scaling = "global"

    def __post_init__(self) -> None:
        _check_scaling(self.scaling)

    def fit(self, cells: Cells) -> FittedRecipe:
        """See `Recipe.fit`."""
        names = cells.var.index
        found = _read_once(cells, np.ones(len(names), bool), min_features=0, target_sum=0.0)
        preprocessor = Preprocessor(
            features=names,
            expressed=names,
            total_features=None,
            target_sum=0.0,
            maximum=found.statistics.maximum,
            mean=_mean_input(found.statistics.total, found.statistics.maximum, found.statistics.n_cells, self.scaling),
            domains=tuple(cells.domain.categories.astype(str)),
            scaling=self.scaling,
            min_features=0,
            fractional=2 * found.n_fractional > len(cells.domain),
        )
        return FittedRecipe(preprocessor, found.rows)

    def identity(self) -> str:
        """See `Recipe.identity`."""
        return repr(self)


class _Prepared(NamedTuple):
    """Normalized cells of a chunk, the logarithms of their stored values, and what was found in them."""

    values: sparse.csr_matrix
    logs: NDArray[np.float32]
    n_detected: NDArray[np.int64]
    n_fractional: int


class _Found(NamedTuple):
    statistics: FeatureStatistics
    rows: NDArray[np.int64]
    n_fractional: int


def _read_once(cells: Cells, named: NDArray[np.bool_], min_features: int, target_sum: float) -> _Found:
    """The one pass over all cells: check, filter, normalize, add up."""
    domain = cells.domain.codes.astype(np.int64)
    n_cells, counted = len(domain), named.astype(np.float32)

    def prepared(chunk: slice) -> _Prepared:
        raw = cells.read(chunk)
        n_fractional = check_values(raw, cells, chunk.start)
        total, n_detected = row_totals(raw.data, raw.indices, raw.indptr, counted)
        factor = target_sum / np.where(total > 0, total, target_sum) if target_sum else np.ones(len(total))
        # A copy: cells in memory give their own values.
        data = raw.data * np.repeat(factor.astype(np.float32), np.diff(raw.indptr))
        values = sparse.csr_matrix((data, raw.indices, raw.indptr), shape=raw.shape)
        return _Prepared(values, np.log1p(data), n_detected, n_fractional)

    sums = FeatureSums(len(cells.domain.categories), len(named))
    kept, most_detected, n_fractional = [], 0, 0
    # More cells are read and prepared while those before them are added up, in their order.
    for chunk, found in read_ahead(chunks(n_cells, CHUNK_SIZE), prepared, threads=THREADS):
        n_fractional += found.n_fractional
        most_detected = max(most_detected, int(found.n_detected.max(initial=0)))
        enough = np.flatnonzero(found.n_detected >= min_features)
        kept.append(chunk.start + enough)
        sums.add(found.values, found.logs, enough, domain[chunk])
    rows_kept = np.concatenate(kept) if kept else np.empty(0, np.int64)
    if min_features:
        _log_filter(f"cells with >= {min_features} features (min_features)", n_cells, len(rows_kept))
    if len(rows_kept) == 0:
        raise ValueError(
            f"min_features={min_features} leaves no cell: the richest of {n_cells:,} has {most_detected} detected features. "
            f"Use min_features={most_detected} or less."
        )
    if len(rows_kept) < n_cells / 2:
        logger.warning(
            "min_features=%d leaves out %.0f %% of the cells; for shallow data it is set lower.",
            min_features, 100 * (1 - len(rows_kept) / n_cells),
        )  # fmt: skip
    return _Found(sums.statistics().features(named), rows_kept, n_fractional)


def _mean_input(
    total: NDArray[np.float64], maximum: NDArray[np.float32], n_cells: NDArray[np.int64], scaling: Scaling
) -> NDArray[np.float32]:
    """Mean model input of each feature, (n_features,), from the sums and maxima per domain of the values that are scaled."""
    divisor = maximum.max(0, keepdims=True) if scaling == "global" else maximum
    return np.asarray((total / np.where(divisor > 0, divisor, 1)).sum(0) / n_cells.sum(), np.float32)


def _check_scaling(scaling: str) -> None:
    if scaling not in get_args(Scaling):
        raise ValueError(f"scaling={scaling!r}: allowed are {', '.join(get_args(Scaling))}.")


def _log_filter(what: str, before: int, after: int) -> None:
    logger.info("Keeps %s: %s of %s", what, f"{after:,}", f"{before:,}")
