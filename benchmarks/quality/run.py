"""Quality of the integration of cells, compared with other methods: ``python -m benchmarks.quality.run``; see benchmarks/README.md."""

from __future__ import annotations

import os
from pathlib import Path

# These are set before the imports, since libraries read them when they are loaded, and only by the command, so that an import sets nothing.
if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["MKL_NUM_THREADS"] = "1"
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    os.environ["NUMBA_NUM_THREADS"] = "1"
    os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    # Later runs use what jax has compiled for the scores.
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).resolve().parents[1] / ".cache" / "jax"))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")

import argparse
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from tempfile import TemporaryDirectory

import numpy as np
import torch
from lightning.fabric.utilities.warnings import PossibleUserWarning

from benchmarks.provenance import ROOT, provenance
from benchmarks.quality import adapters, checks
from benchmarks.quality.atlas import simulate_atlas
from benchmarks.quality.figures import draw_totals, draw_umaps
from benchmarks.quality.peers import Peer, list_peers
from benchmarks.quality.runs import Model
from benchmarks.quality.scoring import BATCH_METRICS, BIO_METRICS, stand_in
from benchmarks.quality.sets import ONE_DOMAIN, SETS, LabelledCells, make_cells
from benchmarks.quality.store import MAX_SCORED, Figures, Method, Store
from benchmarks.real_cells import SHARED, data_folder
from benchmarks.tables import markdown_table, mean_and_spread, show
from benchmarks.tiny import parse_arguments

# Title in tables and number of digits after the point, by the name of a figure.
COMPACT = {
    "total": ("total", 3),
    "steady total": ("total, 10 starts of k-means", 3),
    "bio": ("bio", 3),
    "batch": ("batch", 3),
    "wrong": ("wrong neighbours", 3),
    "wrong, types": ("mean over types", 3),
    "wrong, rare types": ("rare types", 3),
    "training": ("training, s", 1),
    "whole": ("whole run, s", 1),
}
METRICS = (*BIO_METRICS.values(), *BATCH_METRICS.values(), "wrong", "wrong, types", "wrong, rare", "wrong, rare types")
PARTS = ("main", "few", "many", "null", "unshared", "projected", "adapters", "labels")
# Peers that are quick enough for many cuts.
QUICK_PEERS = ("pca", "harmony")

# Sets that `--tiny` replaces by demo cells, one of each kind.
TINY_SETS = ["pancreas_celseq_indrop", "pbmc_protein_asap_cite", "mop_atac"]
TINY_ONE_DOMAIN = ["pancreas_indrop4"]

# Figures of each seed, by set and method.
Results = dict[str, dict[str, list[Figures]]]


def compute_results(store: Store, sets: Sequence[LabelledCells], methods: Sequence[Method]) -> Results:
    """Return the figures of each method on each set, without methods that have none.

    Parameters
    ----------
    store
        Store of the embeddings.
    sets
        Cells of the sets.
    methods
        Methods to compare.
    """
    found: Results = {}
    for cells in sets:
        figures = {method.name: store.all_figures(cells, method) for method in methods}
        found[cells.name] = {name: one for name, one in figures.items() if one}
    return found


def make_compact_rows(found: Results) -> list[list[str]]:
    """Return a row for each set and method, and then the means over the tuned sets, over the untouched sets and over all."""
    rows = []
    for name, by_method in found.items():
        title = name if SETS[name].tuned else f"{name} (untouched)"
        for method, figures in by_method.items():
            texts = (mean_and_spread([one[key] for one in figures], digits) for key, (_, digits) in COMPACT.items())
            rows.append([title, method, str(len(figures)), *texts])
    for kind, tuned in (("tuned ", (True,)), ("untouched ", (False,)), ("", (True, False))):
        sets = {name: by_method for name, by_method in found.items() if SETS[name].tuned in tuned}
        for method in dict.fromkeys(method for by_method in sets.values() for method in by_method):
            means = [{key: np.mean([one[key] for one in by[method]]) for key in COMPACT} for by in sets.values() if method in by]
            of_all = "" if len(means) == len(sets) else f" of {len(sets)}"
            rows.append([f"mean of {len(means)}{of_all} {kind}sets", method, "", *_format_means(means)])
    return rows


