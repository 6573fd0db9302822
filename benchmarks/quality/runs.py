"""Runs of our models as by train.py."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time
from typing import Any, ClassVar

import anndata as ad
import pandas as pd
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from lightning import Callback, LightningModule, Trainer
from omegaconf import DictConfig, OmegaConf

from benchmarks.provenance import ROOT
from benchmarks.quality.peers import Embedding, embed_by_scanvi
from benchmarks.quality.sets import LabelledCells
from benchmarks.quality.store import to_file_name
from scalex.projection.reference import Reference
from scalex.runs.log import log_to
from scalex.training.fit import fit
from scalex.training.growth import grow
from scalex.training.length import trainer_limits

__all__ = ["LabelsHidden", "Model", "TrainingClock", "compose_settings"]

# The parts of a run besides its trainer, as in train.py.
PARTS = ("dataset", "preprocess", "model", "callbacks", "epoch_table", "logger")


class TrainingClock(Callback):
    """Measure the processor time of the training alone.

    Attributes
    ----------
    seconds : float
        Processor time from the start of training to its end; NaN before the end.
    """

    def __init__(self) -> None:
        self.seconds = float("nan")
        self._start = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._start = process_time()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock; Lightning calls this before the checkpoint is written."""
        self.seconds = process_time() - self._start


@dataclass(frozen=True)
class Model:
    """One of our models.

    Attributes
    ----------
    name
        An option of conf/model and further overrides for train.py, separated by spaces.
    seeds
        Seeds of the runs.
    """

    is_ours: ClassVar[bool] = True

    name: str
    seeds: tuple[int, ...]

    def key(self, cells: LabelledCells, seed: int) -> str:
        """See `Method.key`."""
        settings = compose_settings(self._overrides(cells, seed), Path("cells"), Path("output"))
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
        return f"{to_file_name(self.name)}-{digest}-{cells.fingerprint}-{seed}"

    def run(self, cells: LabelledCells, seed: int) -> Embedding:
        """See `Method.run`."""
        with TemporaryDirectory() as folder:
            return self.train(cells, cells.adata, seed, Path(folder))

    def train(self, cells: LabelledCells, adata: ad.AnnData, seed: int, folder: Path, reference: Path | None = None) -> Embedding:
        """Train and embed as by train.py, and write the run to a folder.

        Parameters
        ----------
        cells
            Cells that determine the settings.
        adata
            Cells to train on.
        seed
            Seed of the run.
        folder
            An empty folder.
        reference
            Run folder, whose training is continued with the cells. It may score worse afterwards.
        """
        file, output = folder / "cells.h5ad", folder / "run"
        adata.write_h5ad(file)
        output.mkdir()
        settings = compose_settings(self._overrides(cells, seed), file, output)
        clock, start = TrainingClock(), process_time()
        with log_to(None):
            parts = instantiate({name: settings[name] for name in PARTS}, _convert_="all")
            limits = trainer_limits(settings["trainer"]["max_steps"], settings["trainer"]["max_epochs"])
            trainer = instantiate(
                settings["trainer"] | limits,
                callbacks=[clock, *parts["callbacks"].values()],
                logger=[parts["epoch_table"], *parts["logger"].values()],
                default_root_dir=settings["output"],
                enable_checkpointing="checkpoint" in parts["callbacks"],
                _convert_="all",
            )
            options = {"chunk_size": settings["chunk_size"], "seed": settings["seed"], "parameters": settings}
            if reference is None:
                found = fit(parts["dataset"], parts["preprocess"], parts["model"], trainer, **options)
            else:
                growth = settings["growth"] | {"allowed_fall": 2}
                found = grow(Reference.load(reference), parts["dataset"], parts["model"], trainer, folder=output, **growth, **options)
        return Embedding(found.obs_names.to_numpy(str), found.obsm["latent"], clock.seconds, process_time() - start)

    def _overrides(self, cells: LabelledCells, seed: int) -> list[str]:
        option, *further = self.name.split()
        return [
            f"model={option}",
            "dataset=h5ad",
            "dataset.batch_key=batch",
            "trainer=cpu",
            "callbacks=[checkpoint,latent_export]",
            f"seed={seed}",
            *cells.overrides,
            *further,
        ]


@dataclass(frozen=True)
class LabelsHidden:
    """A method that learns from the known types of all domains but one.

    Attributes
    ----------
    method
        One of our models, or the interpreter for scANVI.
    hidden
        Name of the domain.
    seeds
        Seeds of the runs.
    """

    method: Model | str
    hidden: str
    seeds: tuple[int, ...]

    @property
    def is_ours(self) -> bool:
        """See `Method.is_ours`."""
        return isinstance(self.method, Model)

    @property
    def name(self) -> str:
        """See `Method.name`."""
        return f"{self.method.name if isinstance(self.method, Model) else 'scANVI'}, labels of {self.hidden} hidden"

    def key(self, cells: LabelledCells, seed: int) -> str:
        """See `Method.key`."""
        method = self.method.key(cells, seed) if isinstance(self.method, Model) else f"scanvi-{cells.fingerprint}-{seed}"
        text = "\n".join(self._label(cells).astype(object).fillna("").astype(str))
        return f"labels_{hashlib.sha256(text.encode()).hexdigest()[:8]}-{method}"

    def run(self, cells: LabelledCells, seed: int) -> Embedding:
        """See `Method.run`."""
        label = self._label(cells)
        if isinstance(self.method, str):
            return embed_by_scanvi(cells, label, interpreter=self.method, seed=seed)
        adata = cells.adata.copy()
        adata.obs["cell_type"] = label
        with TemporaryDirectory() as folder:
            return self.method.train(cells, adata, seed, Path(folder))

    def _label(self, cells: LabelledCells) -> pd.Series:
        obs = cells.adata.obs
        return obs["cell_type"].where(obs["batch"] != self.hidden)


def compose_settings(overrides: Sequence[str], file: Path, output: Path) -> dict[str, Any]:
    """Return the resolved settings of a run of train.py.

    Parameters
    ----------
    overrides
        Overrides for train.py besides the following.
    file
        File of the cells.
    output
        Folder of the run.
    """
    config = _compose(tuple(overrides)).copy()
    config.dataset.path, config.output = str(file), str(output)
    settings = OmegaConf.to_container(config, resolve=True)
    assert isinstance(settings, dict)
    return {str(name): value for name, value in settings.items()}


@cache
def _compose(overrides: tuple[str, ...]) -> DictConfig:
    """Return the config for overrides; this is cached, since it takes a third of a second."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("train", list(overrides))
