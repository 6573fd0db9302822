"""Projection: new cells in the space of a trained model, with what the reference's cells say of them."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, get_args

import anndata as ad
import h5py
import numpy as np
import pandas as pd
from lightning import Callback, LightningModule, Trainer
from numpy.typing import NDArray
from scipy import sparse
from tqdm.auto import tqdm

from scalex.block_writer import BlockWriter
from scalex.cells import CellSource, chunks
from scalex.data import Chunk, QueryDataModule
from scalex.impute import check_known, decoded_domain, units
from scalex.input_pca import INPUT_PCA
from scalex.module import Statistics
from scalex.obs_columns import common_types, conform, free_suffix
from scalex.plain import writable
from scalex.preprocess import RowTransform
from scalex.preprocess.checks import count_fractional
from scalex.report import Report, Tally
from scalex.transfer import UNKNOWN, has_label

if TYPE_CHECKING:
    from scalex.module import Embedded
    from scalex.reference import Reference

__all__ = ["embed", "open_query", "project"]

logger = logging.getLogger(__name__)

# Cells whose values tell whether they are counts.
LOOKED_AT = 1000
FEW_FOUND = 0.8
# Chunks whose memory is freed at once.
LARGE_CHUNK = 1000
# Transferred where it is there; any other must be there if it is asked for.
USUAL_LABEL = "cell_type"


def embed(
    reference: Reference,
    source: CellSource,
    trainer: Trainer | None = None,
    *,
    statistics: Statistics | None = None,
    chunk_size: int = 20_000,
    least_found: float = 0.3,
) -> NDArray[np.float32]:
    """Latents of new cells, (n_cells, n_latent) float32, in their order; the parameters and errors are those of `project`."""
    data = open_query(reference, source, chunk_size, least_found)
    latent = np.empty((data.n_cells, reference.module.hparams["n_latent"]), np.float32)

    def keep(embedded: Embedded, batch: Chunk) -> None:
        latent[batch.row_C.numpy()] = embedded.latent_CZ.cpu().numpy()

    _predict(reference, data, trainer, statistics, keep)
    return latent


def project(
    reference: Reference,
    source: CellSource,
    file: h5py.File,
    trainer: Trainer | None = None,
    *,
    repeat: bool = False,
    impute: bool | str | None = None,
    label: str | None = "cell_type",
    statistics: Statistics | None = None,
    chunk_size: int = 20_000,
    least_found: float = 0.3,
    parameters: dict[str, Any] | None = None,
) -> Report:
    """Embed new cells with a trained model, place them among the reference's cells, and write both to an AnnData file, chunk by chunk.

    Nothing is fitted to the new cells. There is one row for each, in their order; those that the training would have left out
    are flagged.

    Parameters
    ----------
    reference
        What to project into.
    source
        Where the new cells are.
    file
        An empty HDF5 file, open for writing.
    trainer
        Lightning's trainer, which says where to compute and how precisely. None: on the processor.
    repeat
        Write the new cells alone, with the model's inputs as X and normalized expression as `.raw`, as a training run does. Otherwise
        the reference's cells come first; there is no X then, since the reference's expression is not read.
    impute
        Add layers["impute"]: cells decoded through their own domain (True) or through the named one, in normalized expression (undo
        log1p with expm1), float32.
    label
        Column of the reference's obs to transfer. None, or "cell_type" and not there: nothing is transferred.
    statistics
        Encoder statistics. "running": a cell's latent depends on that cell alone. "domain": on all new cells of its domain. None: those
        with which the reference's own latents were made.
    chunk_size
        Cells read and embedded at a time.
    least_found
        Least share of the model's features that the new cells must have, in [0, 1].
    parameters
        What was asked for; recorded in uns["scalex"].

    Returns
    -------
    Report
        How well the new cells fit. What is written of each, beside obsm["latent"] and the columns that the source has: obs["domain"],
        obs["projection"] ("reference" or "query"), obs["filtered"] (the training would have left it out), obs["distance"] and
        obs["outside"] (see `scalex.latent_map.Placed`), obs["leiden"] and obsm["X_umap"] by its neighbours, and of the transferred label
        the columns that `LabelTransfer.predict` gives, named after it.

    Raises
    ------
    ValueError
        If too few features are found, the values are not of the kind that the model was trained on, or the domain to impute through is
        not known.
    KeyError, FileNotFoundError
        Where the source does not hold what its options name, or the reference has no such labels.
    """
    impute_code = decoded_domain(impute, reference.trained_on.domains)
    data = open_query(reference, source, chunk_size, least_found)
    if impute is True:
        check_known(data.domains, reference.trained_on.domains)
    query = _QueryBlocks(reference, data, label=label, impute=impute_code, alone=repeat)
    writer = BlockWriter(file, compression=None if file.driver == "core" else "gzip")
    if repeat:

        def write(block: ad.AnnData) -> None:
            writer.append(block)

    else:
        first = query.example_obs()
        own = reference.cells.obs.assign(projection=_constant("reference", reference.cells.n_obs))
        types = common_types([own, first])
        suffix = free_suffix(own.index, lambda: (data.cells.annotation(rows).index for rows in chunks(data.n_cells, 100_000)))
        for block in _reference_blocks(reference, conform(own, types), impute_code, chunk_size):
            writer.append(block)

        def write(block: ad.AnnData) -> None:
            block.obs = conform(block.obs, types)
            block.obs_names = block.obs_names.astype(str) + suffix
            writer.append(block)


    def take(embedded: Embedded, batch: Chunk) -> None:
        write(query.block(embedded, batch))
        if len(batch.row_C) >= LARGE_CHUNK:
            # An AnnData is part of a cycle of references: without this, those of several chunks wait for Python to look for cycles.
            gc.collect()

    _predict(reference, data, trainer, statistics, take)
    query.name_unknown(file, writer.n_cells - data.n_cells)
    report = query.tally.report()
    uns: dict[str, Any] = {} if repeat else dict(reference.cells.uns)
    if INPUT_PCA in reference.cells.uns:
        uns[INPUT_PCA] = reference.cells.uns[INPUT_PCA]
    uns["scalex"] = {"version": version("scalex"), "parameters": writable(parameters or {}), "projection": writable(report.numbers)}
    if impute_code is not None:
        uns["scalex"]["impute"] = units(reference.trained_on.preprocessor)
    writer.finish(uns=uns, obsp={} if repeat else _grown(reference.cells.obsp, writer.n_cells))
    return report


def open_query(reference: Reference, source: CellSource, chunk_size: int, least_found: float = 0.3) -> QueryDataModule:
    """New cells as the model wants them; the parameters and errors are those of `project`."""
    cells = source.open()
    transform = reference.trained_on.preprocessor.rows_with(cells.var.index)
    _check_found(transform, cells.var.index, least_found)
    data = QueryDataModule(cells, transform, chunk_size=chunk_size)
    _check_kind(reference, cells.read(slice(0, min(LOOKED_AT, data.n_cells))))
    new = [domain for domain, code in zip(data.domains, data.known_domain, strict=True) if code < 0]
    logger.info(
        "Query: %s cells x %s features, %d domain(s), of which the model does not know %d", f"{data.n_cells:,}",
        f"{len(cells.var):,}", len(data.domains), len(new),
    )  # fmt: skip
    return data


def _check_found(transform: RowTransform, given: pd.Index, least_found: float) -> None:
    features, found = transform.preprocessor.features, transform.found
    share = found.mean()
    text = f"{found.sum():,} of the {len(found):,} features of the model are in the query ({share:.0%})"
    match = transform.match
    if match.case_only:
        pairs = ", ".join(f"{known}/{new}" for known, new in match.case_only[:5])
        text += f"; {len(match.case_only):,} known names differ from the query's only in upper and lower case ({pairs}): not matched"
    if share < least_found or not found.any():
        raise ValueError(
            f"Only {text}; at least {least_found:.0%} are needed (least_found). Reference: {', '.join(features[~found][:5])}, ...; query: "
            f"{', '.join(given[:5])}, .... Bring the query's names to those of the reference."
        )
    if share < FEW_FOUND:
        logger.warning(
            "Only %s: of the others the mean of the training cells is taken. Missing: %s, ...", text, ", ".join(features[~found][:5])
        )
    else:
        logger.info("Features: %s", text)
    if match.n_without_version:
        logger.info("%s features were matched after Ensembl versions were left out", f"{match.n_without_version:,}")
    if match.n_repeated:
        logger.warning("%d features of the query stand for one that is there already; the first counts.", match.n_repeated)


def _check_kind(reference: Reference, values: sparse.csr_matrix) -> None:
    """See that counts come to a model of counts and normalized values to one of those."""
    n_cells = np.count_nonzero(np.diff(values.indptr))
    fractional = 2 * count_fractional(values) > n_cells
    trained_on = reference.trained_on.preprocessor
    if fractional and not trained_on.fractional:
        raise ValueError(
            "The query's values are not whole numbers, but the reference was trained on counts: give raw counts, for example with "
            "dataset.layer=counts."
        )
    if n_cells and not fractional and trained_on.fractional:
        raise ValueError(
            "The query's values are whole numbers, raw counts it seems, but the reference was trained on processed values: process the "
            "query in the same way first."
        )


def _predict(
    reference: Reference,
    data: QueryDataModule,
    trainer: Trainer | None,
    statistics: Statistics | None,
    take: Callable[[Embedded, Chunk], None],
) -> None:
    """Embed the cells chunk by chunk, and hand each chunk on."""
    module = reference.module
    if statistics is not None and statistics not in get_args(Statistics):
        raise ValueError(f"statistics={statistics!r}: allowed are {', '.join(get_args(Statistics))}.")
    trained_with = module.hparams["statistics"]
    module.hparams["statistics"] = statistics or trained_with
    trainer = trainer or quiet_trainer()
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    hand_on = _HandOn(take, data.n_cells)
    callbacks.append(hand_on)
    try:
        trainer.predict(module, datamodule=data, return_predictions=False)
    finally:
        callbacks.remove(hand_on)
        module.hparams["statistics"] = trained_with


def quiet_trainer() -> Trainer:
    """A trainer for a few cells: on the processor, without files and messages."""
    return Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)


class _HandOn(Callback):
    """Hands each chunk on, and shows how far it is, where there is a screen."""

    def __init__(self, take: Callable[[Embedded, Chunk], None], n_cells: int) -> None:
        self._take = take
        self._n_cells = n_cells
        self._bar: Any = None

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._bar = tqdm(total=self._n_cells, desc="Projecting", unit="cell", unit_scale=True, disable=None, leave=False)

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._take(outputs, batch)
        self._bar.update(len(batch.row_C))

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._bar.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self._bar is not None:
            self._bar.close()


class _QueryBlocks:
    """Makes an AnnData of each chunk of new cells."""

    def __init__(self, reference: Reference, data: QueryDataModule, *, label: str | None, impute: int | None, alone: bool) -> None:
        self._reference = reference
        self._data = data
        self._impute = impute
        self._alone = alone
        self._map = reference.latent_map()
        self._pca = reference.input_pca
        self._label = _usable(reference, label)
        self._transfer = None if self._label is None else reference.label_transfer(self._label)
        self.tally = Tally(reference, data, self._map, self._label)

    def block(self, embedded: Embedded, batch: Chunk) -> ad.AnnData:
        """The AnnData of one chunk."""
        latent_CZ = embedded.latent_CZ.cpu()
        first = int(batch.row_C[0])
        rows = slice(first, first + len(latent_CZ))
        obs, umap = self._columns(latent_CZ.numpy(), batch, rows)
        self.tally.add(rows, latent_CZ.numpy(), obs, umap)
        reference = self._reference
        block = ad.AnnData(batch.inputs if self._alone else None, obs=obs, var=reference.cells.var)
        if self._alone:
            block.raw = ad.AnnData(self._data.transform.normalized(batch.values), obs=obs[[]], var=reference.raw_var)
        block.obsm["latent"] = latent_CZ.numpy()
        if self._pca is not None:
            self._pca.add_to(block, batch.inputs, batch.lacking)
        if umap is not None:
            block.obsm["X_umap"] = umap
        if self._impute is not None:
            known = self._data.known_domain[self._data.domain(rows)]
            block.layers["impute"] = _imputed(reference, latent_CZ.numpy(), known, self._impute)
        return block

    def example_obs(self) -> pd.DataFrame:
        """One cell's obs, for the columns that all blocks have and their types."""
        rows = slice(0, 1)
        return self._columns(self._reference.latent[rows], self._data.read(rows), rows)[0]

    def name_unknown(self, file: h5py.File, first: int) -> None:
        """Say in the written labels, from row `first`, which cells are of no known type."""
        if self._transfer is None:
            return
        labels = self._transfer.labels(self.tally.best, self.tally.unknown)
        self.tally.set_labels(labels)
        column = file[f"obs/{self._label}_label"]
        written = pd.Index(ad.io.read_elem(column["categories"]))
        column["codes"][first:] = written.get_indexer(labels.categories)[labels.codes]

    def _columns(self, latent: NDArray[np.float32], batch: Chunk, rows: slice) -> tuple[pd.DataFrame, NDArray[np.float32] | None]:
        """The columns of obs and the places on the UMAP of a run of cells."""
        n_cells = rows.stop - rows.start
        placed = self._map.place(latent)
        obs = self._data.cells.annotation(rows).copy()
        obs.index = obs.index.astype(str)
        obs["domain"] = pd.Categorical.from_codes(self._data.domain(rows), categories=list(self._data.domains))
        obs["projection"] = _constant("query", n_cells)
        assert batch.values is not None
        obs["filtered"] = self._data.transform.n_detected(batch.values) < self._reference.trained_on.preprocessor.min_features
        obs["distance"] = placed.distance
        obs["outside"] = placed.outside
        if placed.cluster is not None:
            obs["leiden"] = placed.cluster
        if self._transfer is not None:
            components = None if self._pca is None else self._pca.coordinates(batch.inputs, batch.lacking)
            found = self._transfer.evidence(latent, components)
            # Which cells are called unknown is known when all have been seen: see `name_unknown`.
            found.insert(0, "label", pd.Categorical(found["best"], [*self._transfer.types, UNKNOWN]))
            for name, column in found.items():
                obs[f"{self._label}_{name}"] = column.set_axis(obs.index)
        return obs, placed.umap


