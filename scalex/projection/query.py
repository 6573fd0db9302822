"""Opening of new cells for a reference, with checks of what they must have in common with its cells."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from itertools import count

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy import sparse

from scalex.cells import AnnDataSource, Cells, CellSource, MergedFeatures
from scalex.data.stream import ChunkLoader
from scalex.features.mismatch import explain_mismatch
from scalex.features.peaks import match_by_overlap
from scalex.nn import SparseRows
from scalex.nn.batch import CellBatch
from scalex.preprocess import RowTransform
from scalex.preprocess.checks import check_values, count_fractional, look_normalized
from scalex.reference.finished_run import FinishedRun
from scalex.system.chunks import chunks
from scalex.system.stages import STAGE

__all__ = ["Query", "open_query"]

logger = logging.getLogger(__name__)

# Cells in which the query's values are checked for counts.
N_SAMPLED = 1000
# A smaller share of the model's features in the query is a warning.
WARN_BELOW = 0.8


class Query:
    """All new cells in their order, preprocessed like the training cells. Two chunks are in memory at a time.

    Parameters
    ----------
    cells
        The new cells.
    transform
        The frozen preprocessing, for the features of `cells`.
    domains
        Names for the categories of the cells' domains. None: as they are.
    chunk_size
        Number of cells embedded at a time.

    Attributes
    ----------
    domains
        Names of the domains of these cells.
    known_domain
        (n_domains,) int64, code of each of them among the domains of the model, or -1 if the model does not know it.

    """

    def __init__(self, cells: Cells, transform: RowTransform, *, domains: Sequence[str] | None = None, chunk_size: int = 20_000) -> None:
        self.cells = cells
        self.transform = transform
        self.domains = tuple(cells.domain.categories.astype(str) if domains is None else domains)
        self.known_domain = pd.Index(transform.preprocessor.domains).get_indexer(pd.Index(self.domains)).astype(np.int64)
        self._chunk_size = chunk_size

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return len(self.cells.domain)

    def domain(self, rows: slice) -> NDArray[np.int64]:
        """Return the domains of consecutive cells, (n_rows,) codes of `domains`."""
        return np.asarray(self.cells.domain.codes[rows], np.int64)

    def read(self, rows: slice) -> CellBatch:
        """Read and preprocess consecutive cells. The batch holds the values as well as the inputs.

        Raises
        ------
        ValueError
            If a value is negative or not finite.
        """
        values = self.cells.read(rows)
        check_values(values, self.cells, rows.start)
        domain = self.domain(rows)
        inputs = SparseRows.of(self.transform(values, self.known_domain[domain]))
        return CellBatch(inputs, torch.from_numpy(domain), torch.arange(rows.start, rows.stop), values)

    def batches(self, process: int = 0, n_processes: int = 1) -> ChunkLoader:
        """Return a loader of the cells in chunks, each cell once and in order, or of one process's share of the chunks."""
        return ChunkLoader(list(chunks(self.n_cells, self._chunk_size))[process::n_processes], self.read)


def open_query(reference: FinishedRun, source: CellSource | Query, chunk_size: int, least_found: float = 0.3) -> Query:
    """Open new cells for a reference and check them. See `scalex.projection.project.project` for parameters and errors.

    What this function has returned can be given again, and is returned as it is.
    """
    if isinstance(source, Query):
        return source
    cells = source.open()
    if isinstance(source, AnnDataSource) and source.match_peaks == "overlap":
        cells = _match_peaks(cells, reference)
    transform = reference.trained_on.preprocessor.for_features(cells.var.index)
    _check_features(transform, cells.var, least_found)
    domains = _name_domains(reference, cells, source.list_numbered_domains(cells) if isinstance(source, AnnDataSource) else [])
    data = Query(cells, transform, domains=domains, chunk_size=chunk_size)
    _check_counts(reference, source, cells.read(slice(0, min(N_SAMPLED, data.n_cells))))
    new = [domain for domain, code in zip(data.domains, data.known_domain, strict=True) if code < 0]
    logger.info(
        "Query: %s cells x %s features, %d domain(s), of which %d are new to the model", f"{data.n_cells:,}",
        f"{len(cells.var):,}", len(data.domains), len(new), extra=STAGE,
    )  # fmt: skip
    return data


