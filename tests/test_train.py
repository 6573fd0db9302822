"""`python train.py`, as a person types it."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

import scalex

ROOT = Path(__file__).parents[1]
QUICK = [
    "model=small",
    "model.max_epochs=3",
    "model.n_hidden=16",
    "dataset.n_cells=200",
    "dataset.n_features=400",
    "preprocess.min_features=50",
    "trainer=cpu",
]
FILES = {"adata.h5ad", "checkpoint", "config.yaml", "log.txt", "metrics.csv", "metrics.json", "umap.pdf", "umap.png", ".composed.yaml"}


def typed(*arguments: str, cwd: Path, timeout: float = 300) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "train.py", *arguments], cwd=cwd, capture_output=True, text=True, timeout=timeout, check=False
    )


@pytest.fixture(scope="module")
def train() -> ModuleType:
    spec = importlib.util.spec_from_file_location("train", ROOT / "train.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("train", overrides=[*overrides])


def test_the_run_folder(tmp_path: Path) -> None:
    done = typed(*QUICK, "output=run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Results: run" in done.stderr
    folder = tmp_path / "run"
    assert {path.name for path in folder.iterdir()} == FILES
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert {path.name for path in (folder / "checkpoint").iterdir()} == {"best.ckpt", "last.ckpt"}

    adata = ad.read_h5ad(folder / "adata.h5ad")
    assert adata.obsm["latent"].shape == (adata.n_obs, 30)
    assert adata.obsm["X_umap"].shape == (adata.n_obs, 2)
    assert {"batch", "cell_type", "domain", "leiden"} <= set(adata.obs)
    assert adata.raw.shape[1] >= adata.n_vars
    assert adata.X.max() <= 1
    parameters = adata.uns["scalex"]["parameters"]
    assert parameters["model"]["max_epochs"] == 3
    assert parameters["preprocess"]["min_features"] == 50

    scores = json.loads((folder / "metrics.json").read_text())
    assert scores.keys() >= {"entropy_mixing", "silhouette", "ari", "nmi", "total"}
    assert scores == pytest.approx(dict(adata.uns["scalex"]["scores"]))
    table = pd.read_csv(folder / "metrics.csv")
    assert table["epoch"].tolist() == [0, 1, 2]
    assert (table["loss"] > 0).all()
    log = (folder / "log.txt").read_text()
    for said in ("Cells: 200 x 400", "min_features", "min_cells", "Model: ", "Epoch 2: loss", "Scores: "):
        assert said in log
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["trainer"]["max_epochs"] == 3
    for name in ("best", "last"):
        torch.load(folder / "checkpoint" / f"{name}.ckpt", weights_only=True)
    module = scalex.ScalexModule.from_checkpoint(folder / "checkpoint" / "best.ckpt")
    again = module.predict_step(chunk_of(adata)).latent_CZ.detach().numpy()
    np.testing.assert_array_equal(again, adata.obsm["latent"])


def chunk_of(adata: ad.AnnData) -> scalex.data.Chunk:
    from scalex.data import Chunk

    return Chunk(adata.X, torch.zeros(adata.n_obs, dtype=torch.int64), torch.arange(adata.n_obs))


def test_help_and_a_misspelt_option_are_answered_before_anything_heavy_is_imported(tmp_path: Path) -> None:
    watched = (
        "import atexit, runpy, sys\n"
        "heavy = ('torch', 'lightning', 'scanpy', 'anndata', 'pandas', 'numpy', 'matplotlib', 'wandb')\n"
        "atexit.register(lambda: print('IMPORTED', [name for name in heavy if name in sys.modules]))\n"
        f"sys.argv[0] = {str(ROOT / 'train.py')!r}\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    run = [sys.executable, "-c", watched]
    helped = subprocess.run([*run, "--help"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert helped.returncode == 0
    assert "IMPORTED []" in helped.stdout
    for said in ("python train.py -m", "dataset: base, demo, files, h5ad", "n_latent: 30", "max_steps"):
        assert said in helped.stdout
    misspelt = subprocess.run([*run, "model.n_latnt=8"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert misspelt.returncode == 1
    assert "IMPORTED []" in misspelt.stdout
    assert "n_latnt" in misspelt.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_was_killed_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    settings = [*QUICK, "model.max_epochs=400", "callbacks=[checkpoint,latent_export]", "callbacks.checkpoint.every_seconds=0.1"]
    whole = typed(*settings, "output=whole", cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    process = subprocess.Popen([sys.executable, ROOT / "train.py", *settings, "output=killed"], cwd=tmp_path, stderr=subprocess.DEVNULL)
    last = tmp_path / "killed" / "checkpoint" / "last.ckpt"
    while not last.exists():
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "killed" / "adata.h5ad").exists()
    resumed = typed("resume=killed", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    latents = [ad.read_h5ad(tmp_path / name / "adata.h5ad").obsm["latent"] for name in ("whole", "killed")]
    np.testing.assert_array_equal(*latents)
    pd.testing.assert_frame_equal(*(pd.read_csv(tmp_path / name / "metrics.csv") for name in ("whole", "killed")))


def test_ctrl_c_says_how_to_go_on(tmp_path: Path) -> None:
    settings = [*QUICK, "model.max_epochs=100000", "callbacks.checkpoint.every_seconds=0.1"]
    process = subprocess.Popen(
        [sys.executable, ROOT / "train.py", *settings, "output=run"], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    while not (tmp_path / "run" / "checkpoint" / "last.ckpt").exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "Go on with: python train.py resume=run" in said
    assert "Traceback" not in said


def test_a_sweep_makes_a_table_of_settings_and_scores(tmp_path: Path) -> None:
    done = typed("-m", *QUICK, "model.n_latent=2,3", "seed=1", "output=sweep", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "sweep" / "sweep.csv")
    assert table["model.n_latent"].tolist() == [2, 3]
    assert list(table.columns[:2]) == ["run", "model.n_latent"]
    for run, total in zip(table["run"], table["total"], strict=True):
        assert json.loads((tmp_path / "sweep" / str(run) / "metrics.json").read_text())["total"] == pytest.approx(total)
        assert {path.name for path in (tmp_path / "sweep" / str(run)).iterdir()} == FILES


def test_the_runs_of_a_sweep_are_jobs_of_submitit(tmp_path: Path) -> None:
    done = typed("-m", "launch=local", *QUICK, "model.n_latent=3", "callbacks=[latent_export]", "output=sweep", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in (tmp_path / "sweep").iterdir()} == {"0", ".submitit", "multirun.yaml"}
    assert ad.read_h5ad(tmp_path / "sweep" / "0" / "adata.h5ad").obsm["latent"].shape[1] == 3


def test_an_error_of_the_user_is_one_line(tmp_path: Path) -> None:
    for arguments, said in (
        (["dataset=h5ad", "dataset.path=none.h5ad"], "FileNotFoundError: No such file: none.h5ad"),
        (["dataset=h5ad"], "ValueError: Not given: dataset.path. Say it on the command line: dataset.path=..."),
    ):
        done = typed(*arguments, f"output=run{len(arguments)}", cwd=tmp_path)
        assert done.returncode == 1
        assert said in done.stderr
        assert "Traceback" not in done.stderr


def test_a_run_returns_its_score(train: ModuleType, tmp_path: Path) -> None:
    cfg = composed(*QUICK, "callbacks=[latent_export,scores,checkpoint]", "score=nmi", f"output={tmp_path}/run")
    score = train.run(cfg)
    assert score == pytest.approx(json.loads((tmp_path / "run" / "metrics.json").read_text())["nmi"])


def test_trackers_get_settings_losses_scores_and_picture(train: ModuleType, tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train.run(composed(*QUICK, "logger=[tensorboard,wandb]", f"output={tmp_path}/run"))
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    tags = events.Tags()
    assert {"train/loss", "train/kl", "score/total", "score/nmi"} <= set(tags["scalars"])
    assert tags["images"] == ["umap"]
    assert len(events.Scalars("train/loss")) == 3
    written = (tmp_path / "run" / "wandb").rglob("*")
    assert any(path.suffix == ".wandb" for path in written)
    assert any(path.name.startswith("umap") and path.suffix == ".png" for path in (tmp_path / "run" / "wandb").rglob("*"))
    assert len(pd.read_csv(tmp_path / "run" / "metrics.csv")) == 3


def test_results_are_never_overwritten(train: ModuleType, tmp_path: Path) -> None:
    cfg = composed(*QUICK, f"output={tmp_path}/run")
    train.run(cfg)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    with pytest.raises(FileExistsError, match="holds another run's results"):
        train.run(cfg)
    with pytest.raises(FileExistsError, match="is finished"):
        train.run(composed(f"resume={tmp_path}/run"))
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == before


@pytest.mark.parametrize(("largest_file", "whole"), [(60_000, set()), (350_000, {"best.ckpt", "last.ckpt"})])
def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path, largest_file: int, whole: set[str]) -> None:
    limited = (
        "import resource, runpy, sys\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({largest_file},) * 2)\n"
        f"sys.argv[0] = {str(ROOT / 'train.py')!r}\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    settings = [*QUICK, "model.n_latent=10", "callbacks=[checkpoint,latent_export]", "output=run"]
    done = subprocess.run(
        [sys.executable, "-c", limited, *settings], cwd=tmp_path, capture_output=True, text=True, check=False, env={**os.environ}
    )
    assert done.returncode != 0
    assert "Error" in done.stderr
    left = {path.name for path in (tmp_path / "run").rglob("*")}
    assert left == {"config.yaml", ".composed.yaml", "log.txt", "metrics.csv", "checkpoint", *whole}


@pytest.mark.parametrize("experiment", [path.stem for path in sorted((ROOT / "conf" / "experiment").glob("*.yaml"))])
def test_each_experiment_runs(train: ModuleType, tmp_path: Path, experiment: str) -> None:
    quick = [setting for setting in QUICK if setting != "model=small"]
    train.run(composed(f"experiment={experiment}", *quick, "model.max_steps=2", f"output={tmp_path}/run"))
    assert (tmp_path / "run" / "adata.h5ad").exists()


def test_the_doors_agree(train: ModuleType, tmp_path: Path) -> None:
    adata = scalex.demo_cells(200, 400)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    settings = ["dataset=h5ad", f"dataset.path={tmp_path}/cells.h5ad", "dataset.batch_key=batch", "preprocess.min_features=50"]
    train.run(composed("experiment=paper", *settings, "model.max_steps=20", "trainer=cpu", "seed=7", f"output={tmp_path}/run"))
    called = scalex.SCALEX(adata, min_features=50, max_iteration=20, seed=7, ignore_umap=True)
    written = ad.read_h5ad(tmp_path / "run" / "adata.h5ad")
    np.testing.assert_array_equal(called.obsm["latent"], written.obsm["latent"])