def _usable(reference: Reference, label: str | None) -> str | None:
    """The label to transfer; None where the usual one is not there.

    Raises
    ------
    KeyError
        If another one is asked for that the reference does not have.
    """
    if label is None:
        return None
    if label in reference.labels and has_label(pd.Categorical(reference.cells.obs[label])).any():
        return label
    if label != USUAL_LABEL:
        reference.check_label(label)
    logger.info("No labels are transferred: the reference has none in obs[%r]. It has: %s", label, ", ".join(reference.labels) or "none")
    return None


def _constant(value: str, n: int) -> pd.Categorical:
    return pd.Categorical([value], categories=["reference", "query"]).repeat(n)


def _reference_blocks(reference: Reference, obs: pd.DataFrame, impute: int | None, chunk_size: int) -> Iterator[ad.AnnData]:
    """The reference's cells, without expression."""
    cells = reference.cells
    codes = pd.Index(reference.trained_on.domains).get_indexer(pd.Index(cells.obs["domain"].astype(str)))
    if impute == -1:
        check_known(cells.obs["domain"].astype(str)[codes < 0].unique(), reference.trained_on.domains)
    for rows in chunks(cells.n_obs, chunk_size):
        block = ad.AnnData(obs=obs.iloc[rows], var=cells.var)
        block.obsm["latent"] = reference.latent[rows]
        if INPUT_PCA in cells.obsm:
            block.obsm[INPUT_PCA] = np.asarray(cells.obsm[INPUT_PCA][rows])
            block.varm[INPUT_PCA] = cells.varm[INPUT_PCA]
        if "X_umap" in cells.obsm:
            block.obsm["X_umap"] = np.asarray(cells.obsm["X_umap"][rows], np.float32)
        if impute is not None:
            block.layers["impute"] = _imputed(reference, reference.latent[rows], codes[rows], impute)
        yield block


def _imputed(reference: Reference, latent: NDArray[np.float32], own: NDArray[np.int64], impute: int) -> NDArray[np.float32]:
    return reference.module.impute(latent, own if impute == -1 else np.full(len(latent), impute))


def _grown(graphs: Any, n_cells: int) -> dict[str, sparse.csr_matrix]:
    """The reference's neighbour graphs with rows and columns for the new cells, which have no edges."""
    grown = {}
    for name, graph in graphs.items():
        graph = sparse.csr_matrix(graph)
        more = np.full(n_cells - graph.shape[0], graph.indptr[-1], graph.indptr.dtype)
        grown[name] = sparse.csr_matrix((graph.data, graph.indices, np.concatenate([graph.indptr, more])), shape=(n_cells, n_cells))
    return grown