def _name_domains(reference: FinishedRun, cells: Cells, numbered: Collection[str]) -> list[str]:
    """Return the names of the domains. One that is only numbered is none of the reference's: if the number is taken, it gets another."""
    names = [str(name) for name in cells.domain.categories]
    if not numbered:
        return names
    known = {*reference.trained_on.preprocessor.domains, *map(str, reference.cells.obs["domain"].unique())}
    for i, name in enumerate(names):
        if name in numbered and name in known:
            names[i] = next(free for n in count(2) if (free := f"{name}-{n}") not in known.union(names))
            logger.info(
                "The reference has a domain %s, and nothing names that of these cells: it becomes %s. If it is the same, say so in a "
                "column of obs (batch_key)", name, names[i],
            )  # fmt: skip
    return names


def _match_peaks(cells: Cells, reference: FinishedRun) -> MergedFeatures:
    """Return the cells with the reference's peaks. Each peak of the cells is added to the reference's peak that it overlaps most."""
    preprocessor = reference.trained_on.preprocessor
    known = preprocessor.features if preprocessor.total_features is None else preprocessor.total_features
    position = match_by_overlap(known, cells.var.index)
    logger.info(
        "Peaks: %s of %s overlap %s of the %s that the reference knows (match_peaks=overlap)", f"{(position >= 0).sum():,}",
        f"{len(position):,}", f"{len(np.unique(position[position >= 0])):,}", f"{len(known):,}",
    )  # fmt: skip
    # Peaks of the reference that nothing overlaps are missing, not 0.
    overlapped = np.unique(position[position >= 0])
    column = np.full(len(known), -1, np.int64)
    column[overlapped] = np.arange(len(overlapped))
    return MergedFeatures(cells, pd.DataFrame(index=known[overlapped]), np.where(position >= 0, column[position], -1))


def _check_features(transform: RowTransform, var: pd.DataFrame, least_found: float) -> None:
    """Check that the query has enough of the model's features, and log how they were matched."""
    features, found = transform.preprocessor.features, transform.found
    share = found.mean()
    text = f"{found.sum():,} of the {len(found):,} features of the model are in the query ({share:.0%})"
    match = transform.match
    if match.case_only:
        pairs = ", ".join(f"{known}/{new}" for known, new in match.case_only[:5])
        text += f"; {len(match.case_only):,} names differ from the query's only in case ({pairs}) and were not matched"
    if share < least_found or not found.any():
        reason = explain_mismatch([pd.DataFrame(index=features), var], ["reference", "query"])
        advice = reason or "Rename the query's features to the names of the reference."
        raise ValueError(
            f"Only {text}; at least {least_found:.0%} are needed (least_found). Reference: {', '.join(features[~found][:5])}, ...; query: "
            f"{', '.join(var.index[:5])}, .... {advice}"
        )
    if share < WARN_BELOW:
        logger.warning(
            "Only %s. The mean of the training cells replaces the others. Missing: %s, ...", text, ", ".join(features[~found][:5])
        )
    else:
        logger.info("Features: %s", text)
    if match.n_without_version:
        logger.info("%s features were matched without their Ensembl versions", f"{match.n_without_version:,}")
    if match.n_repeated:
        logger.warning("%d features of the query match an already matched feature. Only the first match counts.", match.n_repeated)


def _check_counts(reference: FinishedRun, source: CellSource, values: sparse.csr_matrix) -> None:
    """Check that a model of counts gets counts, perhaps estimated ones, and that a model of processed values gets processed values."""
    n_cells, n_fractional = np.count_nonzero(np.diff(values.indptr)), count_fractional(values)
    fractional, trained_on = 2 * n_fractional > n_cells, reference.trained_on.preprocessor
    if fractional and not trained_on.fractional and (trained_on.normalization == "none" or look_normalized(values)):
        found = source.find_counts() if isinstance(source, AnnDataSource) else []
        advice = "Give raw counts; no layer of the query holds them. If these are estimated counts, round them."
        if found:
            advice = (
                f"Whole numbers are in {' and '.join(found)}: use dataset.layer={found[0]} (SCALEX: counts_layer={found[0]!r}, Reference: "
                f"layer={found[0]!r})."
            )
        raise ValueError(f"The query's values look normalized, but the reference was trained on counts. {advice}")
    if n_cells and not fractional and trained_on.fractional and trained_on.normalization == "none":
        raise ValueError(
            "The query's values are whole numbers, probably raw counts, but the reference was trained on processed values. Process the "
            "query in the same way first."
        )
    if fractional and trained_on.normalization != "none":
        numbers = f"{n_fractional:,}", f"{n_cells:,}"
        logger.info("%s of the first %s cells have fractional values, which are taken for corrected or estimated counts", *numbers)
