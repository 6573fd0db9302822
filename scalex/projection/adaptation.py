"""Fitting of an adapter: new cells of domains unlike all of the training, aligned once with the cells of a reference."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from lightning import Trainer
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from scalex.cells import CellSource
from scalex.metrics import neighbor_entropy
from scalex.model.correction import MAX_CELLS, N_NEIGHBORS, sample_rows
from scalex.model.mixed_clusters import first_centers
from scalex.model.options import Statistics
from scalex.projection.embedding import embed_chunks, make_quiet_trainer, show_progress
from scalex.projection.query import Query, open_query
from scalex.projection.report import MIXING_APART
from scalex.reference.adapter import Adapter, DomainMap, compute_fingerprint
from scalex.reference.alignment import align, compute_agreement, compute_likeness
from scalex.reference.finished_run import FinishedRun
from scalex.reference.input_pca import INPUT_PCA
from scalex.system.program import name_command
from scalex.system.settings import Count, Seed, Share, check_call

__all__ = ["check_adapter_options", "fit_adapter", "open_with_adapter"]

logger = logging.getLogger(__name__)

# Fewest cells of a domain. Adapters of 30 or 50 cells place cells worse than no adapter does.
MIN_CELLS = 100
# Neighbours among which the mixing is computed.
N_MIXED = 30
# Gain of agreement for which another start of the alignment is used.
LEAST_GAIN = 0.02
# Agreement with which no other start is tried.
ENOUGH = 0.85
# Largest fall of the agreement compared with cells as they lay.
MAX_FALL = 0.1
# Alignments after the first, for which it is known which cells are unlike those that they were matched with.
N_REVISIONS = 2
# Share of the covariance within regions that is replaced by its mean variance in all directions.
SHRINKAGE = 0.1
# A smaller share of cells whose clusters the reference has, too, is a warning.
WARN_BELOW = 0.5


@check_call
def fit_adapter(
    reference: FinishedRun,
    source: CellSource | Query,
    trainer: Trainer | None = None,
    *,
    fit_on: str | None = None,
    statistics: Statistics | None = None,
    chunk_size: Count = 20_000,
    least_found: Share = 0.3,
    seed: Seed = 124,
) -> Adapter:
    """Fit an adapter to new cells: for each of their domains, where its latents belong among those of the reference.

    The reference and its model do not change. Where a domain is the condition of interest, an adapter removes the effect of the condition,
    unless `fit_on` names the cells without it.

    Parameters
    ----------
    reference
        The reference.
    source
        Source of the new cells, or the cells that `open_query` has opened. Up to 20,000 of each domain take part, and no cells that the
        training filter would have dropped.
    trainer
        Lightning's trainer, which determines device and precision. None: the CPU.
    fit_on
        A condition on columns of obs, as for `pandas.DataFrame.eval`: only these cells take part, and the adapter applies to all.
    statistics, chunk_size, least_found
        As in `scalex.projection.project.project`.
    seed
        Seed of the samples and clusters.

    Returns
    -------
    Adapter
        The adapter, the same to the bit for the same cells, seed and kind of machine.

    Raises
    ------
    ValueError
        If a domain has fewer than 100 such cells, if it lies so far away that types would change places, if `fit_on` is no condition on
        obs, and as `scalex.projection.project.project`.
    """
    data = open_query(reference, source, chunk_size, least_found)
    chosen = _choose_rows(data, fit_on, seed)
    cells = _embed_rows(reference, data, chosen, trainer or make_quiet_trainer(), statistics)
    fixed = _FixedCells.sample(reference, seed)
    maps, described = {}, {}
    for code, name in enumerate(data.domains):
        own = cells.domain == code
        _check_number(name, int(own.sum()), fit_on)
        components = None if cells.components is None else cells.components[own]
        # With more threads, sums would change in the last bits.
        with threadpool_limits(1):
            maps[name], described[name] = _fit_map(name, cells.latent[own], components, fixed, seed)
        _log(name, described[name])
    description = {
        "reference": reference.given,
        "fingerprint": compute_fingerprint(reference.module),
        "fit_on": fit_on,
        "seed": seed,
        "statistics": statistics or reference.module.hparams["statistics"],
        "unit": "spread of the reference's latents",
        "domains": described,
    }
    return Adapter(maps, description)


def check_adapter_options(*, adapt: bool, adapter: object, fit_on: str | None) -> None:
    """Check that the options of an adapter go together.

    Raises
    ------
    ValueError
        If not.
    """
    if adapt and adapter is not None:
        raise ValueError("adapt=true fits an adapter, and adapter= gives one: use only one of them.")
    if fit_on is not None and not adapt:
        raise ValueError("fit_on= names the cells that an adapter is fitted to, and no adapter is fitted: add adapt=true.")


def open_with_adapter(
    reference: FinishedRun,
    source: CellSource,
    trainer: Trainer | None,
    *,
    adapt: bool,
    adapter: Adapter | str | Path | None,
    fit_on: str | None,
    chunk_size: int = 20_000,
    least_found: float = 0.3,
    statistics: Statistics | None = None,
    **_: Any,
) -> tuple[CellSource | Query, Adapter | None]:
    """Return the cells of a projection and its adapter: a new one if `adapt`, the given one, or None.

    The cells are opened if an adapter was fitted to them, so that they are not opened twice. The options are those of `fit_adapter`.
    Others of a projection have no effect.

    Raises
    ------
    ValueError, FileNotFoundError
        As `check_adapter_options`, `fit_adapter` and `Adapter.load`.
    """
    check_adapter_options(adapt=adapt, adapter=adapter, fit_on=fit_on)
    if adapt:
        data = open_query(reference, source, chunk_size, least_found)
        return data, fit_adapter(reference, data, trainer, fit_on=fit_on, statistics=statistics)
    return source, adapter if adapter is None or isinstance(adapter, Adapter) else Adapter.load(adapter)


def _choose_rows(data: Query, fit_on: str | None, seed: int) -> NDArray[np.int64]:
    """Return the ascending rows of up to 20,000 cells of each domain that `fit_on` names."""
    allowed = np.ones(data.n_cells, bool)
    if fit_on is not None:
        obs = data.cells.read_obs(slice(0, data.n_cells))
        try:
            found = obs.eval(fit_on, engine="python")
        except Exception as error:
            # pandas raises errors of many classes for what is no expression.
            raise ValueError(_explain_fit_on(fit_on, obs, str(error))) from error
        if not isinstance(found, pd.Series) or not pd.api.types.is_bool_dtype(found.dtype):
            raise ValueError(_explain_fit_on(fit_on, obs, "it is not true or false for each cell"))
        allowed = found.fillna(value=False).to_numpy(bool)
    domain, rng = data.domain(slice(0, data.n_cells)), np.random.default_rng(seed)
    drawn = [rng.permutation(np.flatnonzero(allowed & (domain == code)))[:MAX_CELLS] for code in range(len(data.domains))]
    return np.sort(np.concatenate(drawn))


def _explain_fit_on(fit_on: str, obs: pd.DataFrame, reason: str) -> str:
    return (
        f"fit_on={fit_on!r}: {reason}. Give a condition on columns of obs, as in fit_on='condition == \"control\"'. "
        f"Columns: {', '.join(map(str, obs.columns))}."
    )


class _Embedded(NamedTuple):
    """Some new cells: codes of their domains, latents, and principal components of their inputs, if the reference has those."""

    domain: NDArray[np.int64]
    latent: NDArray[np.float32]
    components: NDArray[np.float32] | None


def _embed_rows(
    reference: FinishedRun, data: Query, chosen: NDArray[np.int64], trainer: Trainer, statistics: Statistics | None
) -> _Embedded:
    """Embed those of the chosen cells that pass the training filter."""
    pca, n_least = reference.input_pca, reference.trained_on.preprocessor.min_features
    is_chosen = np.zeros(data.n_cells, bool)
    is_chosen[chosen] = True
    domains, latents, components = [], [], []
    with show_progress(data, "Fitting the adapter") as bar:
        for batch, latent in embed_chunks(reference, data, data.batches(), trainer, statistics):
            own = batch.row_C.numpy()
            assert batch.values is not None
            kept = np.flatnonzero(is_chosen[own] & (data.transform.count_detected(batch.values) >= n_least))
            domains.append(batch.domain_C.numpy()[kept])
            latents.append(latent[kept])
            if pca is not None:
                components.append(pca.transform(batch.rows.csr()[kept], data.transform.fill_value))
            bar.update(len(own))
    return _Embedded(np.concatenate(domains), np.concatenate(latents), None if pca is None else np.concatenate(components))


class _FixedCells(NamedTuple):
    """Sampled cells of the reference.

    Attributes
    ----------
    latent, components
        (n_cells, n_latent) and (n_cells, n_components), the latter None if the reference does not keep them.
    nearest
        Index of the latents.
    spread
        Root of their total variance.
    whitening
        (n_components, n_components), by which components have unit variance within regions of the latents; empty without components.
    """

    latent: NDArray[np.float32]
    components: NDArray[np.float32] | None
    nearest: NearestNeighbors
    spread: float
    whitening: NDArray[np.float64]

    @classmethod
    def sample(cls, reference: FinishedRun, seed: int) -> _FixedCells:
        code = torch.from_numpy(pd.Categorical(reference.cells.obs["domain"]).codes.astype(np.int64))
        rows = sample_rows(code, torch.Generator().manual_seed(seed)).numpy()
        latent = reference.latent[rows]
        components = np.asarray(reference.cells.obsm[INPUT_PCA])[rows] if INPUT_PCA in reference.cells.obsm else None
        nearest = NearestNeighbors(n_neighbors=min(N_NEIGHBORS, len(rows))).fit(latent)
        whitening = np.zeros((0, 0)) if components is None else _whiten(latent, components, seed)
        return cls(latent, components, nearest, float(np.sqrt(latent.var(0, dtype=np.float64).sum())), whitening)

    def match(self, latent: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return the mean components of the nearest of these cells, (n_cells, n_components)."""
        assert self.components is not None
        mean: NDArray[np.float64] = self.components[self.nearest.kneighbors(latent, return_distance=False)].mean(1, dtype=np.float64)
        return mean


