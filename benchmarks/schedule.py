"""What a schedule reaches, in which time: ``python benchmarks/schedule.py``; see README.md beside this file."""

from __future__ import annotations

import os

# Before the imports: libraries read these when they are loaded.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["NUMBA_NUM_THREADS"] = "1"

import argparse
import hashlib
import json
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any, NamedTuple

import anndata as ad
import numpy as np
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import instantiate
from lightning import Callback, LightningModule, Trainer
from lightning.fabric.utilities.warnings import PossibleUserWarning
from omegaconf import OmegaConf
from scoring import Remembered, score
from tables import circumstances, markdown_table, show

from scalex.logs import logged_to
from scalex.workflow import fit

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"
# What a run is made of, besides its trainer; as in train.py.
PARTS = ("dataset", "preprocess", "model", "callbacks", "epoch_table", "logger")
COLUMNS = (
    "set",
    "model",
    "seeds",
    "total",
    "bio",
    "batch",
    "training, s",
    "whole run, s",
    "training / published run",
    "whole / published run",
    "target",
)

Figures = dict[str, float]


class Target(NamedTuple):
    """Total score to reach, in a share of the published package's time."""

    total: float
    share: str

    def __str__(self) -> str:
        return f"total >= {self.total:.3f} in {self.share}"


TARGETS = {
    "celllines_mixology": Target(0.812, "1/30"),
    "pancreas_celseq_indrop": Target(0.613, "1/10"),
    "kang_ctrl_stim": Target(0.742, "1/10"),
}


class TrainingClock(Callback):
    """Wall-clock time of the training alone.

    Attributes
    ----------
    seconds : float
        From the start of training to its end; not a number before that.
    """

    def __init__(self) -> None:
        self.seconds = float("nan")
        self._start = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._start = perf_counter()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop it; Lightning calls this before the checkpoint is written."""
        self.seconds = perf_counter() - self._start


def composed(overrides: Sequence[str]) -> dict[str, Any]:
    """The settings of a run of train.py with these overrides, resolved."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        settings = OmegaConf.to_container(compose("train", list(overrides)), resolve=True)
    assert isinstance(settings, dict)
    return {str(name): value for name, value in settings.items()}


def run(settings: dict[str, Any]) -> Figures:
    """Fit as train.py does, then score: "total", "bio", "batch", "training_seconds" and "whole_seconds"."""
    clock = TrainingClock()
    with logged_to(None):
        parts = instantiate({name: settings[name] for name in PARTS}, _convert_="all")
        trainer = instantiate(
            settings["trainer"],
            callbacks=[clock, *parts["callbacks"].values()],
            logger=[parts["epoch_table"], *parts["logger"].values()],
            default_root_dir=settings["output"],
            _convert_="all",
        )
        start = perf_counter()
        adata = fit(
            parts["dataset"],
            parts["preprocess"],
            parts["model"],
            trainer,
            chunk_size=settings["chunk_size"],
            seed=settings["seed"],
            parameters=settings,
        )
        whole = perf_counter() - start
    figures = score(adata.obsm["latent"], adata.obs["batch"], adata.obs["cell_type"])
    return figures | {"training_seconds": clock.seconds, "whole_seconds": whole}


def remembered_run(remembered: Remembered, data: Path, overrides: Sequence[str], seed: int, *, fresh: bool) -> Figures:
    """`run`, unless the same configuration has been run with the same seed.

    Parameters
    ----------
    remembered
        Figures of earlier runs.
    data
        The .h5ad file.
    overrides
        What Hydra is told, besides the data, the seed and the folder of results.
    seed
        The seed.
    fresh
        Run in any case.
    """
    with TemporaryDirectory() as folder:
        settings = composed([*overrides, f"dataset.path='{data}'", f"seed={seed}", f"output='{folder}'"])
        key = f"{data.stem}/{_hash_of(settings, data, folder)}/{seed}"
        return _once(remembered, key, lambda: run(settings), fresh=fresh)


def published(remembered: Remembered, data: Path, latents: Path) -> Figures | None:
    """Scores of the published package's stored latents, and its seconds; None where there are none."""
    if not latents.exists():
        return None
    key = f"{data.stem}/published/{hashlib.sha256(latents.read_bytes()).hexdigest()[:12]}"
    return _once(remembered, key, lambda: _score_stored(data, latents))