def make_metric_rows(found: Results) -> list[list[str]]:
    """Return a row for each set and method, with all metrics."""
    rows = []
    for name, by_method in found.items():
        for method, figures in by_method.items():
            rows.append([name, method, *(mean_and_spread([one[metric] for one in figures]) for metric in METRICS)])
    return rows


def _format_means(means: Sequence[dict[str, np.floating]]) -> list[str]:
    """Return means over sets as text, or "" if a set lacks the figure. Rare types are the exception, since some sets have none."""
    texts = []
    for key, (_, digits) in COMPACT.items():
        values = np.array([one[key] for one in means])
        mean = values[~np.isnan(values)].mean() if key == "wrong, rare types" and not np.isnan(values).all() else values.mean()
        texts.append("" if np.isnan(mean) else f"{mean:.{digits}f}")
    return texts


def _simulate(*, tiny: bool) -> LabelledCells:
    if tiny:
        return simulate_atlas(300, 6, 10, 400, settings=("model.max_steps=4", "model.n_hidden=16", "model.correct_at=[0.5]"))
    return simulate_atlas()


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    models = "options of conf/model, each perhaps with settings: 'scalex model.n_latent=20'"
    parser.add_argument("--models", nargs="*", default=["scalex"], metavar="MODEL", help=models)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="SEED", help="of our models")
    parser.add_argument("--check-seeds", type=int, nargs="+", default=[0], metavar="SEED", help="in the checks beside the main table")
    parser.add_argument("--draws", type=int, default=1, metavar="N", help="of few cells")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS), metavar="SET", help="some of the sets")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=f"some of {', '.join(PARTS)}")
    parser.add_argument("--scvi", metavar="PYTHON", help="interpreter that has scvi-tools 1.4")
    parser.add_argument("--symphony", metavar="PYTHON", help="interpreter that has symphonypy 0.2")
    parser.add_argument("--published", metavar="PYTHON", help="interpreter that has the published package, scalex==1.0.4")
    parser.add_argument("--no-peers", action="store_true", help="our models alone")
    parser.add_argument("--umaps", nargs="*", metavar="METHOD", help="methods to draw; default: first model and peers")
    parser.add_argument("--keep-old-code", action="store_true", help="take runs of our models from before the code changed")
    parser.add_argument("--kept-only", action="store_true", help="run nothing; tables of what is there")
    parser.add_argument("--fresh", action="store_true", help="run again what has been run")
    parser.add_argument("--output", type=Path, metavar="FILE", help="markdown file to append the tables to; pictures lie beside it")
    # numba compiles for half a minute before the first UMAP.
    return parse_arguments(parser, argv, seeds=[0], sets=TINY_SETS, umaps=[])


def _make_store(arguments: argparse.Namespace, scratch: Path) -> Store:
    """Return the store of embeddings, or with `--tiny` an empty one."""
    if arguments.tiny:
        return Store(scratch, scratch, score=stand_in)
    return Store(
        ROOT / "benchmarks" / ".cache" / "quality",
        Path(os.environ.get("SCALEX_BENCH", SHARED / "bench")),
        keep_old_code=arguments.keep_old_code,
        kept_only=arguments.kept_only,
        fresh=arguments.fresh,
    )


def _about(arguments: argparse.Namespace) -> str:
    about = provenance(tiny=arguments.tiny)
    return f"{about}; runs of our models may be of earlier code (--keep-old-code)" if arguments.keep_old_code else about


def main(argv: Sequence[str] | None = None) -> None:
    """Run and score what is not stored yet, and show tables and plots."""
    arguments = _arguments(argv)
    torch.set_num_threads(1)
    # Lightning advises worker processes, but one thread is measured.
    warnings.filterwarnings("ignore", category=PossibleUserWarning)
    # scib-metrics approximates 90 neighbours, and finds fewer among few cells.
    warnings.filterwarnings("ignore", message="Failed to correctly find n_neighbors")
    # These warnings concern scanpy and others.
    warnings.filterwarnings("ignore", category=FutureWarning)
    with TemporaryDirectory() as folder:
        _measure(arguments, _about(arguments), _make_store(arguments, Path(folder)))


