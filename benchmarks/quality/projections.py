"""Domains left out of a training and then projected: as they lie, with an adapter, after continued training, and by other methods."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import ClassVar, Literal, NamedTuple
from weakref import finalize

import anndata as ad
import numpy as np
from numpy.typing import NDArray

from benchmarks.quality.peers import Embedding, run_query_script
from benchmarks.quality.runs import Model
from benchmarks.quality.sets import LabelledCells
from benchmarks.quality.store import to_file_name
from scalex.projection.adaptation import MIN_CELLS
from scalex.projection.reference import Reference

__all__ = ["PEERS", "WAYS", "PeerProjection", "PeerWay", "Projected", "TrainedWithout", "list_left_out", "train_without"]

Way = Literal["projected", "adapter", "continued training"]
# Runs that are kept for other ways of the same training: those of the seeds.
MAX_KEPT = 8
WAYS: tuple[Way, ...] = ("projected", "adapter", "continued training")

# Groups of domains that are left out together. Of other sets, each domain is left out.
LEFT_OUT = {
    "celllines_joined": [("sc_10x_5cl",), ("sc_celseq2_5cl_p2",)],
    "kang_ctrl_donors": [("donor1015",)],
    "pbmc_protein_asap_cite": [("b3_asap", "b4_asap")],
    "mop_rna_vs_geneactivity": [("gene activity",)],
}


def list_left_out(cells: LabelledCells) -> list[tuple[str, ...]]:
    """Return the groups of domains that are left out of trainings."""
    domains = sorted(cells.adata.obs["batch"].unique())
    groups = [group for group in LEFT_OUT.get(cells.name, []) if set(group) < set(domains)]
    return groups or [(domain,) for domain in domains]


class TrainedWithout(NamedTuple):
    """A run that was trained without some cells.

    Attributes
    ----------
    folder
        The run folder.
    trained
        Embedding of the cells that it was trained on.
    new
        The cells that it was not trained on.
    """

    folder: Path
    trained: Embedding
    new: ad.AnnData


class _KeptFolder:
    """A folder that lasts as long as this object."""

    def __init__(self) -> None:
        self.path = Path(mkdtemp())
        finalize(self, shutil.rmtree, self.path)


@lru_cache(maxsize=MAX_KEPT)
def _train(model: Model, cells: LabelledCells, left_out: tuple[str, ...], seed: int) -> tuple[_KeptFolder, TrainedWithout]:
    adata = cells.adata
    is_new = adata.obs["batch"].isin(left_out).to_numpy()
    known = adata[~is_new].copy()
    known.obs["batch"] = known.obs["batch"].cat.remove_unused_categories()
    kept = _KeptFolder()
    trained = model.train(cells, known, seed, kept.path)
    return kept, TrainedWithout(kept.path / "run", trained, adata[is_new].copy())


def train_without(model: Model, cells: LabelledCells, left_out: tuple[str, ...], seed: int) -> TrainedWithout:
    """Train without some domains, once for the last `MAX_KEPT` arguments. The folder lasts as long."""
    return _train(model, cells, left_out, seed)[1]


@dataclass(frozen=True)
class Projected:
    """One of our models, trained without some domains, which are embedded afterwards.

    Attributes
    ----------
    model
        The model.
    left_out
        Names of the domains.
    way
        With preprocessing and network frozen, the same with an adapter for each domain, or after continued training by train.py, which
        changes the latents of all cells.
    """

    is_ours: ClassVar[bool] = True

    model: Model
    left_out: tuple[str, ...]
    way: Way

    @property
    def name(self) -> str:
        """See `Method.name`."""
        return f"{self.model.name}, {' + '.join(self.left_out)}: {self.way}"

    @property
    def seeds(self) -> tuple[int, ...]:
        """See `Method.seeds`."""
        return self.model.seeds

    def key(self, cells: LabelledCells, seed: int) -> str:
        """See `Method.key`."""
        return f"without_{to_file_name('+'.join(self.left_out))}-{to_file_name(self.way)}-{self.model.key(cells, seed)}"

    def run(self, cells: LabelledCells, seed: int) -> Embedding | None:
        """See `Method.run`. There is none if a domain has too few cells for an adapter."""
        run = train_without(self.model, cells, self.left_out, seed)
        names = np.concatenate([run.trained.names, run.new.obs_names.to_numpy(str)])
        if self.way == "continued training":
            with TemporaryDirectory() as folder:
                grown = self.model.train(cells, run.new, seed, Path(folder), run.folder)
            # Names that both sides have get a suffix. The sides follow one another.
            return grown._replace(names=names)
        if self.way == "adapter" and run.new.obs["batch"].astype(str).value_counts().min() < MIN_CELLS:
            return None
        reference = Reference.load(run.folder)
        adapter = reference.fit_adapter(run.new, batch_key="batch", statistics="running") if self.way == "adapter" else None
        projected = reference.embed(run.new, batch_key="batch", adapter=adapter, statistics="running")
        return run.trained._replace(names=names, latent=np.concatenate([run.trained.latent, projected]))


class PeerWay(NamedTuple):
    """A projection by another package, by a script of `benchmarks/peers` with an interpreter that has the package."""

    name: str
    short: str
    script: str


PEERS = (
    PeerWay("scVI, load_query_data", "scvi_query", "scvi_query.py"),
    PeerWay("Symphony", "symphony_query", "symphony_query.py"),
)


@dataclass(frozen=True)
class PeerProjection:
    """Domains projected by another package onto its own embedding of the others.

    Attributes
    ----------
    peer
        The package.
    interpreter
        Its interpreter. None: only stored results are used.
    left_out
        Names of the domains.
    seeds
        Seeds of the runs.
    """

    is_ours: ClassVar[bool] = False

    peer: PeerWay
    interpreter: str | None
    left_out: tuple[str, ...]
    seeds: Sequence[int] = (0,)

    @property
    def name(self) -> str:
        """See `Method.name`."""
        return f"{self.peer.name}, {' + '.join(self.left_out)}"

    def key(self, cells: LabelledCells, seed: int) -> str:
        """See `Method.key`."""
        return f"{self.peer.short}-{to_file_name('+'.join(self.left_out))}-{cells.fingerprint}-{seed}"

    def run(self, cells: LabelledCells, seed: int) -> Embedding | None:
        """See `Method.run`."""
        if self.interpreter is None:
            return None
        is_new = cells.adata.obs["batch"].isin(self.left_out).to_numpy()
        sides = cells.adata[~is_new].copy(), cells.adata[is_new].copy()
        found = run_query_script(*sides, cells.kind, self.interpreter, self.peer.script, seed)
        names = np.concatenate([side.obs_names.to_numpy(str) for side in sides])
        latent: NDArray[np.float32] = np.concatenate([found["reference"], found["query"]]).astype(np.float32)
        return Embedding(names, latent)
