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
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import anndata as ad
import numpy as np
import pandas as pd
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from lightning import Trainer
from lightning.fabric.utilities.warnings import PossibleUserWarning
from numpy.typing import NDArray
from omegaconf import OmegaConf
from scipy import sparse
from sklearn.decomposition import PCA
from sklearn.metrics import f1_score, roc_auc_score
from sklearn.neighbors import KNeighborsClassifier

from benchmarks.provenance import ROOT, provenance, source_hash
from benchmarks.real_cells import data_folder
from benchmarks.tables import markdown_table, show
from benchmarks.tiny import parse_arguments
from scalex.callbacks import LatentExport
from scalex.cells import AnnDataSource
from scalex.data import CellBatch
from scalex.demo import demo_cells
from scalex.model.module import ScalexModule
from scalex.nn import SparseRows
from scalex.preprocess import RnaRecipe
from scalex.reference.input_pca import InputPca
from scalex.reference.label_transfer import LabelTransfer
from scalex.runs.log import log_to
from scalex.training.fit import fit
from scalex.training.length import trainer_limits

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

Data = tuple[ad.AnnData, ad.AnnData, int, int | list[str]]


class Training(NamedTuple):
    """How models are trained, and where their results are stored.

    Attributes
    ----------
    data
        Folder of the data sets.
    folder
        Folder of stored results.
    overrides
        Overrides as for `train.py`: an option of conf/model, and settings of it.
    fresh
        Whether to replace stored results.
    """

    data: Path
    folder: Path
    overrides: tuple[str, ...]
    fresh: bool


class EmbeddedPair(NamedTuple):
    """Reference and query cells in the spaces of a model: each field holds the arrays of the reference and of the query."""

    latent: tuple[NDArray[np.float32], NDArray[np.float32]]
    components: tuple[NDArray[np.float32], NDArray[np.float32]]
    pca: tuple[NDArray[np.float32], NDArray[np.float32]]
    label: tuple[NDArray[np.str_], NDArray[np.str_]]
    domain: tuple[NDArray[np.str_], NDArray[np.str_]]

    @property
    def domains(self) -> pd.Categorical:
        """Domains of the reference cells."""
        return pd.Categorical(self.domain[0])


class Answer(NamedTuple):
    """For each query cell, the best type, its probability, a score of being unknown and whether it is called unknown; (n_cells,) each."""

    best: NDArray[np.str_]
    probability: NDArray[np.float64]
    unknown: NDArray[np.float64]
    called: NDArray[np.bool_] | None


def read_pancreas(data: Path, reference: str) -> Data:
    """Return one of two technologies as the reference and the other as the query."""
    adata = ad.read_h5ad(data / "pancreas_celseq_indrop.h5ad")
    own = (adata.obs["batch"] == reference).to_numpy()
    return adata[own].copy(), adata[~own].copy(), 100, 2000


def read_kang(data: Path) -> Data:
    """Return control and stimulated cells, and other cells of the same study."""
    return ad.read_h5ad(data / "kang_ctrl_stim.h5ad"), ad.read_h5ad(data / "kang_ctrl_stim_scgen.h5ad"), 100, 2000


def read_donors(data: Path) -> Data:
    """Return four donors, and four others of the same study. The method was not tuned on them."""
    adata = ad.read_h5ad(data / "kang_ctrl_donors.h5ad")
    own = adata.obs["batch"].isin(sorted(adata.obs["batch"].unique())[:4]).to_numpy()
    return adata[own].copy(), adata[~own].copy(), 100, 2000


def read_cell_lines(data: Path, *, shared: bool) -> Data:
    """Return CEL-seq2 cells and 10x cells, which have 2,000 features; the reference uses the shared features or its 2,000 most variable."""
    five = ad.read_h5ad(data / "celllines_mixology.h5ad")
    five = five[five.obs["batch"].isin([f"sc_celseq2_5cl_p{run}" for run in (1, 2, 3)])].copy()
    query = ad.read_h5ad(data / "celllines_10x5cl.h5ad")
    reference = ad.concat([ad.read_h5ad(data / "celllines_celseq2.h5ad"), five], join="inner", index_unique="-")
    return reference, query, 600, reference.var_names.intersection(query.var_names, sort=False).tolist() if shared else 2000


