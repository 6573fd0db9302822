"""The part that all recipes share: one pass over the cells, filters, and features chosen by name."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import BeforeValidator
from scipy import sparse

from scalex.cells import Cells
from scalex.preprocess.checks import check_values, look_normalized
from scalex.preprocess.kernels import sum_rows
from scalex.preprocess.normalization import Normalization, compute_idf, compute_row_factors, to_binary
from scalex.preprocess.preprocessor import Preprocessor, Scaling
from scalex.preprocess.recipe import FittedRecipe
from scalex.preprocess.statistics import FeatureStatistics, FeatureSums
from scalex.system.chunks import chunks
from scalex.system.read_ahead import read_ahead
from scalex.system.settings import Count, Described

__all__ = ["Choose", "FeatureChoice", "fit_recipe", "log_filter", "choose_features", "read_names"]

logger = logging.getLogger(__name__)


def _read_number(given: Any) -> Any:
    """Return a number that is given as text or as a float, unless a file has its name. Other values stay as they are.

    Raises
    ------
    ValueError
        If the number is not a number of features, or if a list is a mask.
    """
    if isinstance(given, str) and re.fullmatch(r"\d+(?:\.0*)?", given) and not Path(given).exists():
        given = float(given)
    if isinstance(given, list | tuple) and any(isinstance(name, bool) for name in given):
        raise ValueError("a mask is not a list of names")
    if isinstance(given, int | float) and not isinstance(given, bool):
        if given < 1 or given % 1:
            # As text it would be the name of a file.
            raise ValueError("not a number of features")
        return int(given)
    return given


FeatureChoice: TypeAlias = Annotated[
    Count | str | Path | Sequence[str],
    BeforeValidator(_read_number),
    Described("a number of features, a list of their names (as adata.var_names[mask]), or a text file with one name per line"),
]
# Function from the statistics and names of the kept features to the positions of the input features.
Choose: TypeAlias = Callable[[FeatureStatistics, pd.Index], NDArray[np.int64]]

# Three chunks with all their features are in memory at a time. Chunks of this size reuse freed memory.
CHUNK_SIZE = 4096
# Cells whose values tell counts from normalized values.
N_SAMPLED = 1000
THREADS = 2


class _ChunkValues(NamedTuple):
    """Normalized cells of a chunk, with the logarithms of their stored values and counts per chunk."""

    values: sparse.csr_matrix
    logs: NDArray[np.float32]
    n_detected: NDArray[np.int64]
    n_fractional: int


class _PassResult(NamedTuple):
    statistics: FeatureStatistics
    rows: NDArray[np.int64]
    n_fractional: int


def fit_recipe(
    cells: Cells,
    *,
    candidates: NDArray[np.bool_],
    choose: Choose,
    min_features: int = 0,
    min_cells: int = 0,
    normalization: Normalization = "none",
    target_sum: float = 0.0,
    binarize: bool = False,
    scaling: Scaling = "global",
) -> FittedRecipe:
    """Read the cells once and fit a preprocessor to them.

    Parameters
    ----------
    cells
        The cells.
    candidates
        (n_features,) bool, the features to consider. The others are ignored.
    choose
        Function that chooses the input features among the kept features.
    min_features, min_cells
        Drop cells with fewer detected features, then features detected in fewer of the remaining cells.
    normalization, target_sum, binarize, scaling
        As in `Preprocessor`.

    Raises
    ------
    ValueError
        As `Recipe.fit`.
    """
    names = cells.var.index[candidates]
    result = _read_once(cells, candidates, min_features, normalization, target_sum, binarize)
    _report_kind(cells, result.n_fractional, is_ready=normalization == "none")
    kept_features = _filter_features(result.statistics, min_cells, len(cells.domain))
    statistics, names_left = result.statistics.select_features(kept_features), names[kept_features]
    chosen = choose(statistics, names_left)
    logger.info("Uses %s input features", f"{len(chosen):,}")
    weight = None
    maximum, total = statistics.maximum, statistics.total_of_logs
    if normalization == "tfidf":
        weight = compute_idf(statistics.n_detected.sum(0), len(result.rows))
        maximum = maximum * weight
    if normalization == "none":
        total = statistics.total
    else:
        maximum = np.log1p(maximum)
    preprocessor = Preprocessor(
        features=names_left[chosen],
        kept_features=names_left,
        total_features=None if normalization == "none" else names,
        normalization=normalization,
        target_sum=float(target_sum),
        binarize=binarize,
        weight=weight,
        maximum=maximum[:, chosen],
        mean=_compute_mean_input(total[:, chosen], maximum[:, chosen], statistics.n_cells, scaling),
        domains=tuple(cells.domain.categories.astype(str)),
        scaling=scaling,
        min_features=min_features,
        fractional=2 * result.n_fractional > len(cells.domain),
    )
    if normalization == "tfidf":
        # The features' factors are known only now, and the sums of logarithms do not give the mean of the weighted values.
        preprocessor = replace(preprocessor, mean=_read_mean_input(cells, preprocessor, result.rows))
    return FittedRecipe(preprocessor, result.rows)


def _report_kind(cells: Cells, n_fractional: int, *, is_ready: bool) -> None:
    """Tell if the values look normalized but are to be normalized, or look like counts but are not."""
    if is_ready == bool(n_fractional):
        return
    n_cells = len(cells.domain)
    sample = cells.read(slice(0, min(N_SAMPLED, n_cells)))
    if is_ready and sample.max() > 1:
        logger.warning(
            "All values are whole numbers, as counts are, but they are only scaled. If they are counts, use preprocess=rna, atac or adt "
            "(SCALEX: without processed=True, and counts_layer= in place of use_layer=)."
        )
    if is_ready:
        return
    numbers = f"{n_fractional:,}", f"{n_cells:,}"
    if look_normalized(sample):
        logger.warning(
            "The values look normalized: %s of %s cells have fractional values. If they are, use preprocess=none (SCALEX: processed=True).",
            *numbers,
        )
    else:
        logger.info("%s of %s cells have fractional values, which are taken for corrected or estimated counts", *numbers)


def _read_once(
    cells: Cells, candidates: NDArray[np.bool_], min_features: int, normalization: Normalization, target_sum: float, binarize: bool
) -> _PassResult:
    """Read all cells once: check, filter, normalize and sum."""
    domain = cells.domain.codes.astype(np.int64)
    n_cells, counted = len(domain), candidates.astype(np.float32)

    def prepare(chunk: slice) -> _ChunkValues:
        raw = cells.read(chunk)
        n_fractional = check_values(raw, cells, chunk.start)
        raw = to_binary(raw) if binarize else raw
        totals, n_detected = sum_rows(raw.data, raw.indices, raw.indptr, counted)
        factor = compute_row_factors(raw, candidates, normalization, target=target_sum, totals=totals)
        # A copy, since cells in memory return their own values.
        data = raw.data * np.repeat(factor, np.diff(raw.indptr))
        values = sparse.csr_matrix((data, raw.indices, raw.indptr), shape=raw.shape)
        return _ChunkValues(values, np.log1p(data), n_detected, n_fractional)

    sums = FeatureSums(len(cells.domain.categories), len(candidates))
    kept, most_detected, n_fractional = [], 0, 0
    # Sums are taken in order while threads read and prepare the next chunks.
    for chunk, result in read_ahead(chunks(n_cells, CHUNK_SIZE), prepare, threads=THREADS):
        n_fractional += result.n_fractional
        most_detected = max(most_detected, int(result.n_detected.max(initial=0)))
        enough = np.flatnonzero(result.n_detected >= min_features)
        kept.append(chunk.start + enough)
        sums.add(result.values, result.logs, enough, domain[chunk])
    rows_kept = np.concatenate(kept) if kept else np.empty(0, np.int64)
    if min_features:
        log_filter(f"cells with >= {min_features} features (min_features)", n_cells, len(rows_kept))
    if len(rows_kept) == 0:
        raise ValueError(
            f"min_features={min_features} drops all {n_cells:,} cells: no cell has more than {most_detected} detected features. "
            f"Use min_features={most_detected} or less."
        )
    if len(rows_kept) < n_cells / 2:
        logger.warning(
            "min_features=%d drops %.0f %% of the cells. Lower it for shallow data.",
            min_features, 100 * (1 - len(rows_kept) / n_cells),
        )  # fmt: skip
    return _PassResult(sums.statistics().select_features(candidates), rows_kept, n_fractional)


def _filter_features(statistics: FeatureStatistics, min_cells: int, n_cells: int) -> NDArray[np.bool_]:
    """Return which features are detected in at least `min_cells` cells."""
    n_detected = statistics.n_detected.sum(0)
    if min_cells == 0:
        return np.ones(len(n_detected), bool)
    kept_features = n_detected >= min_cells
    log_filter(f"features in >= {min_cells} cells (min_cells)", len(n_detected), int(kept_features.sum()))
    if kept_features.any():
        return np.asarray(kept_features)
    if n_detected.max() == 0:
        raise ValueError(f"All {n_cells:,} cells are empty: no value is above 0.")
    raise ValueError(
        f"min_cells={min_cells} drops all features: no feature is in more than {n_detected.max()} cells. "
        f"Use min_cells={n_detected.max()} or less."
    )


def _compute_mean_input(
    total: NDArray[np.float64], maximum: NDArray[np.float32], n_cells: NDArray[np.int64], scaling: Scaling
) -> NDArray[np.float32]:
    """Return the mean input of each feature, (n_features,), from the sums and maxima of the values per domain."""
    divisor = maximum.max(0, keepdims=True) if scaling == "global" else maximum
    return np.asarray((total / np.where(divisor > 0, divisor, 1)).sum(0) / n_cells.sum(), np.float32)


def _read_mean_input(cells: Cells, preprocessor: Preprocessor, rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return the mean input of each feature by reading the cells again."""
    transform, domain = preprocessor.for_features(cells.var.index), cells.domain.codes.astype(np.int64)
    total = np.zeros(len(preprocessor.features))
    rows_of_chunks = [rows[chunk] for chunk in chunks(len(rows), CHUNK_SIZE)]
    for _, inputs in read_ahead(rows_of_chunks, lambda chunk: transform(cells.read(chunk), domain[chunk]), threads=THREADS):
        total += np.asarray(inputs.sum(0, dtype=np.float64)).ravel()
    return (total / len(rows)).astype(np.float32)


