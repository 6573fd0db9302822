"""Checks beyond the total score: random cuts, types of one domain, projected domains and labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import permutations, product
from typing import NamedTuple, Self

import numpy as np

from benchmarks.quality.projections import PEERS, WAYS, PeerProjection, Projected, list_left_out
from benchmarks.quality.runs import LabelsHidden, Model
from benchmarks.quality.sets import LabelledCells, cut_at_random, draw_few, restrict_types
from benchmarks.quality.store import Figures, Method, Store
from benchmarks.tables import mean_and_spread

__all__ = [
    "FEW_SETS",
    "LABELS_SETS",
    "UNSHARED_TYPES",
    "Section",
    "check_few",
    "check_labels",
    "check_many",
    "check_null",
    "check_projected",
    "check_unshared",
]

CUT_SEED = 0
UNSHARED_SET = "pancreas_celseq_indrop"
UNSHARED_TYPES = ("alpha", "ductal", "beta")
# Sets from which domains are left out and then projected.
PROJECTED_SETS = (
    "pancreas_celseq_indrop",
    "kang_ctrl_stim",
    "celllines_joined",
    "kang_ctrl_stim_scgen",
    "kang_ctrl_donors",
    "pbmc_protein_asap_cite",
    "mop_rna_vs_geneactivity",
)
# A smaller loss of the total by projection is none: the domains are like those of the training.
LEAST_LOSS = 0.03
PROJECTED_FIGURES = ("steady total", "bio", "batch", "wrong")

# Sets in which the labels of each domain in turn are hidden.
LABELS_SETS = ("pancreas_celseq_indrop", "kang_ctrl_stim")
# Our model that learns from labels, and the model that it is compared with.
WITH_LABELS, WITHOUT_LABELS = "scalex_labels", "scalex"

# Sets of which few cells are drawn, and how many.
FEW_SETS = ("pancreas_celseq_indrop", "kang_ctrl_stim", "celllines_joined", "mop_rna")
FEW = (300, 600, 1000)

Read = Callable[[str], LabelledCells]


class Section(NamedTuple):
    """A table with its title; each of `rows` has one text per column."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


def check_null(store: Store, read: Read, sets: Sequence[str], methods: Sequence[Method]) -> Section:
    """Compare sets of one domain, whole and cut at random in two, for which nothing should change.

    Parameters
    ----------
    store
        Store of the embeddings.
    read
        Function that returns the cells of a set.
    sets
        Sets of one domain.
    methods
        Methods that embed both the whole and the cut.
    """
    rows = []
    for name in sets:
        whole = read(name)
        cut = cut_at_random(whole, CUT_SEED)
        for method in methods:
            before = store.all_figures(whole, method, judged=cut.adata.obs)
            after = store.all_figures(cut, method)
            if before and after:
                compared = [text for key in ("steady bio", "wrong", "batch") for text in _compare(before, after, key)]
                rows.append([name, method.name, str(len(after)), *compared])
    columns = ["set", "method", "seeds"]
    for figure in ("bio, 10 starts of k-means", "wrong neighbours", "batch"):
        columns += [f"{figure}, whole", f"{figure}, cut", "change"]
    note = "Both embeddings are scored with the two halves as domains."
    return Section("quality, null: one domain, cut at random", columns, rows, note)


def check_few(
    store: Store, read: Read, sets: Sequence[str], methods: Sequence[Method], n_draws: int, sizes: Sequence[int] = FEW
) -> Section:
    """Measure methods on few cells, even and uneven draws of larger sets.

    Parameters
    ----------
    store, read, methods
        As for `check_null`.
    sets
        The used sets of `FEW_SETS`.
    n_draws
        Number of draws of each size and kind.
    sizes
        Numbers of cells.
    """
    keys = ("steady total", "bio", "batch", "wrong")
    found: dict[tuple[str, str], list[Figures]] = {}
    for name, n_cells, uneven, draw in product(sets, sizes, (False, True), range(n_draws)):
        cells = draw_few(read(name), n_cells, draw, uneven=uneven)
        for method in methods:
            for group in (name, f"{n_cells} cells", "uneven" if uneven else "even", "all"):
                found.setdefault((group, method.name), []).extend(store.all_figures(cells, method))
    order = [*sets, *(f"{n} cells" for n in sizes), "even", "uneven", "all"]
    rows = []
    for (group, method_name), figures in sorted(found.items(), key=lambda item: order.index(item[0][0])):
        if figures:
            rows.append([group, method_name, str(len(figures)), *(mean_and_spread(_values(figures, key)) for key in keys)])
    columns = ["mean of", "method", "runs", "total, 10 starts of k-means", "bio", "batch", "wrong neighbours"]
    note = f"{n_draws} draw(s) of each set, number of cells and kind; spread: over the draws and seeds."
    return Section("quality, few cells", columns, rows, note)


