"""Projection of new cells into the space of a trained model, with labels and distances from the reference's cells."""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from contextlib import closing
from importlib.metadata import version
from typing import Any

import anndata as ad
import h5py
import numpy as np
from lightning import Trainer
from numpy.typing import NDArray
from torch import distributed

from scalex.cells import CellSource
from scalex.h5ad.block_writer import BlockWriter
from scalex.h5ad.common_columns import conform, find_common_types, find_free_suffix
from scalex.h5ad.uns_values import convert_to_uns
from scalex.model.imputation import Impute, check_domains, describe_units, get_domain_code
from scalex.model.imputation_fit import ImputationFit
from scalex.model.module import Statistics
from scalex.projection.blocks import IMPUTE_FIT, QueryBlocks, make_projection_column, make_reference_blocks
from scalex.projection.embedding import embed_chunks, make_quiet_trainer, show_progress
from scalex.projection.processes import connect, gather_in_order
from scalex.projection.query import Query, open_query
from scalex.projection.report import Report
from scalex.reference.about import About
from scalex.reference.adapter import Adapter
from scalex.reference.finished_run import FinishedRun
from scalex.reference.input_pca import INPUT_PCA
from scalex.system.chunks import chunks
from scalex.system.memory import return_freed_memory
from scalex.system.settings import Count, Share, check_call

__all__ = ["embed", "project", "take_part"]

# Cells; larger chunks are freed at once.
LARGE_CHUNK = 1000


@check_call
def embed(
    reference: FinishedRun,
    source: CellSource | Query,
    trainer: Trainer | None = None,
    *,
    adapter: Adapter | None = None,
    statistics: Statistics | None = None,
    chunk_size: Count = 20_000,
    least_found: Share = 0.3,
) -> NDArray[np.float32]:
    """Return the latents of new cells, (n_cells, n_latent) float32, in their order. See `project` for parameters and errors."""
    data = open_query(reference, source, chunk_size, least_found)
    if adapter is not None:
        adapter.check(reference.module, data.domains, statistics)
    latent = np.empty((data.n_cells, reference.module.hparams["n_latent"]), np.float32)
    with show_progress(data) as bar:
        for batch, chunk in embed_chunks(reference, data, data.batches(), trainer or make_quiet_trainer(), statistics):
            if adapter is not None:
                chunk, _ = adapter.apply(chunk, batch.domain_C.numpy(), data.domains)
            latent[batch.row_C.numpy()] = chunk
            bar.update(len(chunk))
    return latent


@check_call
def project(
    reference: FinishedRun,
    source: CellSource | Query,
    file: h5py.File,
    trainer: Trainer | None = None,
    *,
    repeat: bool = False,
    impute: Impute = None,
    label: str | None = "cell_type",
    adapter: Adapter | None = None,
    statistics: Statistics | None = None,
    chunk_size: Count = 20_000,
    least_found: Share = 0.3,
    parameters: dict[str, Any] | None = None,
) -> Report:
    """Embed new cells, place them among the reference's cells, and write both to an AnnData file chunk by chunk.

    Nothing is fitted to the new cells here. The file has one row for each of them, in their order. Cells that the training filter would
    have dropped are flagged.

    Parameters
    ----------
    reference
        The reference to project into.
    source
        Source of the new cells, or the cells that `open_query` has opened.
    file
        An empty HDF5 file, open for writing.
    trainer
        Lightning's trainer, which determines device and precision. None: the CPU. Of several processes, rank 0 calls this function and
        the others call `take_part`. The file is the same to the bit for any number of processes.
    repeat
        Write only the new cells, with the model's inputs as X and normalized expression as `.raw`, as a training run does. Otherwise
        the reference's cells come first, and there is no X, because the reference's expression is not read.
    impute
        Add layers["impute"], float32: the cells decoded through their own domain (True) or through the named one, in units of normalized
        expression (undo log1p with expm1).
    label
        Column of the reference's obs to transfer. Nothing is transferred for None, or if the default column does not exist.
    adapter
        Where the latents of domains belong that are unlike all of the training; see `scalex.projection.adaptation.fit_adapter`.
    statistics
        Encoder statistics. "running": a cell's latent depends on that cell alone. "domain": it depends on all new cells of its domain.
        None: the statistics of the reference's own latents.
    chunk_size
        Number of cells read and embedded at a time.
    least_found
        Smallest share of the model's features that the new cells must have, in [0, 1].
    parameters
        Settings of the projection, to be stored in uns["scalex"].

    Returns
    -------
    Report
        How well the new cells fit. For each new cell the file has, in addition to the columns of the source: obsm["latent"],
        obs["domain"], obs["projection"] ("reference" or "query"), obs["filtered"] (the training filter would have dropped the cell),
        obs["distance"] and obs["outside"] (see `scalex.reference.latent_map.Placement`), obs["leiden"] and obsm["X_umap"] from its
        neighbours, and the columns of `LabelTransfer.predict`, with the name of the label before theirs.

    Raises
    ------
    ValueError
        If the new cells have too few of the model's features, if counts are given to a model of processed values or the reverse, if
        the model does not know the domain to impute through, or if the adapter is one of another model or of other domains.
    ConnectionError
        If another process of the trainer stops.
    KeyError, FileNotFoundError
        If the source lacks what its options name, or if the reference has no such labels.
    """
    trainer = trainer or make_quiet_trainer()
    assert trainer.is_global_zero, "the other processes call take_part"
    query = _open_blocks(
        reference, source, repeat=repeat, impute=impute, label=label, adapter=adapter, statistics=statistics, chunk_size=chunk_size,
        least_found=least_found,
    )  # fmt: skip
    data = query.data
    writer = BlockWriter(file, compression=None if file.driver == "core" else "gzip")
    own, types, suffix = reference.cells.obs, None, ""
    fit: ImputationFit | None = None
    if not repeat:
        own = own.assign(projection=make_projection_column("reference", reference.cells.n_obs))
        types = find_common_types([own, query.read_example_obs()])
        suffix = find_free_suffix(own.index, lambda: (data.cells.read_obs(rows).index for rows in chunks(data.n_cells, 100_000)))
    with connect(trainer) as group, show_progress(data) as bar:
        if types is not None:
            for block in make_reference_blocks(reference, conform(own, types), query.impute, chunk_size):
                writer.append(block)
        for block in _gather_blocks(query, trainer, statistics, group):
            query.tally.add(block)
            if query.impute is not None:
                fit = block.uns.pop(IMPUTE_FIT) if fit is None else fit.add(block.uns.pop(IMPUTE_FIT))
            if types is not None:
                block.obs = conform(block.obs, types)
                block.obs_names = block.obs_names + suffix
            writer.append(block)
            n_cells = block.n_obs
            bar.update(n_cells)
            del block
            if n_cells >= LARGE_CHUNK:
                # An AnnData is part of a reference cycle. Without this call, several chunks stay in memory until Python collects cycles.
                gc.collect()
        query.write_labels(file, writer.n_cells - data.n_cells)
        report = query.tally.make_report()
        uns = _make_uns(query, report, {} if repeat else reference.cells.uns, parameters)
        writer.finish(uns=uns, obsp={})
        if fit is not None:
            writer.replace_var(fit.add_to(reference.cells.var, data.transform.found, "the new cells"))
    return report


