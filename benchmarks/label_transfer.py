"""Label transfer to other data sets, compared with other methods: ``python -m benchmarks.label_transfer``; see README.md in this folder."""

from __future__ import annotations

import os

# These are set before the imports, since libraries read them when they are loaded, and only by the command, so that an import sets nothing.
if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["MKL_NUM_THREADS"] = "1"
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    os.environ["NUMBA_NUM_THREADS"] = "1"

import argparse
import hashlib
import json
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import anndata as ad
import numpy as np
import pandas as pd
import torch
from lightning.fabric.utilities.warnings import PossibleUserWarning
from numpy.typing import NDArray
from scipy import sparse
from sklearn.decomposition import PCA
from sklearn.metrics import f1_score, roc_auc_score
from sklearn.neighbors import KNeighborsClassifier

from benchmarks.provenance import ROOT, provenance, source_hash
from benchmarks.quality.peers import run_query_script
from benchmarks.quality.projections import PEERS, PeerWay
from benchmarks.quality.runs import Model
from benchmarks.quality.sets import Kind, LabelledCells
from benchmarks.real_cells import data_folder
from benchmarks.tables import markdown_table, show
from benchmarks.tiny import parse_arguments
from scalex.demo import demo_cells
from scalex.projection.reference import Reference
from scalex.reference.input_pca import INPUT_PCA
from scalex.reference.label_transfer import LabelTransfer

N_BINS = 15
# A type with fewer query cells is not left out, since its AUROC would be imprecise.
MIN_LEFT_OUT = 10
N_PCS = 50
COLUMNS = (
    "reference -> query",
    "method",
    "accuracy",
    "macro-F1",
    "ECE",
    "called unknown",
    "AUROC of unknown",
    "left-out cells called unknown",
)


class Pair(NamedTuple):
    """Reference and query of one kind of features, with counts in X, and obs "batch" and "cell_type"; and settings for train.py."""

    reference: ad.AnnData
    query: ad.AnnData
    min_features: int = 100
    settings: tuple[str, ...] = ()
    kind: Kind = "rna"


class Training(NamedTuple):
    """How models are trained, and where their results are stored.

    Attributes
    ----------
    data
        Folder of the data sets.
    folder
        Folder of stored results.
    overrides
        An option of conf/model, and overrides for `train.py`.
    fresh
        Whether to replace stored results.
    """

    data: Path
    folder: Path
    overrides: tuple[str, ...]
    fresh: bool


class EmbeddedPair(NamedTuple):
    """Reference and query cells in the spaces of a model: each field holds the arrays of the reference and of the query.

    Those of the query in `adapted` and `adapted_components` are placed by an adapter; those of the reference are the same as without.
    """

    latent: tuple[NDArray[np.float32], NDArray[np.float32]]
    components: tuple[NDArray[np.float32], NDArray[np.float32]]
    adapted: tuple[NDArray[np.float32], NDArray[np.float32]]
    adapted_components: tuple[NDArray[np.float32], NDArray[np.float32]]
    pca: tuple[NDArray[np.float32], NDArray[np.float32]]
    label: tuple[NDArray[np.str_], NDArray[np.str_]]
    domain: tuple[NDArray[np.str_], NDArray[np.str_]]

    def fit(self, *, components: bool) -> LabelTransfer:
        """Return the label transfer of the reference, with latents and perhaps components."""
        used = self.components[0] if components else None
        return LabelTransfer.fit(self.latent[0], pd.Categorical(self.label[0]), used, domain=pd.Categorical(self.domain[0]))

    @property
    def query_domain(self) -> NDArray[np.int8]:
        """Codes of the domains of the query cells."""
        return pd.Categorical(self.domain[1]).codes


class Answer(NamedTuple):
    """For each query cell, the best type, its probability, a score of being unknown and whether it is called unknown; (n_cells,) each."""

    best: NDArray[np.str_]
    probability: NDArray[np.float64]
    unknown: NDArray[np.float64]
    called: NDArray[np.bool_] | None


