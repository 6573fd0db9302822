"""Checks of adapters: parts of a query, few cells, missing and dominant types, and the effect of a condition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import anndata as ad
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import f1_score, roc_auc_score
from sklearn.neighbors import NearestNeighbors

from benchmarks.quality.checks import Read, Section
from benchmarks.quality.projections import train_without
from benchmarks.quality.runs import Model
from benchmarks.quality.sets import LabelledCells
from benchmarks.quality.store import Store
from benchmarks.tables import mean_and_spread
from scalex.metrics import wrong_neighbors
from scalex.projection.adaptation import MIN_CELLS
from scalex.projection.reference import Reference
from scalex.reference.adapter import Adapter

__all__ = ["CASES", "check_condition", "check_parts", "check_types"]

# Sets, and the domain that is unlike the others.
CASES = (
    ("pancreas_celseq_indrop", "celseq"),
    ("pancreas_celseq_indrop", "inDrop4"),
    ("kang_ctrl_stim", "stim"),
    ("kang_ctrl_stim", "ctrl"),
    ("celllines_joined", "sc_10x_5cl"),
)
# Numbers of cells that adapters are fitted to.
SIZES = (1000, 300, 100)
# Share of the query that a dominant type has.
DOMINANT = 0.8
# Largest types of a query that are taken away or made dominant.
N_TYPES = 2
# A type of fewer cells is not left out.
MIN_TYPE = 20
N_NEIGHBORS = 15
# Genes that interferon induces most in these cells (Kang et al., Nature Biotechnology 36:89, 2018).
INTERFERON = ("ISG15", "IFI6", "IFIT1", "IFIT2", "IFIT3", "ISG20", "MX1", "LY6E", "IFITM3", "OAS1")


class _Case(NamedTuple):
    """A reference without a domain, and the cells of that domain."""

    title: str
    reference: Reference
    new: ad.AnnData

    @classmethod
    def train(cls, cells: LabelledCells, domain: str, model: Model, title: str | None = None) -> _Case:
        run = train_without(model, cells, (domain,), model.seeds[0])
        return cls(title or f"{cells.name}: {domain}", Reference.load(run.folder), run.new)

    def fit(self, rows: NDArray[np.int64] | None = None) -> Adapter:
        """Fit an adapter to all new cells, or to some."""
        part = self.new if rows is None else self.new[rows].copy()
        return self.reference.fit_adapter(part, batch_key="batch", statistics="running")

    def embed(self, adapter: Adapter | None) -> NDArray[np.float32]:
        """Return the latents of the new cells."""
        return self.reference.embed(self.new, batch_key="batch", adapter=adapter, statistics="running")

    def score(self, store: Store, latent: NDArray[np.float32], rows: NDArray[np.int64] | slice = slice(None)) -> float:
        """Return the total score of the reference and some of the new cells."""
        known, new = self.reference.cells.obs, self.new.obs.iloc[rows]
        label = [*known["cell_type"].astype(str), *new["cell_type"].astype(str)]
        obs = pd.DataFrame({"batch": [*known["domain"].astype(str), *new["batch"].astype(str)], "cell_type": label})
        return store.score(self.title, np.concatenate([self.reference.latent, latent[rows]]), obs)["steady total"]


def check_parts(store: Store, read: Read, model: Model, cases: Sequence[tuple[str, str]], n_draws: int) -> Section:
    """Fit adapters to half of a query and score the other half, and to few cells and score all.

    Parameters
    ----------
    store
        Store of the scores.
    read
        Function that returns the cells of a set.
    model
        Our model, of which the first seed is used.
    cases
        Some of `CASES`.
    n_draws
        Number of draws of few cells, and of halves.
    """
    rows = []
    for name, domain in cases:
        case = _Case.train(read(name), domain, model)
        n_new = case.new.n_obs
        orders = [np.random.default_rng([n_new, draw]).permutation(n_new) for draw in range(n_draws)]
        whole = case.embed(case.fit())
        other, all_of_it = [], []
        for order in orders if n_new >= 2 * MIN_CELLS else []:
            fitted, scored = np.sort(order[: n_new // 2]), np.sort(order[n_new // 2 :])
            other.append(case.score(store, case.embed(case.fit(fitted)), scored))
            all_of_it.append(case.score(store, whole, scored))
        texts = [f"{case.score(store, case.embed(None)):.3f}", f"{case.score(store, whole):.3f}"]
        texts += [mean_and_spread(all_of_it), mean_and_spread(other)]
        for size in SIZES:
            few = [case.score(store, case.embed(case.fit(np.sort(order[:size])))) for order in orders] if size < n_new else []
            texts.append(mean_and_spread(few))
        rows.append([case.title, *texts])
    columns = ["query", "no adapter", "fitted to all", "to all, half scored", "to one half, the other scored"]
    note = f"Total score with 10 starts of k-means; {n_draws} draws."
    return Section("quality, adapters: parts of a query", [*columns, *(f"to {size:,} cells" for size in SIZES)], rows, note)


def check_types(read: Read, model: Model, cases: Sequence[tuple[str, str]]) -> Section:
    """Take a type away from the reference or from the query, or make it most of the query.

    Parameters
    ----------
    read, model, cases
        As for `check_parts`.
    """
    rows = []
    for name, domain in cases:
        cells = read(name)
        own = cells.adata.obs["batch"] == domain
        counts = [cells.adata.obs["cell_type"][side].value_counts() for side in (own, ~own)]
        types = [str(one) for one, n in counts[0].items() if n >= MIN_TYPE and counts[1].get(one, 0) >= MIN_TYPE][:N_TYPES]
        for one in types:
            is_type = (cells.adata.obs["cell_type"] == one).to_numpy()
            without = cells.select(~(is_type & ~own.to_numpy()), f"{cells.name}, {one} in {domain} alone")
            rows += _measure_types(_Case.train(without, domain, model, f"{cells.name}: {domain}"), one, f"{one} missing in the reference")
        for one in types:
            case = _Case.train(cells, domain, model)
            is_type = (case.new.obs["cell_type"] == one).to_numpy()
            rows += _measure_types(case._replace(new=case.new[~is_type].copy()), one, f"{one} missing in the query")
            n_others = round(is_type.sum() * (1 - DOMINANT) / DOMINANT)
            others = np.random.default_rng(0).permutation(np.flatnonzero(~is_type))[:n_others]
            kept = np.sort(np.concatenate([np.flatnonzero(is_type), others]))
            rows += _measure_types(case._replace(new=case.new[kept].copy()), one, f"{one} {DOMINANT:.0%} of the query")
    columns = ["query", "change", "adapter", "wrong neighbours", "of the type", "macro-F1", "AUROC of unknown"]
    return Section("quality, adapters: types", columns, rows, "Wrong neighbours are those of the new cells.")


def _measure_types(case: _Case, one: str, change: str) -> list[list[str]]:
    """Return a row without and a row with an adapter. There is none with one if the query has too few cells."""
    rows = []
    adapters = [None, case.fit()] if case.new.n_obs >= MIN_CELLS else [None]
    label = case.new.obs["cell_type"].to_numpy(str)
    known = case.reference.cells.obs["cell_type"].to_numpy(str)
    every = np.concatenate([known, label])
    for adapter in adapters:
        latent = case.embed(adapter)
        wrong = wrong_neighbors(np.concatenate([case.reference.latent, latent]), every)[len(known) :]
        found = case.reference.transfer_labels(case.new, "cell_type", batch_key="batch", adapter=adapter, statistics="running")
        is_known = np.isin(label, known)
        shared = np.unique(label[is_known])
        f1 = f1_score(label[is_known], found["best"].to_numpy(str)[is_known], labels=shared, average="macro", zero_division=0)
        auroc = "" if is_known.all() else f"{roc_auc_score(~is_known, found['unknown']):.3f}"
        of_type = f"{np.nanmean(wrong[label == one]):.3f}" if one in label else ""
        rows.append([case.title, change, "no" if adapter is None else "yes", f"{np.nanmean(wrong):.3f}", of_type, f"{f1:.3f}", auroc])
    return rows


def check_condition(read: Read, model: Model) -> Section:
    """Project control and stimulated cells of one technology onto control cells, and measure how well interferon's effect is kept.

    Parameters
    ----------
    read, model
        As for `check_parts`.
    """
    control, both = read("kang_ctrl_donors"), read("kang_ctrl_stim")
    common = control.adata.var_names.intersection(both.adata.var_names, sort=False)
    new = both.adata[:, common].copy()
    condition, new.obs["batch"] = new.obs["batch"].to_numpy(str), "new"
    merged = ad.concat([control.adata[:, common], new], join="inner", index_unique="-")
    merged.obs[["batch", "cell_type"]] = merged.obs[["batch", "cell_type"]].astype("category")
    case = _Case.train(replace(control, name="kang donors", adata=merged), "new", model)
    cells = case.new
    cells.obs["condition"] = condition
    without, treated = sorted(set(condition))
    # Made cells (--tiny) have no such genes.
    genes = [gene for gene in INTERFERON if gene in common] or list(common[:10])
    values = np.log1p(1e4 * cells[:, genes].X.toarray() / np.asarray(cells.X.sum(1)))
    response = ((values - values.mean(0)) / values.std(0)).mean(1)
    rows = []
    fit_on = {"fitted to all": None, "fitted to control cells (fit_on)": f'condition == "{without}"'}
    latents = {"no adapter": case.embed(None)}
    for title, chosen in fit_on.items():
        adapter = case.reference.fit_adapter(cells, batch_key="batch", fit_on=chosen, statistics="running")
        latents[title] = case.embed(adapter)
    stimulated = condition == treated
    for title, latent in latents.items():
        rows.append(
            [title, *(f"{value:.3f}" for value in _measure_response(latent, response, stimulated, cells.obs["cell_type"].to_numpy(str)))]
        )
        known = case.reference.latent
        index = NearestNeighbors(n_neighbors=N_NEIGHBORS).fit(known)
        distance = index.kneighbors(latent)[0].mean(1)
        unit = np.median(index.kneighbors()[0].mean(1))
        rows[-1] += [f"{np.median(distance[side]) / unit:.2f}" for side in (~stimulated, stimulated)]
    columns = ["adapter", "interferon score, R² of 15 neighbours", "stimulated against control, AUROC of 15 neighbours"]
    columns += ["distance of control cells to the reference", "of stimulated cells"]
    note = (
        f"Reference: control cells of eight donors. Query: {len(cells):,} control and stimulated cells of the same study, as one domain. "
        f"Neighbours are the nearest other query cells of the same type. Score: mean of {len(genes)} standardized genes. Distance: 1 is "
        "the median of the reference's cells."
    )
    return Section("quality, adapters: a condition", columns, rows, note)


def _measure_response(
    latent: NDArray[np.float32], response: NDArray[np.float64], stimulated: NDArray[np.bool_], label: NDArray[np.str_]
) -> tuple[float, float]:
    """Return how well a cell's neighbours of its type predict its response (R² within types) and its condition (AUROC)."""
    predicted, share, within = np.zeros(len(label)), np.zeros(len(label)), np.zeros(len(label))
    for one in np.unique(label):
        own = np.flatnonzero(label == one)
        if len(own) <= N_NEIGHBORS:
            continue
        near = own[NearestNeighbors(n_neighbors=N_NEIGHBORS).fit(latent[own]).kneighbors(return_distance=False)]
        predicted[own], share[own] = response[near].mean(1) - response[own].mean(), stimulated[near].mean(1)
        within[own] = response[own] - response[own].mean()
    return 1 - float(np.square(within - predicted).sum() / np.square(within).sum()), float(roc_auc_score(stimulated, share))