def _whiten(latent: NDArray[np.float32], components: NDArray[np.float32], seed: int) -> NDArray[np.float64]:
    """Return the matrix by which components have unit variance within regions of the latents."""
    region = cdist(latent, first_centers(torch.from_numpy(latent), seed).numpy()).argmin(1)
    within = pd.DataFrame(components.astype(np.float64))
    within -= within.groupby(region).transform("mean")
    covariance = np.asarray(within.T @ within) / len(within)
    covariance = (1 - SHRINKAGE) * covariance + SHRINKAGE * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
    variance, axes = np.linalg.eigh(covariance)
    whitening: NDArray[np.float64] = axes / np.sqrt(np.maximum(variance, np.finfo(np.float64).tiny))
    return whitening


def _fit_map(
    name: str, latent: NDArray[np.float32], components: NDArray[np.float32] | None, fixed: _FixedCells, seed: int
) -> tuple[DomainMap, dict[str, Any]]:
    """Return the map of a domain, and how its cells lie before and after.

    The alignment starts from where the cells lie. If the inputs of cells and their neighbours in the reference agree too little then, it
    also starts from where the mean of the cells is that of the reference, and that one counts in which the inputs agree more. It is revised
    afterwards: cells whose inputs are unlike those of their neighbours, as those of a type are that the reference lacks, move with the
    domain as a whole. If the inputs agree much less than without an alignment, cells that are mixed with the reference anyway stay where
    they lie.
    """
    if components is None or fixed.components is None:
        aligned = align(torch.from_numpy(latent), torch.from_numpy(fixed.latent), seed=seed)
        own_map = DomainMap.fit(latent, aligned.latent_NZ.numpy(), np.zeros(0), spread=fixed.spread, seed=seed)
        return own_map, _describe(latent, own_map, fixed, float(aligned.shared_N.mean()), None)
    group = cdist(latent, first_centers(torch.from_numpy(latent), seed).numpy()).argmin(1)
    before = compute_agreement(components, fixed.match(latent), group)
    found, agreement, matched, first = None, -np.inf, np.empty(0), latent
    for start in (np.zeros(latent.shape[1], np.float32), fixed.latent.mean(0) - latent.mean(0)):
        if agreement >= ENOUGH:
            break
        one = align(torch.from_numpy(latent + start), torch.from_numpy(fixed.latent), seed=seed)
        match = fixed.match(one.latent_NZ.numpy())
        value = compute_agreement(components, match, group)
        if found is None or value > agreement + LEAST_GAIN:
            found, agreement, matched, first = one, value, match, latent + start
    assert found is not None
    for _ in range(N_REVISIONS):
        like = compute_likeness(components, matched, group, found.shared_N.numpy(), fixed.whitening)
        found = align(
            torch.from_numpy(first), torch.from_numpy(fixed.latent), seed=seed, like_N=torch.from_numpy(like.astype(np.float32))
        )  # fmt: skip
        matched = fixed.match(found.latent_NZ.numpy())
    agreement = compute_agreement(components, matched, group)
    if agreement < before - MAX_FALL and _compute_mixing(latent, fixed.latent) >= MIXING_APART:
        own_map = DomainMap.identity(latent.shape[1], components.shape[1])
        return own_map, _describe(latent, own_map, fixed, float(found.shared_N.mean()), (before, before))
    if agreement < before - MAX_FALL:
        raise ValueError(
            f"Domain {name}: its cells would lie among cells of other types (agreement of their inputs {agreement:.2f}, without an adapter "
            f"{before:.2f}). It is too far from the reference for an adapter: project it without one, or continue the training with it "
            f"({name_command('train')} reference=)."
        )
    # Cells of types that the reference lacks have no weight: their differences are not technical.
    shift = np.average(matched - components, axis=0, weights=found.shared_N.numpy().astype(np.float64) + 1e-12)
    own_map = DomainMap.fit(latent, found.latent_NZ.numpy(), shift, spread=fixed.spread, seed=seed)
    return own_map, _describe(latent, own_map, fixed, float(found.shared_N.mean()), (before, agreement))