def read_halves(data: Path, name: str, known: Sequence[str], **settings: Any) -> Pair:
    """Return some domains of a set as the reference, and the others as the query."""
    adata = ad.read_h5ad(data / f"{name}.h5ad")
    own = adata.obs["batch"].isin(known).to_numpy()
    return Pair(adata[own].copy(), adata[~own].copy(), **settings)


def read_kang(data: Path) -> Pair:
    """Return control and stimulated cells, and other cells of the same study."""
    return Pair(ad.read_h5ad(data / "kang_ctrl_stim.h5ad"), ad.read_h5ad(data / "kang_ctrl_stim_scgen.h5ad"))


def read_donors(data: Path) -> Pair:
    """Return four donors, and four others of the same study. The method was not tuned on them."""
    names = sorted(ad.read_h5ad(data / "kang_ctrl_donors.h5ad", backed="r").obs["batch"].unique())
    return read_halves(data, "kang_ctrl_donors", names[:4])


def read_proteins(data: Path) -> Pair:
    """Return CITE-seq and ASAP-seq cells, each of two samples. The method was not tuned on them."""
    names = ad.read_h5ad(data / "pbmc_protein_asap_cite.h5ad", backed="r").obs["batch"].unique()
    return read_halves(data, "pbmc_protein_asap_cite", [name for name in names if "asap" not in name], kind="adt")


def read_cell_lines(data: Path) -> Pair:
    """Return CEL-seq2 cells and 10x cells, with the features that both have."""
    five = ad.read_h5ad(data / "celllines_mixology.h5ad")
    five = five[five.obs["batch"].isin([f"sc_celseq2_5cl_p{run}" for run in (1, 2, 3)])].copy()
    query = ad.read_h5ad(data / "celllines_10x5cl.h5ad")
    reference = ad.concat([ad.read_h5ad(data / "celllines_celseq2.h5ad"), five], join="inner", index_unique="-")
    common = reference.var_names.intersection(query.var_names, sort=False)
    return Pair(reference[:, common].copy(), query[:, common].copy())


def make_demo(data: Path) -> Pair:
    """Return two domains of demo cells, and a third one."""
    adata = demo_cells(900, 500, 3)
    # The types are few, since each is left out in turn.
    adata = adata[adata.obs["cell_type"].isin(["alpha", "beta", "gamma"])].copy()
    own = (adata.obs["batch"] != "domain2").to_numpy()
    return Pair(adata[own].copy(), adata[~own].copy(), 50, ("preprocess.n_top_features=200",))


MADE = "made cells"
SETS: dict[str, Callable[[Path], Pair]] = {
    "pancreas: inDrop4 -> CEL-Seq": lambda data: read_halves(data, "pancreas_celseq_indrop", ["inDrop4"]),
    "pancreas: CEL-Seq -> inDrop4": lambda data: read_halves(data, "pancreas_celseq_indrop", ["celseq"]),
    "kang: control -> stimulated": lambda data: read_halves(data, "kang_ctrl_stim", ["ctrl"]),
    "kang: stimulated -> control": lambda data: read_halves(data, "kang_ctrl_stim", ["stim"]),
    "kang: both -> scGen's sample": read_kang,
    "kang: four donors -> four others (untouched)": read_donors,
    "cell lines: CEL-seq2 -> 10x": read_cell_lines,
    "proteins: CITE-seq -> ASAP-seq (untouched)": read_proteins,
    MADE: make_demo,
}
REAL = [name for name in SETS if name != MADE]