def check_many(store: Store, cells: LabelledCells, methods: Sequence[Method]) -> Section:
    """Measure methods on cells of many types in many domains.

    Parameters
    ----------
    store, methods
        As for `check_null`.
    cells
        The result of `simulate_atlas`.
    """
    keys = ("steady total", "bio", "batch", "wrong", "wrong, types", "training")
    rows = []
    for method in methods:
        figures = store.all_figures(cells, method)
        if figures:
            rows.append([method.name, str(len(figures)), *(mean_and_spread(_values(figures, key)) for key in keys)])
    columns = ["method", "seeds", "total, 10 starts of k-means", "bio", "batch", "wrong neighbours", "mean over types", "training, s"]
    return Section(f"quality, many: {cells.adata.n_obs:,} simulated cells, {cells.name}", columns, rows)


def check_unshared(store: Store, read: Read, methods: Sequence[Method], types: Sequence[str] = UNSHARED_TYPES) -> Section:
    """Measure whether types of a single domain are mixed with other types.

    Parameters
    ----------
    store, read, methods
        As for `check_null`.
    types
        Types, of which each ordered pair is used.
    """
    shared = read(UNSHARED_SET)
    rows, means = [], []
    for method in methods:
        found: list[Figures] = []
        for one, other in permutations(types, 2):
            cells = restrict_types(shared, {one: "inDrop4", other: "celseq"})
            figures = [figure | {"unshared": _mean_of_types(figure, (one, other))} for figure in store.all_figures(cells, method)]
            if figures:
                rows.append(
                    [f"{one} in inDrop4, {other} in CEL-Seq", method.name, str(len(figures)), *_format_unshared(figures, one, other)]
                )
                found.append({key: float(np.mean([figure[key] for figure in figures])) for key in ("unshared", "wrong", "total")})
        if found:
            n_cuts = f"mean of {len(found)}"
            means.append([n_cuts, method.name, "", mean_and_spread([one["unshared"] for one in found]), "", ""])
            means[-1] += [mean_and_spread([one[key] for one in found]) for key in ("wrong", "total")]
    columns = ["alone", "method", "seeds", "wrong neighbours of both types", "of the first", "of the second", "of all cells", "total"]
    note = f"{UNSHARED_SET}, from which the cells of two types were taken, of each those of one domain. Spread of a mean: over the cuts."
    return Section("quality, unshared: types of one domain", columns, [*rows, *means], note)


def check_projected(store: Store, read: Read, sets: Sequence[str], models: Sequence[Model], interpreters: Sequence[str | None]) -> Section:
    """Compare models trained without domains, which they then embed in several ways, with models trained on all, and with other methods.

    Parameters
    ----------
    store, read
        As for `check_null`.
    sets
        The used sets of `PROJECTED_SETS`.
    models
        Our models.
    interpreters
        Interpreter of each of `benchmarks.quality.projections.PEERS`. None: its stored results alone are used.
    """
    rows: list[list[str]] = []
    means: list[_Mean] = []
    for name in sets:
        cells = read(name)
        for left_out in list_left_out(cells):
            found: dict[str, list[Figures]] = {}
            for model in models:
                for way in WAYS:
                    found[f"{model.name}: {way}"] = store.all_figures(cells, Projected(model, left_out, way))
                found[f"{model.name}: trained on all"] = store.all_figures(cells, model)
            for peer, interpreter in zip(PEERS, interpreters, strict=True):
                found[peer.name] = store.all_figures(cells, PeerProjection(peer, interpreter, left_out))
            for method, figures in found.items():
                if figures:
                    one = _Mean.of(method, figures, found)
                    texts = [mean_and_spread(_values(figures, key)) for key in PROJECTED_FIGURES]
                    rows.append([name, " + ".join(left_out), method, str(len(figures)), *texts, one.format_share()])
                    means.append(one)
    for kind, chosen in (("", means), ("unlike ", [one for one in means if one.loss > LEAST_LOSS])):
        for method in dict.fromkeys(one.method for one in chosen):
            own = [one for one in chosen if one.method == method]
            texts = [f"{np.mean([one.figures[i] for one in own]):.3f}" for i in range(len(PROJECTED_FIGURES))]
            rows.append([f"mean of {len(own)} {kind}domains", "", method, "", *texts, ""])
    columns = [
        "set",
        "left out",
        "method",
        "seeds",
        "total, 10 starts of k-means",
        "bio",
        "batch",
        "wrong neighbours",
        "share of the loss back",
    ]
    note = "Scored are all cells, those trained on and those projected; encoder statistics are those of the training."
    return Section("quality, projected: domains left out of training", columns, rows, note)


