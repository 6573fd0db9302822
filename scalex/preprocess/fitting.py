"""What all recipes share: the one pass over the cells, the filters, and the choice of named features."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, TypeAlias, get_args

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from scalex.cells import Cells
from scalex.preprocess.checks import check_values
from scalex.preprocess.kernels import row_totals
from scalex.preprocess.normalization import Normalization, binary, inverse_document_frequency, row_factors
from scalex.preprocess.preprocessor import Preprocessor, Scaling
from scalex.preprocess.recipe import FittedRecipe
from scalex.preprocess.statistics import FeatureStatistics, FeatureSums
from scalex.system.chunks import chunks
from scalex.system.read_ahead import read_ahead

__all__ = ["Choose", "Named", "check_options", "fitted", "log_filter", "named_features", "read_names"]

logger = logging.getLogger(__name__)

# How many features to use; or their names; or a text file with one name a line.
Named: TypeAlias = int | str | Path | Sequence[str]
# Positions of the features to use, from the statistics of all that are left and their names.
Choose: TypeAlias = Callable[[FeatureStatistics, pd.Index], NDArray[np.int64]]

# Three chunks, with all their features, are in memory at a time: small enough that freed memory is used again.
CHUNK_SIZE = 4096
THREADS = 2


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


def fitted(
    cells: Cells,
    *,
    named: NDArray[np.bool_],
    choose: Choose,
    min_features: int = 0,
    min_cells: int = 0,
    normalization: Normalization = "none",
    target_sum: float = 0.0,
    binarize: bool = False,
    scaling: Scaling = "global",
) -> FittedRecipe:
    """Pass over the cells once, and fix everything that preprocessing needs.

    Parameters
    ----------
    cells
        To be read.
    named
        (n_features,) which features are looked at at all.
    choose
        Which of the features that are left the model gets.
    min_features, min_cells
        Cells with fewer detected features are left out, and features detected in fewer of the remaining cells.
    normalization, target_sum, binarize, scaling
        As in `Preprocessor`.

    Raises
    ------
    ValueError
        As `Recipe.fit`.
    """
    names = cells.var.index[named]
    found = _read_once(cells, named, min_features, normalization, target_sum, binarize)
    if found.n_fractional and normalization != "none":
        logger.warning(
            "The values look normalized, not like counts (%s of %s cells hold fractions): if so, use preprocess=none "
            "(SCALEX: processed=True).",
            f"{found.n_fractional:,}", f"{len(cells.domain):,}",
        )  # fmt: skip
    expressed = _expressed(found.statistics, min_cells, len(cells.domain))
    statistics, names_left = found.statistics.features(expressed), names[expressed]
    chosen = choose(statistics, names_left)
    logger.info("Uses %s features", f"{len(chosen):,}")
    weight = None
    maximum, total = statistics.maximum, statistics.total_of_logs
    if normalization == "tfidf":
        weight = inverse_document_frequency(statistics.n_detected.sum(0), len(found.rows))
        maximum = maximum * weight
    if normalization == "none":
        total = statistics.total
    else:
        maximum = np.log1p(maximum)
    preprocessor = Preprocessor(
        features=names_left[chosen],
        expressed=names_left,
        total_features=None if normalization == "none" else names,
        normalization=normalization,
        target_sum=float(target_sum),
        binarize=binarize,
        weight=weight,
        maximum=maximum[:, chosen],
        mean=_mean_input(total[:, chosen], maximum[:, chosen], statistics.n_cells, scaling),
        domains=tuple(cells.domain.categories.astype(str)),
        scaling=scaling,
        min_features=min_features,
        fractional=2 * found.n_fractional > len(cells.domain),
    )
    if normalization == "tfidf":
        # The factors of the features are known only now, and the logarithm of a product is no product of sums.
        preprocessor = replace(preprocessor, mean=_mean_of_inputs(cells, preprocessor, found.rows))
    return FittedRecipe(preprocessor, found.rows)


def _read_once(
    cells: Cells, named: NDArray[np.bool_], min_features: int, normalization: Normalization, target_sum: float, binarize: bool
) -> _Found:
    """The one pass over all cells: check, filter, normalize, add up."""
    domain = cells.domain.codes.astype(np.int64)
    n_cells, counted = len(domain), named.astype(np.float32)

    def prepared(chunk: slice) -> _Prepared:
        raw = cells.read(chunk)
        n_fractional = check_values(raw, cells, chunk.start)
        raw = binary(raw) if binarize else raw
        totals, n_detected = row_totals(raw.data, raw.indices, raw.indptr, counted)
        factor = row_factors(raw, named, normalization, target=target_sum, totals=totals)
        # A copy: cells in memory give their own values.
        data = raw.data * np.repeat(factor, np.diff(raw.indptr))
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
        log_filter(f"cells with >= {min_features} features (min_features)", n_cells, len(rows_kept))
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


def _expressed(statistics: FeatureStatistics, min_cells: int, n_cells: int) -> NDArray[np.bool_]:
    """Which features are detected in enough cells; all, if none are asked for."""
    n_detected = statistics.n_detected.sum(0)
    if min_cells == 0:
        return np.ones(len(n_detected), bool)
    expressed = n_detected >= min_cells
    log_filter(f"features in >= {min_cells} cells (min_cells)", len(n_detected), int(expressed.sum()))
    if expressed.any():
        return np.asarray(expressed)
    if n_detected.max() == 0:
        raise ValueError(f"All {n_cells:,} cells are empty: there is no value above 0.")
    raise ValueError(
        f"min_cells={min_cells} leaves no feature: the most widespread is in {n_detected.max()} cells. "
        f"Use min_cells={n_detected.max()} or less."
    )


def _mean_input(
    total: NDArray[np.float64], maximum: NDArray[np.float32], n_cells: NDArray[np.int64], scaling: Scaling
) -> NDArray[np.float32]:
    """Mean model input of each feature, (n_features,), from the sums and maxima per domain of the values that are scaled."""
    divisor = maximum.max(0, keepdims=True) if scaling == "global" else maximum
    return np.asarray((total / np.where(divisor > 0, divisor, 1)).sum(0) / n_cells.sum(), np.float32)


def _mean_of_inputs(cells: Cells, preprocessor: Preprocessor, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """The same by reading the cells again."""
    transform, domain = preprocessor.rows_with(cells.var.index), cells.domain.codes.astype(np.int64)
    total = np.zeros(len(preprocessor.features))
    parts = [rows[part] for part in chunks(len(rows), CHUNK_SIZE)]
    for _, inputs in read_ahead(parts, lambda part: transform(cells.read(part), domain[part]), threads=THREADS):
        total += np.asarray(inputs.sum(0, dtype=np.float64)).ravel()
    return (total / len(rows)).astype(np.float32)


def named_features(given: Named, names: pd.Index, by_number: Callable[[int], NDArray[np.int64]]) -> NDArray[np.int64]:
    """Positions among `names` of the features that are named, or those that `by_number` chooses where a number is given.

    Raises
    ------
    FileNotFoundError
        If the file of names is not there.
    ValueError
        If none of the features is there.
    """
    asked = read_names(given)
    if isinstance(asked, int):
        return by_number(asked)
    wanted = pd.Index(asked).unique()
    position = names.get_indexer(wanted)
    missing = wanted[position < 0]
    if len(missing) == len(position):
        raise ValueError(
            f"None of the features in n_top_features is in the data (asked: {', '.join(missing[:5])}; data: {', '.join(names[:5])})."
        )
    if len(missing):
        logger.warning("%d of the features in n_top_features are not in the data: %s", len(missing), ", ".join(missing[:5]))
    return np.asarray(position[position >= 0], np.int64)


def read_names(given: Named) -> int | list[str]:
    """The names of the features, from the list or the file that holds them; a number as it is.

    Raises
    ------
    FileNotFoundError
        If the file of names is not there.
    """
    if isinstance(given, int | np.integer):
        return int(given)
    if not isinstance(given, str | Path):
        return [str(name) for name in given]
    path = Path(given)
    if not path.is_file():
        raise FileNotFoundError(f"n_top_features={given}: no such file. Give a number, a list of names or a text file.")
    return [line.strip() for line in path.read_text().splitlines() if line.strip()]


def check_options(scaling: str, *, target_sum: float = 1.0, n_top_features: Named = 1) -> None:
    """See that options are in their ranges.

    Raises
    ------
    ValueError
        If one is not.
    """
    if scaling not in get_args(Scaling):
        raise ValueError(f"scaling={scaling!r}: allowed are {', '.join(get_args(Scaling))}.")
    if target_sum <= 0:
        raise ValueError(f"target_sum={target_sum}: it must be above 0.")
    if isinstance(n_top_features, int | np.integer) and n_top_features < 1:
        raise ValueError(f"n_top_features={n_top_features}: it must be at least 1.")


def log_filter(what: str, before: int, after: int) -> None:
    """Say what a filter leaves."""
    logger.info("Keeps %s: %s of %s", what, f"{after:,}", f"{before:,}")