def table_row(name: str, model: str, seeds: str, figures: Sequence[Figures], published_seconds: float | None) -> list[str]:
    """A set and a model as a row of the table; mean over the seeds and, where there are several, lowest to highest."""
    columns = {column: np.array([one.get(column, np.nan) for one in figures]) for column in ("total", "bio", "batch")}
    times = [np.array([one.get(column, np.nan) for one in figures]) for column in ("training_seconds", "whole_seconds")]
    return [
        name,
        model,
        seeds,
        *(_mean_and_range(values, 3) for values in columns.values()),
        *(_mean_and_range(values, 1) for values in times),
        *(_share(values, published_seconds) for values in times),
        str(TARGETS[name]),
    ]


def _hash_of(settings: dict[str, Any], data: Path, folder: str) -> str:
    """Of all settings but the places of files, which change from run to run and change nothing."""
    text = json.dumps(settings, sort_keys=True).replace(folder, "").replace(str(data), data.name)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _once(remembered: Remembered, key: str, compute: Callable[[], Figures], *, fresh: bool = False) -> Figures:
    figures = None if fresh else remembered.get(key)
    if figures is None:
        print(f"running {key}", file=sys.stderr, flush=True)
        figures = compute()
        remembered.put(key, figures)
    return figures


def _score_stored(data: Path, latents: Path) -> Figures:
    with np.load(latents) as stored:
        names, latent, seconds = stored["names"], stored["latent"], float(stored["seconds"])
    obs = ad.read_h5ad(data, backed="r").obs.loc[names]
    return score(latent, obs["batch"], obs["cell_type"]) | {"whole_seconds": seconds}


def _mean_and_range(values: np.ndarray, digits: int) -> str:
    if np.isnan(values).any():
        return ""
    mean = f"{values.mean():.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ({values.min():.{digits}f}-{values.max():.{digits}f})"


def _share(seconds: np.ndarray, published_seconds: float | None) -> str:
    if published_seconds is None or np.isnan(seconds).any():
        return ""
    return f"1/{published_seconds / seconds.mean():.1f}"


def _table(arguments: argparse.Namespace, data: Path, bench: Path) -> Iterable[list[str]]:
    """The rows, as they are found."""
    remembered = Remembered(ROOT / "benchmarks" / ".cache" / "schedule.json")
    overrides = [
        f"model={arguments.model}",
        "dataset=h5ad",
        "dataset.batch_key=batch",
        "preprocess.min_features=100",
        "trainer=cpu",
        "callbacks=[checkpoint,latent_export]",
        *arguments.override,
    ]
    model = " ".join([arguments.model, *arguments.override])
    for name in arguments.sets:
        file = data / f"{name}.h5ad"
        theirs = published(remembered, file, bench / "published" / f"{name}.npz")
        seconds = None if theirs is None else theirs["whole_seconds"]
        if theirs is not None:
            yield table_row(name, "published package", "", [theirs], seconds)
        ours = [remembered_run(remembered, file, overrides, seed, fresh=arguments.fresh) for seed in arguments.seeds]
        yield table_row(name, model, " ".join(map(str, arguments.seeds)), ours, seconds)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--model", default="scalex", help="an option of conf/model")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], metavar="SEED")
    parser.add_argument("--sets", nargs="+", choices=TARGETS, default=list(TARGETS), metavar="SET", help="some of the sets")
    parser.add_argument("--override", nargs="+", default=[], metavar="NAME=VALUE", help="further settings, as train.py takes them")
    parser.add_argument("--output", type=Path, metavar="FILE", help="markdown file to append the table to")
    parser.add_argument("--fresh", action="store_true", help="run again what has been run; needed after a change of the code")
    return parser.parse_args()


def main() -> None:
    """Run and score each set with each seed; one table."""
    arguments = _arguments()
    data = Path(os.environ.get("SCALEX_DATA", SHARED / "data"))
    bench = Path(os.environ.get("SCALEX_BENCH", SHARED / "bench"))
    if missing := [name for name in arguments.sets if not (data / f"{name}.h5ad").exists()]:
        sys.exit(f"Not in {data}: {', '.join(f'{name}.h5ad' for name in missing)}. Set SCALEX_DATA to the folder that holds them.")
    torch.set_num_threads(1)
    # Lightning advises worker processes; one thread is measured.
    warnings.filterwarnings("ignore", category=PossibleUserWarning)
    rows = list(_table(arguments, data, bench))
    show("schedule", f"{circumstances()}\n\n{markdown_table(COLUMNS, rows)}", arguments.output)


if __name__ == "__main__":
    main()