class _Mean(NamedTuple):
    """Means over seeds of `PROJECTED_FIGURES`, the loss of our model's total by projection as the cells lie, and what is brought back."""

    method: str
    figures: tuple[float, ...]
    loss: float
    back: float

    @classmethod
    def of(cls, method: str, figures: Sequence[Figures], found: Mapping[str, Sequence[Figures]]) -> Self:
        """Return the means of a method among those of all methods for the same left-out domains."""
        by_key = tuple(_mean(figures, key) for key in PROJECTED_FIGURES)
        ours = next(name.split(":")[0] for name in found)
        model = method.split(":")[0] if ":" in method else ours
        before, after = (_mean(found.get(f"{model}: {way}", []), PROJECTED_FIGURES[0]) for way in ("projected", "trained on all"))
        return cls(method, by_key, after - before, by_key[0] - before)

    def format_share(self) -> str:
        """Return the share of the loss that a way of one of our models brings back, or "" if there is none to bring back."""
        shown = self.loss > LEAST_LOSS and self.method.endswith(WAYS[1:])
        return f"{self.back / self.loss:.2f}" if shown else ""


def check_labels(store: Store, read: Read, sets: Sequence[str], scvi_interpreter: str | None, seeds: tuple[int, ...]) -> Section:
    """Measure methods that learn from types, with the types of one domain hidden.

    Parameters
    ----------
    store, read
        As for `check_null`.
    sets
        The used sets of `LABELS_SETS`.
    scvi_interpreter
        Interpreter for scANVI. If None, scANVI is skipped.
    seeds
        Seeds of our models.
    """
    rows = []
    for name in sets:
        cells = read(name)
        methods: list[Method] = [Model(WITHOUT_LABELS, seeds)]
        for domain in sorted(cells.adata.obs["batch"].unique()):
            methods += [LabelsHidden(scvi_interpreter, domain, (0,))] if scvi_interpreter else []
            methods.append(LabelsHidden(Model(WITH_LABELS, seeds), domain, seeds))
        for method in methods:
            figures = store.all_figures(cells, method)
            if figures:
                title = f"{method.name}, no labels" if isinstance(method, Model) else method.name
                texts = [mean_and_spread(_values(figures, key)) for key in ("total", "bio", "batch", "wrong")]
                rows.append([name, title, str(len(figures)), *texts, mean_and_spread(_values(figures, "training"), 1)])
    columns = ["set", "method", "seeds", "total", "bio", "batch", "wrong neighbours", "training, s"]
    note = "Scored are all cells, those whose type was given and those whose type was hidden."
    return Section("quality, labels: known types of all domains but one", columns, rows, note)


def _compare(before: Sequence[Figures], after: Sequence[Figures], key: str) -> list[str]:
    """Return a figure before, after, and its change, as text."""
    change = float(np.mean(_values(after, key)) - np.mean(_values(before, key)))
    texts = [mean_and_spread(_values(figures, key)) for figures in (before, after)]
    return [*texts, "" if np.isnan(change) else f"{change:+.3f}"]


def _format_unshared(figures: Sequence[Figures], one: str, other: str) -> list[str]:
    return [mean_and_spread(_values(figures, key)) for key in ("unshared", f"wrong: {one}", f"wrong: {other}", "wrong", "total")]


def _mean_of_types(figures: Figures, types: Sequence[str]) -> float:
    return float(np.mean([figures[f"wrong: {one}"] for one in types]))


def _mean(figures: Sequence[Figures], key: str) -> float:
    """Return the mean of a figure, NaN without figures."""
    return float(np.mean(_values(figures, key))) if figures else float("nan")


def _values(figures: Sequence[Figures], key: str) -> list[float]:
    return [one[key] for one in figures]