def make_demo(data: Path) -> Data:
    """Return two domains of demo cells, and a third one."""
    adata = demo_cells(300, 500, 3)
    # The types are few, since each is left out in turn.
    adata = adata[adata.obs["cell_type"].isin(["alpha", "beta", "gamma"])].copy()
    own = (adata.obs["batch"] != "domain2").to_numpy()
    return adata[own].copy(), adata[~own].copy(), 50, 200


MADE = "made cells"
SETS: dict[str, Callable[[Path], Data]] = {
    "pancreas: inDrop4 -> CEL-Seq": lambda data: read_pancreas(data, "inDrop4"),
    "pancreas: CEL-Seq -> inDrop4": lambda data: read_pancreas(data, "celseq"),
    "kang: ctrl, stim -> scGen's sample": read_kang,
    "kang: four donors -> four others (untouched)": read_donors,
    "cell lines: CEL-seq2 -> 10x": lambda data: read_cell_lines(data, shared=True),
    "cell lines: CEL-seq2 -> 10x, reference's own features": lambda data: read_cell_lines(data, shared=False),
    MADE: make_demo,
}
REAL = [name for name in SETS if name != MADE]


def embed_pair(name: str, training: Training, seed: int, left_out: str | None) -> EmbeddedPair:
    """Train on the reference, perhaps without one type, and embed the query with frozen preprocessing and network. Results are stored."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        # The plan is that of cells in files, since a training on demo cells is shorter.
        plan = OmegaConf.to_container(compose("train", [*training.overrides, f"seed={seed}", "dataset=h5ad"]).model, resolve=True)
    assert isinstance(plan, dict)
    path = training.folder / f"{_hash_settings([name, plan, left_out, source_hash()])}.npz"
    if training.fresh or not path.exists():
        _print_progress(f"training on {name}, seed {seed}" + (f", without {left_out}" if left_out else ""))
        reference, query, min_features, features = SETS[name](training.data)
        reference = reference[(reference.obs["cell_type"] != left_out).to_numpy()].copy()
        module = instantiate(plan, _convert_="all")
        quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False}
        trainer = Trainer(
            accelerator="cpu",
            devices=1,
            callbacks=[LatentExport(None)],
            **trainer_limits(plan["max_steps"], plan["max_epochs"]),
            **quiet,
        )
        with log_to(None):
            recipe = RnaRecipe(min_features=min_features, n_top_features=features)
            known = fit(AnnDataSource(path=reference, batch_key="batch"), recipe, module, trainer, seed=seed)
        transform = module.trained_on.preprocessor.for_features(query.var_names)
        counts = sparse.csr_matrix(query.X, dtype=np.float32)
        inputs = transform(counts, np.full(query.n_obs, -1))
        components = InputPca.fit(known.X)
        pca = _compute_components(known.raw.to_adata(), transform.normalized(counts), known.var_names)
        _save(
            path,
            latent=(known.obsm["latent"], _embed(module, inputs, transform.fill_value)),
            components=(components.transform(known.X), components.transform(inputs, transform.fill_value)),
            pca=pca,
            label=(known.obs["cell_type"].to_numpy(str), query.obs["cell_type"].to_numpy(str)),
            domain=(known.obs["domain"].to_numpy(str), query.obs["batch"].to_numpy(str)),
        )
    return _load(path)


def _embed(module: ScalexModule, inputs: sparse.csr_matrix, fill_value: NDArray[np.float32] | None) -> NDArray[np.float32]:
    row_C = torch.arange(inputs.shape[0])
    (found,) = module.eval().embed([CellBatch(SparseRows.of(inputs), torch.zeros_like(row_C), row_C)], "running", fill_value=fill_value)
    latent: NDArray[np.float32] = found.latent_CZ.numpy()
    return latent


def embed_by_scvi(name: str, training: Training, seed: int, interpreter: str | None) -> EmbeddedPair | None:
    """Return the same with scVI on the same features and cells, or None if there is neither a stored result nor an interpreter."""
    path = training.folder / f"{_hash_settings(['scvi', name, seed])}.npz"
    if interpreter is None and not path.exists():
        return None
    if interpreter is not None and (training.fresh or not path.exists()):
        _print_progress(f"scVI on {name}, seed {seed}")
        reference, query, min_features, features = SETS[name](training.data)
        fitted = RnaRecipe(min_features=min_features, n_top_features=features).fit(AnnDataSource(path=reference, batch_key="batch").open())
        shared = fitted.preprocessor.features.intersection(query.var_names, sort=False)
        query.obs["batch"] = [f"query {domain}" for domain in query.obs["batch"]]
        sides = reference[fitted.rows, shared].copy(), query[:, shared].copy()
        with TemporaryDirectory() as folder:
            files = [Path(folder) / file for file in ("reference.h5ad", "query.h5ad", "latents.npz")]
            for side, file in zip(sides, files, strict=False):
                side.write_h5ad(file)
            # With -I, the interpreter finds its own scvi instead of the script of that name.
            script = Path(__file__).parent / "peers" / "scvi_query.py"
            subprocess.run([interpreter, "-I", str(script), *map(str, files), str(seed)], check=True)
            with np.load(files[-1]) as stored:
                latent = stored["reference"], stored["query"]
        label = tuple(side.obs["cell_type"].to_numpy(str) for side in sides)
        domain = tuple(side.obs["batch"].to_numpy(str) for side in sides)
        _save(path, latent=latent, components=latent, pca=latent, label=label, domain=domain)
    return _load(path)


def transfer_labels(cells: EmbeddedPair) -> Answer:
    """Return the answer of `LabelTransfer` with latents and components."""
    transfer = LabelTransfer.fit(cells.latent[0], pd.Categorical(cells.label[0]), cells.components[0], domain=cells.domains)
    return _make_answer(transfer.predict(cells.latent[1], cells.components[1]))


def transfer_labels_by_latents(cells: EmbeddedPair) -> Answer:
    """Return the answer of `LabelTransfer` with latents alone."""
    return _make_answer(LabelTransfer.fit(cells.latent[0], pd.Categorical(cells.label[0]), domain=cells.domains).predict(cells.latent[1]))


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
    "scalex, latents alone": transfer_labels_by_latents,
    "published package's kNN on our latents": make_classifier("latent"),
    f"{N_PCS} PCs + kNN": make_classifier("pca"),
}
SCVI = "scVI, load_query_data + kNN"


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
        theirs = embed_by_scvi(name, training, arguments.seeds[0], arguments.scvi)
        row = ["not measured"] * 3 + [""] if theirs is None else _make_row([score_answer(theirs, make_classifier("latent")(theirs))])
        rows.append([name, SCVI, *row, "not measured", ""])
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


def _compute_components(
    reference: ad.AnnData, query: sparse.csr_matrix, features: pd.Index
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return components of normalized expression of the input features, from a PCA of the reference."""
    position = reference.var_names.get_indexer(features)
    pca = PCA(N_PCS, svd_solver="arpack", random_state=0).fit(reference.X[:, position])
    return pca.transform(reference.X[:, position]), pca.transform(query[:, position])


def _save(path: Path, **pairs: tuple[NDArray, NDArray]) -> None:
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
            overrides = (f"model={arguments.model}", "model.max_steps=20", "model.n_hidden=32")
            training = Training(Path(folder), Path(folder), overrides, fresh=False)
        else:
            folder_of_results = ROOT / "benchmarks" / ".cache" / "label_transfer"
            training = Training(data_folder(), folder_of_results, (f"model={arguments.model}",), arguments.fresh)
        rows, types = _measure(arguments, training)
    show("label transfer", f"{about}\n\n{markdown_table(COLUMNS, rows)}", arguments.output)
    if types:
        columns = ("reference -> query", "method", "AUROC of unknown by type left out (query cells)")
        show("types left out of the reference", f"{about}\n\n{markdown_table(columns, types)}", arguments.output)


if __name__ == "__main__":
    main()
