"""SCALEX in one call, for notebooks: the interface of the published package."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

import h5py
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from lightning import Callback, Trainer
from numpy.typing import NDArray
from pydantic import SkipValidation

from scalex.callbacks import Checkpoint, EarlyStopping, LatentExport, Progress, ReportPage, Scores, UmapPlot
from scalex.cells import AnnDataSource, MatchPeaks
from scalex.model.imputation import Impute
from scalex.model.module import Statistics
from scalex.model.presets import make_model
from scalex.preprocess.fitting import FeatureChoice
from scalex.preprocess.profiles import DEFAULT_MIN_FEATURES, check_profile, make_recipe
from scalex.projection.adaptation import check_adapter_options
from scalex.projection.reference import Reference
from scalex.projection.to_folder import project_to_anndata
from scalex.reference.adapter import Adapter
from scalex.reference.input_pca import INPUT_PCA
from scalex.reference.label_transfer import LabelTransfer
from scalex.runs.epoch_table import EpochTable
from scalex.runs.log import log_to, show_log
from scalex.runs.processes import use_new_folder
from scalex.system.devices import choose_accelerator
from scalex.system.processes import ignore_launcher
from scalex.system.settings import Count, Fraction, Number, Positive, Seed, Share, check_call
from scalex.training.fit import fit
from scalex.training.length import trainer_limits

__all__ = ["SCALEX", "label_transfer"]

# The published package's length of the training; other models have their own.
DEFAULTS: Mapping[str, Any] = {"batch_size": 64, "lr": 0.0002, "max_steps": 30000}
# What errors of the parts call the parameters of `SCALEX`.
OWN_NAMES = {
    "batch_key": "batch_name", "label_key": "cell_type", "layer": "use_layer", "output": "outdir", "path": "data_list",
    "source_key": "batch_key",
}  # fmt: skip
# Such a name as "dataset.batch_key", as "batch_key=", or in brackets.
PARAMETER = re.compile(rf"(?<![\w.])(?:dataset\.({'|'.join(OWN_NAMES)})\b|({'|'.join(OWN_NAMES)})(?==)|(?<=\()(source_key)(?=\)))")


@contextmanager
def _use_own_names() -> Iterator[None]:
    """Let errors name the parameters of `SCALEX` instead of those of the parts that it is made of."""
    try:
        yield
    except (ValueError, KeyError, OSError) as error:
        if len(error.args) == 1 and isinstance(error.args[0], str):
            error.args = (PARAMETER.sub(lambda found: OWN_NAMES[found[1] or found[2] or found[3]], error.args[0]),)
        raise


@check_call
@_use_own_names()
def SCALEX(  # noqa: N802 -- the signature and the name are given
    data_list: SkipValidation[str | Path | AnnData | Sequence[str | Path | AnnData] | Mapping[str, str | Path | AnnData] | None] = None,
    batch_categories: Sequence[str] | None = None,
    profile: str = "RNA",
    batch_name: str = "batch",
    min_features: Number = DEFAULT_MIN_FEATURES,
    min_cells: Number = 3,
    target_sum: Positive | None = None,
    n_top_features: FeatureChoice | None = None,
    join: Literal["inner", "outer"] = "inner",
    batch_key: str = "batch",
    processed: bool = False,
    fraction: Fraction | None = None,
    n_obs: Count | None = None,
    use_layer: str = "X",
    backed: bool = False,
    batch_size: Count = 64,
    lr: Positive = 0.0002,
    max_iteration: Count = 30000,
    seed: Seed = 124,
    gpu: Number = 0,
    outdir: str | Path | None = None,
    projection: str | Path | None = None,
    repeat: bool = False,
    impute: Impute = None,
    chunk_size: Count = 20000,
    ignore_umap: bool = False,
    verbose: bool = False,
    assess: bool = False,
    show: bool = True,
    eval: bool = False,  # noqa: A002
    num_workers: Number = 4,
    *,
    keep_mt: bool = False,
    binarize: bool = False,
    normalization: Literal["total", "tfidf"] = "total",
    cell_type: str = "cell_type",
    transpose: bool = False,
    feature_type: str | None = None,
    var_names_from: str | None = None,
    match_peaks: MatchPeaks = "exact",
    counts_layer: str | None = None,
    adapt: bool = False,
    fit_on: str | None = None,
    adapter: SkipValidation[Adapter | str | Path | None] = None,
    least_found: Share = 0.3,
    model: str = "paper",
) -> AnnData:
    """Integrate single-cell data: one embedding in which cells lie by biology and not by domain.

    The defaults are those of the published package: the paper's network and schedule. With ``model="scalex"`` it trains the model of
    ``scalex train``, which scores higher after a fraction of the time.

    Parameters
    ----------
    data_list
        An AnnData, a path, or a list or dict of them. Each file and each AnnData is a source, which a dict names. Paths are .h5ad files,
        zarr stores, text (.csv, .tsv, .txt, also with .gz), 10x folders of .mtx files, 10x .h5, ``file.h5mu/modality``, .loom, globs
        (``data/*.h5ad``) and names of files in ``~/.scalex/``.
    batch_categories
        Names of the sources. None: the files' names without ending; 0, 1, ... for AnnData objects.
    profile
        "RNA": counts of genes. "ATAC": counts of peaks. "ADT": counts of surface proteins, all of which are used.
    batch_name
        Column of obs that holds each cell's domain. Several columns, separated by commas, are joined. With the default, several sources
        are the domains, and a single source without that column is one domain.
    min_features
        Cells with fewer detected features are left out. The default is 600 with "RNA", 100 with "ATAC" and 1 with "ADT".
    min_cells
        Features detected in fewer cells are left out.
    target_sum
        Counts per cell after normalization. None: 10,000, as in the published package. scanpy's None is the median of the cells,
        ``np.median(np.asarray(adata.X.sum(1)))``.
    n_top_features
        Number of features to use, the most variable genes or the most accessible peaks; or a list of them; or a text file with one per
        line. None: 2,000 genes, 30,000 peaks.
    join
        Use the features of all sources ("inner") or of any source ("outer").
    batch_key
        Column of obs to which the source of each cell is written, if there are several.
    processed
        The values are processed already and are only scaled.
    fraction, n_obs
        Use a random share or a random number of the cells, with the same share of each domain.
    use_layer
        A layer or an entry of obsm to use as the input. Its values are only scaled. "raw", the matrix of `.raw`, is an exception: it is
        taken for counts, as by `counts_layer`.
    backed
        Leave cells in their .h5ad files and zarr stores, and read them in runs of rows, so that memory does not grow with the matrix. The
        result then has latents and annotation, but no expression.
    batch_size
        Largest number of cells in a minibatch.
    lr
        Learning rate.
    max_iteration
        Largest number of training steps, one minibatch each.
    seed
        Seed of all random numbers.
    gpu
        Index of the GPU, if there is one.
    outdir
        Run folder for ``adata.h5ad``, ``checkpoint/``, ``log.txt``, ``umap.pdf`` and more. It must not hold the results of another run.
        None: nothing is written.
    projection
        Folder of a finished run. Nothing is trained; the cells are projected into its space with its preprocessing, and the arguments that
        filter or choose features have no effect. With `outdir`, a report of how well the cells fit is written there.
    repeat
        With `projection`, return the projected cells alone. Otherwise the cells of the reference come first (obs["projection"]), and there
        is no X.
    impute
        Add layers["impute"], normalized expression decoded through each cell's own domain (True) or through the domain of this name.
    chunk_size
        Number of cells that are embedded at a time.
    ignore_umap
        No UMAP, no clusters, no pictures.
    verbose
        Show all lines of the log. Otherwise a line for each stage, warnings and a progress bar are shown.
    assess
        Score the result in ``adata.uns["scalex"]["scores"]``.
    show
        Show the UMAP.
    eval
        Encoder statistics at inference. True: the running ones of the training, so that a cell's latent depends on that cell alone. False:
        those of all cells of its domain.
    num_workers
        Has no effect: cells in memory are gathered faster than worker processes could send them.
    keep_mt
        Keep features whose name starts with ERCC, MT- or mt-.
    binarize, normalization
        Of "ATAC": see `AtacRecipe`.
    cell_type
        Column of obs with labels, for plots and scores.
    counts_layer
        The layer that holds the counts, or "raw" for the matrix of `.raw` with its own features. It is preprocessed in place of X.
    adapt, fit_on, adapter
        With `projection`: fit an adapter to cells of domains unlike all of the training (to those that meet the condition `fit_on` on
        columns of obs), or use the given one; see `scalex.Reference.fit_adapter`.
    least_found
        With `projection`: the smallest share of the model's features that the cells must have.
    transpose, feature_type, var_names_from, match_peaks
        Options of reading and joining files; see `AnnDataSource`.
    model
        "paper"; or "scalex", "scalex_labels" (which also learns from the column `cell_type`) or "small", the models of ``scalex train``.
        These have their own `batch_size`, `lr` and `max_iteration` unless these arguments differ from their defaults, and always running
        encoder statistics (`eval`).

    Returns
    -------
    AnnData
        Kept cells x input features, scaled to [0, 1]; obsm["latent"] (n_cells, 10); obs["domain"]; `.raw`, normalized expression of all
        kept features; and, unless `ignore_umap`, obsm["X_umap"] and obs["leiden"].

    Raises
    ------
    ValueError, KeyError, FileNotFoundError, FileExistsError
        If the data or the folder are not as the arguments say.

    Examples
    --------
    >>> import scalex
    >>> cells = [scalex.demo_cells(300, 500), scalex.demo_cells(300, 500, seed=1)]
    >>> adata = scalex.SCALEX(cells, min_features=100, max_iteration=20, ignore_umap=True)
    >>> adata.obsm["latent"].shape
    (600, 10)
    """
    parameters = {name: value for name, value in locals().items() if name != "data_list"} | {"min_features": int(min_features)}
    check_profile(profile)
    if data_list is None:
        raise ValueError("data_list is None: give an AnnData, a path, or a list of them.")
    check_adapter_options(adapt=adapt, adapter=adapter, fit_on=fit_on)
    if projection is None and (adapt or adapter is not None):
        raise ValueError("An adapter places new cells among those of a reference: give its folder (projection=).")
    source = AnnDataSource(
        path=data_list, batch_key=None if batch_name == "batch" else batch_name, batch_categories=batch_categories, source_key=batch_key,
        join=join, layer=counts_layer or use_layer, label_key=cell_type, transpose=transpose, feature_type=feature_type,
        var_names_from=var_names_from, match_peaks=match_peaks, fraction=fraction, n_obs=n_obs, seed=seed, backed=backed,
    )  # fmt: skip
    given = {"batch_size": batch_size, "lr": lr, "max_steps": max_iteration}
    if model != "paper":
        given = {name: value for name, value in given.items() if value != DEFAULTS[name]}
    statistics: Statistics = "running" if eval or model != "paper" else "domain"
    module = make_model(model, **given, statistics=statistics, seed=seed)
    is_ready = processed or (counts_layer is None and use_layer not in ("X", "raw"))
    folder = None if outdir is None else Path(outdir)
    owned = nullcontext() if folder is None else use_new_folder(folder)
    with owned, ignore_launcher(), show_log(verbose), log_to(None if folder is None else folder / "log.txt"):
        if projection is not None:
            options: dict[str, Any] = {"repeat": repeat, "impute": impute, "label": cell_type, "statistics": statistics}
            options |= {"chunk_size": chunk_size, "adapt": adapt, "fit_on": fit_on, "adapter": adapter, "least_found": least_found}
            return _project(projection, source, folder, gpu=gpu, show=show, parameters=parameters, **options)
        recipe = make_recipe(
            "none" if is_ready else profile, min_features=min_features, min_cells=min_cells, target_sum=target_sum,
            n_top_features=n_top_features, keep_mt=keep_mt, binarize=binarize, normalization=normalization,
        )  # fmt: skip
        outputs: list[Callback | None] = [
            # The loss of the paper's model alone tells when it is trained.
            EarlyStopping(patience=10) if model == "paper" else None,
            Progress(),
            None if ignore_umap else UmapPlot(folder, label_key=cell_type, seed=seed, show=show),
            Scores(folder, seed=seed) if assess else None,
            ReportPage(folder, label_key=cell_type, seed=seed),
        ]
        trainer = _make_trainer(
            gpu,
            **trainer_limits(module.hparams["max_steps"], module.hparams["max_epochs"]),
            callbacks=[Checkpoint(folder), LatentExport(folder, impute=impute), *filter(None, outputs)],
            logger=[] if folder is None else [EpochTable(folder)],
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            log_every_n_steps=1,
        )
        adata = fit(source, recipe, module, trainer, chunk_size=chunk_size, seed=seed, parameters=parameters)
    _add_input_pca(adata, folder)
    return adata


def _make_trainer(gpu: int, **options: Any) -> Trainer:
    accelerator, n_gpus = choose_accelerator(), torch.cuda.device_count()
    if accelerator != "cpu" and gpu >= n_gpus:
        raise ValueError(f"gpu={gpu}: this machine has {n_gpus} GPU{'' if n_gpus == 1 else 's'}: {', '.join(map(str, range(n_gpus)))}.")
    devices = 1 if accelerator == "cpu" else [gpu]
    return Trainer(accelerator=accelerator, devices=devices, enable_progress_bar=False, enable_model_summary=False, **options)


def _add_input_pca(adata: AnnData, folder: Path | None) -> None:
    """Add the coordinates that `label_transfer` needs, which are in the file alone where cells stay in files."""
    if folder is not None and INPUT_PCA in adata.varm and INPUT_PCA not in adata.obsm:
        with h5py.File(folder / "adata.h5ad") as file:
            adata.obsm[INPUT_PCA] = file[f"obsm/{INPUT_PCA}"][()]


def _project(projection: str | Path, source: AnnDataSource, folder: Path | None, *, gpu: int, show: bool, **options: Any) -> AnnData:
    """Project the cells into the space of a finished run, and write them to `folder` if there is one."""
    trainer = _make_trainer(gpu, logger=False, enable_checkpointing=False)
    adata, report = project_to_anndata(folder, Reference.load(projection), source, trainer, **options)
    if show and plt.get_backend().lower() != "agg":
        report.figure()
        plt.show()
    return adata


def label_transfer(ref: AnnData, query: AnnData, rep: str = "latent", label: str = "celltype") -> NDArray[Any]:
    """Give each query cell a label of the reference, or "unknown".

    Parameters
    ----------
    ref
        Cells with obsm[`rep`] and obs[`label`]. Cells without a label have no effect. If there is obs["domain"], probabilities are
        calibrated across its domains.
    query
        Cells with obsm[`rep`] of the same model. The columns of `LabelTransfer.predict` are added to its obs, with `label` before their
        names: the label, its probability, the runner-up and more. Unknown cells are found in each domain of obs["domain"], if there is
        one.
    rep
        Key of the latents in both obsm.
    label
        Column of obs of `ref`.

    Returns
    -------
    ndarray
        (n_query,) labels; "unknown" for cells of other types than the reference's.

    Raises
    ------
    KeyError
        If there are no such latents or labels.
    ValueError
        If no reference cell has a label, or the latents have different dimensions.

    Examples
    --------
    >>> import numpy as np
    >>> import scalex
    >>> ref = scalex.demo_cells(200, 500)
    >>> ref.obsm["latent"] = np.eye(6, dtype=np.float32)[ref.obs["cell_type"].cat.codes]
    >>> labels = scalex.label_transfer(ref, ref.copy(), label="cell_type")
    >>> labels.shape
    (200,)
    """
    for name, adata in (("ref", ref), ("query", query)):
        if rep not in adata.obsm:
            raise KeyError(f"rep={rep!r} is not in obsm of {name}. There is: {', '.join(adata.obsm) or 'nothing'}.")
    if label not in ref.obs:
        raise KeyError(f"label={label!r} is not in obs of ref. Columns: {', '.join(map(str, ref.obs.columns))}.")
    domain, own_domain = (pd.Categorical(adata.obs["domain"]) if "domain" in adata.obs else None for adata in (ref, query))
    # Components of the inputs separate types better. They are there if both come from the same model, by training and projection.
    pca = [adata.obsm[INPUT_PCA] if rep == "latent" and INPUT_PCA in adata.obsm else None for adata in (ref, query)]
    components = (None, None) if any(part is None for part in pca) else pca
    transfer = LabelTransfer.fit(np.asarray(ref.obsm[rep]), pd.Categorical(ref.obs[label]), components[0], domain=domain)
    predicted = transfer.predict(np.asarray(query.obsm[rep]), components[1], domain=None if own_domain is None else own_domain.codes)
    for name, column in predicted.items():
        query.obs[f"{label}_{name}"] = column.set_axis(query.obs_names)
    return np.asarray(predicted["label"].astype(str), dtype=object)