def embed_pair(name: str, training: Training, seed: int, left_out: str | None) -> EmbeddedPair:
    """Train on the reference, perhaps without one type, and project the query, as it lies and with an adapter. Results are stored."""
    path = training.folder / f"{_hash_settings([name, training.overrides, seed, left_out, source_hash()])}.npz"
    if training.fresh or not path.exists():
        _print_progress(f"training on {name}, seed {seed}" + (f", without {left_out}" if left_out else ""))
        pair = SETS[name](training.data)
        known = pair.reference[(pair.reference.obs["cell_type"] != left_out).to_numpy()].copy()
        cells = LabelledCells(name, known, pair.min_features, pair.kind, (*pair.settings, *training.overrides[1:]))
        with TemporaryDirectory() as folder:
            Model(training.overrides[0], (seed,)).train(cells, known, seed, Path(folder))
            reference = Reference.load(Path(folder) / "run")
            adapter = reference.fit_adapter(pair.query, batch_key="batch", statistics="running")
            plain, adapted = (
                reference.project(pair.query, batch_key="batch", repeat=True, label=None, adapter=one, statistics="running")
                for one in (None, adapter)
            )
            own = ad.read_h5ad(reference.folder / "adata.h5ad")
            sides = {
                "latent": (reference.latent, plain.obsm["latent"]),
                "components": (own.obsm[INPUT_PCA], plain.obsm[INPUT_PCA]),
                "adapted": (reference.latent, adapted.obsm["latent"]),
                "adapted_components": (own.obsm[INPUT_PCA], adapted.obsm[INPUT_PCA]),
                "pca": _compute_components(own.raw.to_adata(), plain.raw.to_adata(), own.var_names),
                "label": (own.obs["cell_type"].to_numpy(str), plain.obs["cell_type"].to_numpy(str)),
                "domain": (own.obs["domain"].to_numpy(str), plain.obs["domain"].to_numpy(str)),
            }
            _save(path, **{key: tuple(map(np.asarray, both)) for key, both in sides.items()})
    return _load(path)


def embed_by_peer(peer: PeerWay, name: str, training: Training, seed: int, interpreter: str | None) -> EmbeddedPair | None:
    """Return the same with another package, or None if there is neither a stored result nor an interpreter."""
    path = training.folder / f"{_hash_settings([peer.short, name, seed])}.npz"
    if interpreter is None and not path.exists():
        return None
    if interpreter is not None and (training.fresh or not path.exists()):
        _print_progress(f"{peer.name} on {name}, seed {seed}")
        pair = SETS[name](training.data)
        found = run_query_script(pair.reference, pair.query, pair.kind, interpreter, peer.script, seed)
        latent = found["reference"], found["query"]
        label, domain = (tuple(side.obs[column].to_numpy(str) for side in pair[:2]) for column in ("cell_type", "batch"))
        same = dict.fromkeys(("latent", "components", "adapted", "adapted_components", "pca"), latent)
        _save(path, **same, label=label, domain=domain)
    return _load(path)


def transfer_labels(cells: EmbeddedPair) -> Answer:
    """Return the answer of `LabelTransfer` with latents and components."""
    return _make_answer(cells.fit(components=True).predict(cells.latent[1], cells.components[1], domain=cells.query_domain))


def transfer_labels_with_adapter(cells: EmbeddedPair) -> Answer:
    """Return the answer of `LabelTransfer` with latents and components that an adapter has moved."""
    transfer = cells.fit(components=True)
    found = transfer.compute_evidence(cells.adapted[1], cells.adapted_components[1], encoded=cells.latent[1])
    best, unknown = found["best"].cat.codes.to_numpy(), found["unknown"].to_numpy()
    found["label"] = transfer.assign_labels(best, unknown, cells.adapted[1], cells.query_domain)
    return _make_answer(found)


def transfer_labels_by_latents(cells: EmbeddedPair) -> Answer:
    """Return the answer of `LabelTransfer` with latents alone."""
    return _make_answer(cells.fit(components=False).predict(cells.latent[1], domain=cells.query_domain))


