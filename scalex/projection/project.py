"""Projection: new cells in the space of a trained model, with what the reference's cells say of them."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from contextlib import closing
from importlib.metadata import version
from typing import Any, get_args

import anndata as ad
import h5py
import numpy as np
from lightning import Trainer
from numpy.typing import NDArray
from scipy import sparse
from torch import distributed
from tqdm.auto import tqdm

from scalex.cells import CellSource
from scalex.data import CellBatch
from scalex.data.stream import ChunkLoader
from scalex.h5ad.block_writer import BlockWriter
from scalex.h5ad.common_columns import check_writable, conform, find_common_types, find_free_suffix
from scalex.h5ad.uns_values import convert_to_uns
from scalex.model.base import AllCells
from scalex.model.imputation import check_domains, describe_units, get_domain_code
from scalex.model.inference import on_device
from scalex.model.module import Statistics
from scalex.projection.blocks import QueryBlocks, constant, reference_blocks
from scalex.projection.processes import connect, gather_in_order
from scalex.projection.query import Query, open_query
from scalex.projection.report import Report
from scalex.reference.finished_run import FinishedRun
from scalex.reference.input_pca import INPUT_PCA
from scalex.system.chunks import chunks
from scalex.system.memory import return_freed_memory
from scalex.system.processes import ignore_launcher

__all__ = ["embed", "project", "take_part"]

# Chunks whose memory is freed at once.
LARGE_CHUNK = 1000


def embed(
    reference: FinishedRun,
    source: CellSource,
    trainer: Trainer | None = None,
    *,
    statistics: Statistics | None = None,
    chunk_size: int = 20_000,
    least_found: float = 0.3,
) -> NDArray[np.float32]:
    """Latents of new cells, (n_cells, n_latent) float32, in their order; the parameters and errors are those of `project`."""
    _check_statistics(statistics)
    data = open_query(reference, source, chunk_size, least_found)
    latent = np.empty((data.n_cells, reference.module.hparams["n_latent"]), np.float32)
    with _progress(data) as bar:
        for batch, found in _embed(reference, data, data.batches(), trainer or quiet_trainer(), statistics):
            latent[batch.row_C.numpy()] = found
            bar.update(len(found))
    return latent


def project(
    reference: FinishedRun,
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
        Lightning's trainer, which says where to compute and how precisely. None: on the processor. Of several processes the first one
        projects and the others `take_part`; what is written is the same to the bit.
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
        obs["outside"] (see `scalex.reference.latent_map.Placed`), obs["leiden"] and obsm["X_umap"] by its neighbours, and of the
        transferred label the columns that `LabelTransfer.predict` gives, named after it.

    Raises
    ------
    ValueError
        If too few features are found, the values are not of the kind that the model was trained on, or the domain to impute through is
        not known.
    ConnectionError
        If another of the trainer's processes stops.
    KeyError, FileNotFoundError
        Where the source does not hold what its options name, or the reference has no such labels.
    """
    trainer = trainer or quiet_trainer()
    assert trainer.is_global_zero, "the other processes take part"
    query = _open_blocks(
        reference, source, repeat=repeat, impute=impute, label=label, statistics=statistics, chunk_size=chunk_size, least_found=least_found
    )
    data = query.data
    writer = BlockWriter(file, compression=None if file.driver == "core" else "gzip")
    own, types, suffix = reference.cells.obs, None, ""
    if repeat:
        # Columns that come from a file can be written to one.
        check_writable(data.cells.read_obs(slice(0, data.n_cells if data.cells.in_memory else 1)))
    else:
        own = own.assign(projection=constant("reference", reference.cells.n_obs))
        types = find_common_types([own, query.example_obs()])
        suffix = find_free_suffix(own.index, lambda: (data.cells.read_obs(rows).index for rows in chunks(data.n_cells, 100_000)))
    with connect(trainer) as group, _progress(data) as bar:
        if types is not None:
            for block in reference_blocks(reference, conform(own, types), query.impute, chunk_size):
                writer.append(block)
        for block in _blocks(query, trainer, statistics, group):
            query.tally.add(block)
            if types is not None:
                block.obs = conform(block.obs, types)
                block.obs_names = block.obs_names.astype(str) + suffix
            writer.append(block)
            n_cells = block.n_obs
            bar.update(n_cells)
            del block
            if n_cells >= LARGE_CHUNK:
                # An AnnData is part of a cycle of references: without this, those of several chunks wait for Python to look for cycles.
                gc.collect()
        query.name_unknown(file, writer.n_cells - data.n_cells)
        report = query.tally.report()
        uns = _uns(query, report, {} if repeat else reference.cells.uns, parameters)
        writer.finish(uns=uns, obsp={} if repeat else _enlarge(reference.cells.obsp, writer.n_cells))
    return report