def choose_features(given: FeatureChoice, names: pd.Index, by_number: Callable[[int], NDArray[np.int64]]) -> NDArray[np.int64]:
    """Return the positions among `names` of the given features. If a number is given, `by_number` chooses them.

    Raises
    ------
    FileNotFoundError
        If the file of names does not exist.
    ValueError
        If none of the given features is in `names`.
    """
    number_or_names = read_names(given)
    if isinstance(number_or_names, int):
        return by_number(number_or_names)
    wanted = pd.Index(number_or_names).unique()
    position = names.get_indexer(wanted)
    missing = wanted[position < 0]
    if len(missing) == len(position):
        raise ValueError(
            f"None of the features in n_top_features is in the data (given: {', '.join(missing[:5])}; data: {', '.join(names[:5])})."
        )
    if len(missing):
        logger.warning("%d of the features in n_top_features are not in the data: %s", len(missing), ", ".join(missing[:5]))
    return np.asarray(position[position >= 0], np.int64)


def read_names(given: FeatureChoice) -> int | list[str]:
    """Return the names of features from a list or file, or the number if a number is given.

    Raises
    ------
    FileNotFoundError
        If the file of names does not exist.
    """
    if isinstance(given, int):
        return given
    if not isinstance(given, str | Path):
        return [str(name) for name in given]
    path = Path(given)
    if not path.is_file():
        raise FileNotFoundError(f"n_top_features={given}: no such file. Set a number, a list of names or a text file.")
    # Some editors begin a file with a mark of its byte order.
    return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]


def log_filter(what: str, before: int, after: int) -> None:
    """Log how many cells or features a filter keeps."""
    logger.info("Keeps %s: %s of %s", what, f"{after:,}", f"{before:,}")