def make_classifier(space: str) -> Callable[[EmbeddedPair], Answer]:
    """Return the published package's classifier in `space`, with scikit-learn's defaults; neighbours that disagree mean unknown."""

    def classify(cells: EmbeddedPair) -> Answer:
        reference, query = getattr(cells, space)
        classifier = KNeighborsClassifier().fit(reference, cells.label[0])
        votes = classifier.predict_proba(query)
        return Answer(classifier.classes_[votes.argmax(1)], votes.max(1), 1 - votes.max(1), None)

    return classify


METHODS: dict[str, Callable[[EmbeddedPair], Answer]] = {
    "scalex": transfer_labels,
    "scalex, adapter": transfer_labels_with_adapter,
    "scalex, latents alone": transfer_labels_by_latents,
    "published package's kNN on our latents": make_classifier("latent"),
    f"{N_PCS} PCs + kNN": make_classifier("pca"),
}


def score_answer(cells: EmbeddedPair, answer: Answer) -> dict[str, float]:
    """Return accuracy, macro-F1, calibration error and share called unknown, of query cells whose type the reference has."""
    shared = np.intersect1d(*cells.label)
    judged = np.isin(cells.label[1], shared)
    true, best, probability = cells.label[1][judged], answer.best[judged], answer.probability[judged]
    return {
        "accuracy": float((true == best).mean()),
        "f1": float(f1_score(true, best, labels=shared, average="macro", zero_division=0)),
        "ece": expected_calibration_error(probability, true == best),
        "called": float("nan") if answer.called is None else float(answer.called[judged].mean()),
    }


def expected_calibration_error(probability: NDArray[np.float64], correct: NDArray[np.bool_]) -> float:
    """Return the mean distance of probability and accuracy over equal bins of probability, weighted by their cells (Guo et al. 2017)."""
    bins = np.minimum((probability * N_BINS).astype(int), N_BINS - 1)
    gaps = pd.DataFrame({"gap": probability - correct}).groupby(bins)["gap"].sum().abs()
    return float(gaps.sum() / len(probability))


def compute_auroc(cells: EmbeddedPair, answer: Answer, left_out: str) -> float:
    """Return how well cells of a type that the reference lacks are distinguished from those of types that it has."""
    is_missing = cells.label[1] == left_out
    judged = is_missing | np.isin(cells.label[1], cells.label[0])
    return float(roc_auc_score(is_missing[judged], answer.unknown[judged]))


def _measure(arguments: argparse.Namespace, training: Training) -> tuple[list[list[str]], list[list[str]]]:
    """Return the rows of the table of methods and of the table of types left out."""
    rows, types = [], []
    for name in arguments.sets:
        whole = [embed_pair(name, training, seed, None) for seed in arguments.seeds]
        left_out = [] if arguments.whole else list(_list_types(whole[0]))
        without = {one: embed_pair(name, training, arguments.seeds[0], one) for one in left_out}
        for method, classify in METHODS.items():
            answers = {one: classify(cells) for one, cells in without.items()}
            found = {one: compute_auroc(without[one], answer, one) for one, answer in answers.items()}
            called = [float(a.called[without[one].label[1] == one].mean()) for one, a in answers.items() if a.called is not None]
            row = _make_row([score_answer(cells, classify(cells)) for cells in whole])
            rows.append([name, method, *row, _format_number(_mean(found.values())), _format_number(_mean(called))])
            if found:
                counts = pd.Series(whole[0].label[1]).value_counts()
                types.append([name, method, ", ".join(f"{one} ({counts[one]}) {value:.2f}" for one, value in found.items())])
        for peer, interpreter in zip(PEERS, (arguments.scvi, arguments.symphony), strict=True):
            theirs = embed_by_peer(peer, name, training, arguments.seeds[0], interpreter)
            row = ["not measured"] * 3 + [""] if theirs is None else _make_row([score_answer(theirs, make_classifier("latent")(theirs))])
            rows.append([name, f"{peer.name} + kNN", *row, "not measured", ""])
    return rows, types