def take_part(reference: FinishedRun, source: CellSource, trainer: Trainer, *, statistics: Statistics | None, **options: Any) -> None:
    """Make a share of the blocks that the first process writes; the parameters, but for `file` and `parameters`, are those of `project`."""
    return_freed_memory()
    query = _open_blocks(reference, source, statistics=statistics, **options)
    with connect(trainer) as group:
        for _ in _blocks(query, trainer, statistics, group):
            pass


def _open_blocks(
    reference: FinishedRun,
    source: CellSource,
    *,
    repeat: bool,
    impute: bool | str | None,
    label: str | None,
    statistics: Statistics | None,
    chunk_size: int,
    least_found: float,
) -> QueryBlocks:
    """See that all that is asked for is there."""
    _check_statistics(statistics)
    impute_code = get_domain_code(impute, reference.trained_on.domains)
    data = open_query(reference, source, chunk_size, least_found)
    if impute is True:
        check_domains(data.domains, reference.trained_on.domains)
    return QueryBlocks(reference, data, label=label, impute=impute_code, alone=repeat)


def _blocks(
    query: QueryBlocks, trainer: Trainer, statistics: Statistics | None, group: distributed.ProcessGroup | None
) -> Iterator[ad.AnnData]:
    """The blocks of the new cells, in order, in the process that writes."""
    data = query.data
    share = data.batches(trainer.global_rank, trainer.world_size)
    made = (query.block(*embedded) for embedded in _embed(query.reference, data, share, trainer, statistics))
    with closing(made):
        yield from gather_in_order(made, len(data.batches()), group)


def _embed(
    reference: FinishedRun, data: Query, share: ChunkLoader, trainer: Trainer, statistics: Statistics | None
) -> Iterator[tuple[CellBatch, NDArray[np.float32]]]:
    """A share of the cells chunk by chunk with their latents. Statistics are those of all cells, added up in one order by each process."""
    module, all_cells = reference.module, AllCells(data.batches(), len(data.domains))
    with on_device(module, trainer):
        for batch, latent_CZ in module.embed(share, statistics, fill_value=data.transform.fill_value, all_cells=all_cells):
            yield batch, latent_CZ.cpu().numpy()


def _uns(query: QueryBlocks, report: Report, kept: Mapping[str, Any], parameters: dict[str, Any] | None) -> dict[str, Any]:
    uns, known = dict(kept), query.reference.cells.uns
    if INPUT_PCA in known:
        uns[INPUT_PCA] = known[INPUT_PCA]
    uns["scalex"] = {
        "version": version("scalex"),
        "parameters": convert_to_uns(parameters or {}),
        "projection": convert_to_uns(report.numbers),
    }
    if query.impute is not None:
        uns["scalex"]["impute"] = describe_units(query.reference.trained_on.preprocessor)
    return uns


def _check_statistics(statistics: Statistics | None) -> None:
    if statistics is not None and statistics not in get_args(Statistics):
        raise ValueError(f"statistics={statistics!r}: allowed are {', '.join(get_args(Statistics))}.")


def _progress(data: Query) -> Any:
    """How far it is, where there is a screen."""
    return tqdm(total=data.n_cells, desc="Projecting", unit="cell", unit_scale=True, disable=None, leave=False)


def quiet_trainer() -> Trainer:
    """A trainer for a few cells: on the processor, without files and messages."""
    with ignore_launcher():
        return Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)


def _enlarge(graphs: Any, n_cells: int) -> dict[str, sparse.csr_matrix]:
    """The reference's neighbour graphs with rows and columns for the new cells, which have no edges."""
    grown = {}
    for name, graph in graphs.items():
        graph = sparse.csr_matrix(graph)
        more = np.full(n_cells - graph.shape[0], graph.indptr[-1], graph.indptr.dtype)
        grown[name] = sparse.csr_matrix((graph.data, graph.indices, np.concatenate([graph.indptr, more])), shape=(n_cells, n_cells))
    return grown