def _check_number(name: str, n_cells: int, fit_on: str | None) -> None:
    if n_cells < MIN_CELLS:
        which = "that pass the filter" if fit_on is None else f"with {fit_on}"
        raise ValueError(
            f"Domain {name} has {n_cells} cells {which}, and an adapter needs at least {MIN_CELLS} of each domain. Name a column with "
            "larger domains, such as the technology (dataset.batch_key; in Python batch_key), leave the domain out, or project it without "
            "an adapter."
        )


def _describe(
    latent: NDArray[np.float32], own_map: DomainMap, fixed: _FixedCells, shared: float, agreement: tuple[float, float] | None
) -> dict[str, Any]:
    """Return how the cells of a domain lay among those of the reference, and how they lie with the map."""
    adapted = own_map.apply(latent)
    moved = adapted.astype(np.float64) - latent
    return {
        "n_cells": len(latent),
        "n_regions": len(own_map.center_KZ),
        "common_shift": float(np.linalg.norm(moved.mean(0))) / fixed.spread,
        "moved": float(np.sqrt(np.square(moved).sum(1).mean())) / fixed.spread,
        "shared": shared,
        "agreement": None if agreement is None else {"before": agreement[0], "after": agreement[1]},
        "mixing": {"before": _compute_mixing(latent, fixed.latent), "after": _compute_mixing(adapted, fixed.latent)},
    }


def _compute_mixing(latent: NDArray[np.float32], fixed: NDArray[np.float32]) -> float:
    """Return the mean entropy of new cells and the reference around new cells, in [0, 1]."""
    n_cells = min(len(latent), len(fixed), 5000)
    rng = np.random.default_rng(0)
    parts = [cells[np.sort(rng.permutation(len(cells))[:n_cells])] for cells in (latent, fixed)]
    both = pd.Categorical(np.repeat(["query", "reference"], n_cells))
    return float(neighbor_entropy(np.concatenate(parts), both, n_neighbors=N_MIXED)[:n_cells].mean())


def _log(name: str, numbers: dict[str, Any]) -> None:
    logger.info(
        "Adapter of domain %s: fitted to %s cells, which move by %.2f of the reference's spread; mixing with it %.2f, before %.2f",
        name, f"{numbers['n_cells']:,}", numbers["moved"], numbers["mixing"]["after"], numbers["mixing"]["before"],
    )  # fmt: skip
    if numbers["shared"] < WARN_BELOW:
        logger.warning(
            "Domain %s shares clusters with the reference in %.0f %% of its cells only. The others were moved as a whole: look at the "
            "report before you use them.", name, 100 * numbers["shared"],
        )  # fmt: skip