def _list_types(cells: EmbeddedPair) -> Iterator[str]:
    for one, count in pd.Series(cells.label[1]).value_counts().items():
        if count >= MIN_LEFT_OUT and one in cells.label[0]:
            yield str(one)


def _make_row(found: list[dict[str, float]]) -> list[str]:
    return [_format_number(_mean(one[column] for one in found)) for column in ("accuracy", "f1", "ece", "called")]


def _mean(values: Iterable[float]) -> float:
    values = list(values)
    return float(np.mean(values)) if values else float("nan")


def _format_number(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.3f}"


def _make_answer(found: pd.DataFrame) -> Answer:
    best, called = found["best"].to_numpy(str), (found["label"] == "unknown").to_numpy()
    return Answer(best, found["probability"].to_numpy(), found["unknown"].to_numpy(), called)


def _compute_components(reference: ad.AnnData, query: ad.AnnData, features: pd.Index) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return components of normalized expression of the input features, from a PCA of the reference. Features that a side lacks are 0."""
    sides = []
    for side in (reference, query):
        position = side.var_names.get_indexer(features)
        values = sparse.csc_matrix(side.X)[:, np.maximum(position, 0)]
        sides.append(sparse.csr_matrix(values.multiply(position >= 0)))
    pca = PCA(min(N_PCS, len(features) - 1), svd_solver="arpack", random_state=0).fit(sides[0])
    return pca.transform(sides[0]), pca.transform(sides[1])


def _save(path: Path, **pairs: tuple[NDArray[Any], ...]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished.npz")
    np.savez(unfinished, **{f"{name}_{side}": array for name, pair in pairs.items() for side, array in enumerate(pair)})
    unfinished.replace(path)


def _load(path: Path) -> EmbeddedPair:
    with np.load(path) as stored:
        return EmbeddedPair(*((stored[f"{name}_0"], stored[f"{name}_1"]) for name in EmbeddedPair._fields))


def _hash_settings(settings: list[object]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def _print_progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--model", default="scalex", help="an option of conf/model")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1], metavar="SEED", help="types are left out with the first")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=REAL, metavar="SET", help="some of the sets")
    parser.add_argument("--whole", action="store_true", help="leave no type out: no AUROC, in a fifth of the time")
    parser.add_argument("--scvi", metavar="PYTHON", help="interpreter that has scvi-tools 1.4")
    parser.add_argument("--symphony", metavar="PYTHON", help="interpreter that has symphonypy 0.2")
    parser.add_argument("--output", type=Path, metavar="FILE", help="markdown file to append the tables to")
    parser.add_argument("--fresh", action="store_true", help="train again what has been trained")
    return parse_arguments(parser, argv, seeds=[0], sets=[MADE])


def main(argv: Sequence[str] | None = None) -> None:
    """Train on each reference, transfer its labels to the query, and show two tables."""
    arguments = _arguments(argv)
    torch.set_num_threads(1)
    about = provenance(tiny=arguments.tiny)
    # Lightning advises worker processes, but one thread is measured.
    warnings.filterwarnings("ignore", category=PossibleUserWarning)
    with TemporaryDirectory() as folder:
        if arguments.tiny:
            overrides = (arguments.model, "model.max_steps=20", "model.n_hidden=32", "model.correct_at=[0.5]")
            training = Training(Path(folder), Path(folder), overrides, fresh=False)
        else:
            folder_of_results = ROOT / "benchmarks" / ".cache" / "label_transfer"
            training = Training(data_folder(), folder_of_results, (arguments.model,), arguments.fresh)
        rows, types = _measure(arguments, training)
    show("label transfer", f"{about}\n\n{markdown_table(COLUMNS, rows)}", arguments.output)
    if types:
        columns = ("reference -> query", "method", "AUROC of unknown by type left out (query cells)")
        show("types left out of the reference", f"{about}\n\n{markdown_table(columns, types)}", arguments.output)


if __name__ == "__main__":
    main()