def _measure(arguments: argparse.Namespace, circumstances: str, store: Store) -> None:
    data = None if arguments.tiny else data_folder()

    @cache
    def read(name: str) -> LabelledCells:
        cell_set = (SETS | ONE_DOMAIN)[name]
        return make_cells(name, cell_set) if data is None else cell_set.read(name, data)

    others: list[Peer] = [] if arguments.no_peers else list_peers(arguments.scvi, arguments.published)
    if arguments.tiny and find_spec("harmonypy") is None:
        others = [peer for peer in others if peer.short != "harmony"]
    models = [Model(name, tuple(arguments.seeds)) for name in arguments.models]
    if "main" in arguments.only:
        cells = [read(name) for name in arguments.sets]
        every: list[Method] = [*others, *models]
        found = compute_results(store, cells, every)
        about = f"{circumstances}; of more than {MAX_SCORED:,} cells, a sample of that number is scored"
        table = markdown_table(["set", "method", "seeds", *(name for name, _ in COMPACT.values())], make_compact_rows(found))
        show("quality", f"{about}\n\n{table}", arguments.output)
        table = markdown_table(["set", "method", *METRICS], make_metric_rows(found))
        show("quality, each metric", f"{about}\n\n{table}", arguments.output)
        if arguments.output is not None:
            draw_totals(found, arguments.output.with_name(f"{arguments.output.stem}_totals.png"))
            names = arguments.umaps if arguments.umaps is not None else [*(peer.name for peer in others), *arguments.models[:1]]
            methods = [method for method in every if method.name in names]
            draw_umaps(store, cells, methods, arguments.output.with_name(f"{arguments.output.stem}_umaps.png"))
    models = [Model(name, tuple(arguments.check_seeds)) for name in arguments.models]
    quick: list[Method] = [*(peer for peer in others if peer.short in QUICK_PEERS), *models]
    few: dict[str, Sequence[int]] = {"sizes": [80]} if arguments.tiny else {}
    sections: dict[str, Callable[[], checks.Section]] = {
        "few": lambda: checks.check_few(
            store,
            read,
            [name for name in checks.FEW_SETS if name in arguments.sets],
            [*(peer for peer in others if peer.short != "published"), *models],
            arguments.draws,
            **few,
        ),
        "many": lambda: checks.check_many(store, _simulate(tiny=arguments.tiny), quick),
        "null": lambda: checks.check_null(store, read, TINY_ONE_DOMAIN if arguments.tiny else list(ONE_DOMAIN), quick),
        "unshared": lambda: checks.check_unshared(
            store,
            read,
            [*(peer for peer in others if peer.short != "published"), *models],
            checks.UNSHARED_TYPES[: 2 if arguments.tiny else 3],
        ),
        "labels": lambda: checks.check_labels(
            store, read, [name for name in checks.LABELS_SETS if name in arguments.sets], arguments.scvi, tuple(arguments.check_seeds)
        ),
        "projected": lambda: checks.check_projected(
            store,
            read,
            [name for name in checks.PROJECTED_SETS if name in arguments.sets],
            models,
            (arguments.scvi, arguments.symphony),
        ),
    }
    cases = [case for case in adapters.CASES if case[0] in arguments.sets]
    of_adapters: list[Callable[[], checks.Section]] = [
        lambda: adapters.check_parts(store, read, models[0], cases, arguments.draws),
        lambda: adapters.check_types(read, models[0], cases),
        lambda: adapters.check_condition(read, models[0]),
    ]
    for name in PARTS[1:]:
        for make in (of_adapters if name == "adapters" else [sections[name]]) if name in arguments.only else []:
            section = make()
            table = markdown_table(section.columns, section.rows)
            show(section.title, f"{circumstances}. {section.note}\n\n{table}", arguments.output)


if __name__ == "__main__":
    main()