def take_part(
    reference: FinishedRun, source: CellSource | Query, trainer: Trainer, *, statistics: Statistics | None, **options: Any
) -> None:
    """Make this process's share of the blocks, which rank 0 writes. `options` are those of `project`, without `parameters`."""
    return_freed_memory()
    query = _open_blocks(reference, source, statistics=statistics, **options)
    with connect(trainer) as group:
        for _ in _gather_blocks(query, trainer, statistics, group):
            pass


def _open_blocks(
    reference: FinishedRun,
    source: CellSource | Query,
    *,
    repeat: bool,
    impute: Impute,
    label: str | None,
    adapter: Adapter | None,
    statistics: Statistics | None,
    chunk_size: int,
    least_found: float,
) -> QueryBlocks:
    """Check the options and open the new cells."""
    impute_code = get_domain_code(impute, reference.trained_on.domains)
    data = open_query(reference, source, chunk_size, least_found)
    if impute is True:
        check_domains(data.domains, reference.trained_on.domains)
    if adapter is not None:
        adapter.check(reference.module, data.domains, statistics)
    return QueryBlocks(reference, data, label=label, impute=impute_code, adapter=adapter, query_only=repeat)


def _gather_blocks(
    query: QueryBlocks, trainer: Trainer, statistics: Statistics | None, group: distributed.ProcessGroup | None
) -> Iterator[ad.AnnData]:
    """Yield the blocks of the new cells in order in rank 0, and none in the other processes."""
    data = query.data
    share = data.batches(trainer.global_rank, trainer.world_size)
    blocks = (query.make_block(batch, latent) for batch, latent in embed_chunks(query.reference, data, share, trainer, statistics))
    with closing(blocks):
        yield from gather_in_order(blocks, len(data.batches()), group)


def _make_uns(query: QueryBlocks, report: Report, inherited: Mapping[str, Any], parameters: dict[str, Any] | None) -> dict[str, Any]:
    # The neighbour graphs of the reference are left out, since they lack the new cells.
    uns = {name: value for name, value in inherited.items() if not (isinstance(value, Mapping) and "connectivities_key" in value)}
    known = query.reference.cells.uns
    if INPUT_PCA in known:
        uns[INPUT_PCA] = known[INPUT_PCA]
    told = About.from_uns(inherited).to_uns()
    uns["scalex"] = {
        "version": version("scalex"),
        "parameters": convert_to_uns(parameters or {}),
        "projection": convert_to_uns(report.numbers),
        # The license of a packed reference holds for what grows from it.
        **({"about": told} if told != About().to_uns() else {}),
    }
    if query.impute is not None:
        uns["scalex"]["impute"] = describe_units(query.reference.trained_on.preprocessor)
    return uns
