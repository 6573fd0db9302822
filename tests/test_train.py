"""The command `python train.py`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from commands import run_child, run_command, start_child
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

import scalex
from scalex.commands.train import run
from scalex.data import CellBatch
from scalex.nn import SparseRows
from scalex.system.overrides import format_for_shell, format_override

ROOT = Path(__file__).parents[1]
QUICK = [
    "model=small",
    "model.max_epochs=3",
    "model.n_hidden=16",
    "model.correct_at=[]",
    "dataset.n_cells=200",
    "dataset.n_features=400",
    "preprocess.min_features=50",
    "trainer=cpu",
]
FIGURES = {"scores.pdf", "scores.png", "umap.pdf", "umap.png"}
FILES = {
    "adata.h5ad", "checkpoint", "config.yaml", "log.txt", "metrics.csv", "metrics.json", "report.html", ".composed.yaml", *FIGURES,
}  # fmt: skip


def compose_config(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose("train", overrides=[*overrides])


def test_a_run_writes_its_folder(tmp_path: Path) -> None:
    done = run_command("train.py", *QUICK, "output=run", cwd=tmp_path)
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
    assert scores.keys() >= {"entropy_mixing", "mixed", "shared", "kept", "silhouette", "ari", "nmi", "wrong", "total"}
    assert scores == pytest.approx(dict(adata.uns["scalex"]["scores"]))
    table = pd.read_csv(folder / "metrics.csv")
    assert table["epoch"].tolist() == [0, 1, 2]
    assert (table["loss"] > 0).all()
    log = (folder / "log.txt").read_text()
    for message in ("Cells: 200 x 400", "min_features", "min_cells", "Model: ", "Epoch 2: loss", "Scores: "):
        assert message in log
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["trainer"]["max_epochs"] == 3
    for name in ("best", "last"):
        torch.load(folder / "checkpoint" / f"{name}.ckpt", weights_only=True)
    module = scalex.ScalexModule.from_checkpoint(folder / "checkpoint" / "best.ckpt")
    batch = CellBatch(SparseRows.of(adata.X), torch.zeros(adata.n_obs, dtype=torch.int64), torch.arange(adata.n_obs))
    (again,) = module.embed([batch])
    np.testing.assert_array_equal(again.latent_CZ.numpy(), adata.obsm["latent"])


def test_help_and_a_misspelt_option_need_no_slow_imports(tmp_path: Path) -> None:
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
    for message in ("python train.py -m", "dataset     demo            Simulated cells", "n_latent=30", "max_steps"):
        assert message in helped.stdout
    misspelt = subprocess.run([*run, "model.n_latnt=8"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert misspelt.returncode == 1
    assert "IMPORTED []" in misspelt.stdout
    assert "n_latnt" in misspelt.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_killed_run_resumes_as_if_it_had_not_been(tmp_path: Path) -> None:
    settings = [
        *QUICK,
        "model.max_epochs=9",
        "callbacks=[checkpoint,latent_export]",
        "callbacks.checkpoint.every_seconds=0",
        "model.correct_at=[0.5,0.8]",
    ]
    # The last bits depend on what a process has done before, so each run has its own process.
    run_child("train.py", *settings, "output=whole", cwd=tmp_path)
    # The run is killed within an epoch, after a checkpoint.
    before = """
from scalex import ScalexModule
training_step, steps = ScalexModule.training_step, []
def step(self, *minibatch):
    steps.append(1)
    if len(steps) == 12:
        die()
    return training_step(self, *minibatch)
ScalexModule.training_step = step
"""
    run_child("train.py", *settings, "output=killed", cwd=tmp_path, before=before, returncode=-signal.SIGKILL)
    assert (tmp_path / "killed" / "checkpoint" / "last.ckpt").exists()
    assert not (tmp_path / "killed" / "adata.h5ad").exists()
    run_child("train.py", "resume=killed", cwd=tmp_path)
    latents = [ad.read_h5ad(tmp_path / name / "adata.h5ad").obsm["latent"] for name in ("whole", "killed")]
    np.testing.assert_array_equal(*latents)
    pd.testing.assert_frame_equal(*(pd.read_csv(tmp_path / name / "metrics.csv") for name in ("whole", "killed")))


@pytest.mark.parametrize("setting", ["model.max_steps=5", "seed=3", "+nonsense=1", "trainer=cpu"])
def test_resume_refuses_other_settings(tmp_path: Path, setting: str) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".composed.yaml").write_text("output: run\n")
    done = run_command("train.py", "resume=run", setting, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(f"ValueError: resume= continues a run with its own settings, and {setting} would change them. Omit it")
    assert "Traceback" not in done.stderr


def test_ctrl_c_logs_how_to_resume(tmp_path: Path) -> None:
    settings = [*QUICK, "model.max_epochs=null", "model.max_steps=100000000", "callbacks.checkpoint.every_seconds=0.1"]
    started = start_child("train.py", *settings, "output=run", cwd=tmp_path)
    while not (tmp_path / "run" / "checkpoint" / "last.ckpt").exists():
        assert started.process.is_alive()
        time.sleep(0.01)
    assert started.process.pid is not None
    os.kill(started.process.pid, signal.SIGINT)
    message = started.end(130)
    assert "Resume with: python train.py resume=run" in message
    assert "Traceback" not in message


def test_a_sweep_writes_a_table_of_settings_and_scores(tmp_path: Path) -> None:
    done = run_command("train.py", "-m", *QUICK, "model.n_latent=2,3", "seed=1", "output=sweep", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    table = pd.read_csv(tmp_path / "sweep" / "sweep.csv")
    assert table["model.n_latent"].tolist() == [2, 3]
    assert list(table.columns[:2]) == ["run", "model.n_latent"]
    assert {path.name for path in (tmp_path / "sweep").iterdir()} == {"0", "1", "multirun.yaml", "sweep.csv", "sweep.html"}
    assert (tmp_path / "sweep" / "sweep.html").read_text().count('<img alt="The UMAP of run ') == 2
    for name, total in zip(table["run"], table["total"], strict=True):
        assert json.loads((tmp_path / "sweep" / str(name) / "metrics.json").read_text())["total"] == pytest.approx(total)
        assert {path.name for path in (tmp_path / "sweep" / str(name)).iterdir()} == FILES


def test_a_sweep_trains_each_run_in_one_process(tmp_path: Path) -> None:
    settings = [*QUICK, "trainer=ddp", "trainer.accelerator=cpu", "seed=1,2", "output=sweep"]
    done = run_command("train.py", "-m", *settings, cwd=tmp_path)
    assert done.returncode == 1
    assert "Each run of a sweep trains in one process, but the trainer has 2. Use trainer=auto" in done.stderr
    assert {path.name for path in (tmp_path / "sweep").glob("*/*")} == {"config.yaml", ".composed.yaml", "log.txt"}


def test_each_run_of_a_sweep_is_a_run_of_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_SILENT", "true")
    run_command("train.py", "-m", *QUICK, "callbacks=[latent_export]", "logger=wandb", "seed=1,2", "output=sweep", cwd=tmp_path)
    assert len([*(tmp_path / "sweep" / "wandb").rglob("*.wandb")]) == 2


@pytest.mark.slow
def test_submitit_runs_a_sweep(tmp_path: Path) -> None:
    settings = [*QUICK, "model.n_latent=3", "callbacks=[latent_export]", "output=sweep"]
    run_child("train.py", "-m", "launch=local", *settings, cwd=tmp_path)
    assert {path.name for path in (tmp_path / "sweep").iterdir()} == {"0", ".submitit", "multirun.yaml"}
    assert ad.read_h5ad(tmp_path / "sweep" / "0" / "adata.h5ad").obsm["latent"].shape[1] == 3


def test_an_error_of_the_user_is_one_line(tmp_path: Path) -> None:
    for arguments, message in (
        (["dataset=h5ad", "dataset.path=none.h5ad"], "FileNotFoundError: No such file: none.h5ad"),
        (["dataset=h5ad"], "ValueError: Missing settings: dataset.path. Set them on the command line: dataset.path=..."),
    ):
        done = run_command("train.py", *arguments, f"output=run{len(arguments)}", cwd=tmp_path)
        assert done.returncode == 1
        assert message in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            "score=totl",
            "score=totl: one of total, biology, entropy_mixing, mixed, shared, kept, kept_clusters, silhouette, ari, nmi, umap_",
        ),
        (
            "callbacks=[checkpoint]",
            "ValueError: callbacks=[checkpoint]: none of them keeps the latents. Add latent_export: callbacks=[latent_export,...].",
        ),
        ("callbacks=[]", "ValueError: callbacks=[]: none of them keeps the latents."),
    ],
)
def test_settings_that_would_fail_at_the_end_are_refused_before_cells_are_read(tmp_path: Path, setting: str, message: str) -> None:
    done = run_command("train.py", *QUICK, setting, "output=run", cwd=tmp_path)
    assert done.returncode == 1
    assert message in done.stderr
    assert not (tmp_path / "run").exists()


def test_a_score_that_cannot_be_computed_is_an_error_after_all_is_written(tmp_path: Path) -> None:
    done = run_command("train.py", *QUICK, "callbacks=[latent_export,scores]", "score=umap_silhouette", "output=run", cwd=tmp_path)
    assert done.returncode == 1
    names = "entropy_mixing, mixed, shared, kept, kept_clusters, ari, nmi, silhouette, biology, total"
    line = f"score=umap_silhouette cannot be computed for these cells. Available: {names}. All results are in run."
    assert f"ValueError: {line}" in done.stderr
    assert {"adata.h5ad", "metrics.json", "metrics.csv"} <= {path.name for path in (tmp_path / "run").iterdir()}


NASTY = 'a=b (c) [d] {e} #f, g\'s "h" $i é 雪\\'


def test_a_folder_may_have_any_name(tmp_path: Path) -> None:
    settings = [*QUICK, "callbacks=[checkpoint,latent_export]"]
    done = run_command("train.py", *settings, format_override("output", NASTY), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [path.name for path in tmp_path.iterdir()] == [NASTY]
    assert yaml.safe_load((tmp_path / NASTY / "config.yaml").read_text())["output"] == NASTY
    again = run_command("train.py", *settings, format_override("output", NASTY), cwd=tmp_path)
    assert f"resume a stopped training with python train.py {format_for_shell('resume', NASTY)}\n" in again.stderr
    assert "is finished" in run_command("train.py", format_override("resume", NASTY), cwd=tmp_path).stderr


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("output='a${b}'", "output: Interpolation key 'b' not found. ${} refers to the value of another"),
        (
            format_override("output", "a${b}"),
            "ValueError: output=a${b}: the name of a folder cannot contain ${, which refers to another",
        ),
        ("resume='a${b}'", "resume: "),
    ],
)
def test_an_interpolation_in_a_folder_name_is_an_error_in_one_line(tmp_path: Path, output: str, message: str) -> None:
    done = run_command("train.py", output, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_folder_may_be_a_number(tmp_path: Path) -> None:
    assert run_command("train.py", *QUICK, "callbacks=[latent_export]", "output=7", cwd=tmp_path).returncode == 0
    assert (tmp_path / "7" / "adata.h5ad").exists()


def test_a_run_returns_its_score(tmp_path: Path) -> None:
    cfg = compose_config(*QUICK, "callbacks=[latent_export,scores,checkpoint]", "score=nmi", f"output={tmp_path}/run")
    score = run(cfg)
    assert score == pytest.approx(json.loads((tmp_path / "run" / "metrics.json").read_text())["nmi"])


def test_trackers_get_losses_scores_and_figures(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run(compose_config(*QUICK, "logger=[tensorboard,wandb]", f"output={tmp_path}/run"))
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard" / "run")).Reload()
    tags = events.Tags()
    assert {"train/loss", "train/kl", "score/total", "score/nmi"} <= set(tags["scalars"])
    assert set(tags["images"]) == {"umap", "scores"}
    assert len(events.Scalars("train/loss")) == 3
    written = (tmp_path / "run" / "wandb").rglob("*")
    assert any(path.suffix == ".wandb" for path in written)
    logged = [path.name for path in (tmp_path / "run" / "wandb").rglob("*.png")]
    assert {name for name in ("umap", "scores") if any(path.startswith(name) for path in logged)} == {"umap", "scores"}
    assert len(pd.read_csv(tmp_path / "run" / "metrics.csv")) == 3


def test_results_are_never_overwritten(tmp_path: Path) -> None:
    cfg = compose_config(*QUICK, f"output={tmp_path}/run")
    run(cfg)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    with pytest.raises(FileExistsError, match="holds another run's results"):
        run(cfg)
    with pytest.raises(FileExistsError, match="is finished"):
        run(compose_config(f"resume={tmp_path}/run"))
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")} == before


@pytest.mark.parametrize(("n_bytes", "whole"), [(60_000, set()), (350_000, {"best.ckpt", "last.ckpt"})])
def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path, n_bytes: int, whole: set[str]) -> None:
    settings = [*QUICK, "model.n_latent=10", "callbacks=[checkpoint,latent_export]", "output=run"]
    # HDF5 never closes a file that it could not write, so the run has its own process.
    before = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({n_bytes},) * 2)"
    message = run_child("train.py", *settings, cwd=tmp_path, before=before, returncode=1)
    assert "Error: The disk has no space left for run/" in message
    left = {path.name for path in (tmp_path / "run").rglob("*")}
    assert left == {"config.yaml", ".composed.yaml", "log.txt", "metrics.csv", "checkpoint", *whole}


@pytest.mark.parametrize("experiment", [path.stem for path in sorted((ROOT / "conf" / "experiment").glob("*.yaml"))])
def test_each_experiment_runs(tmp_path: Path, experiment: str) -> None:
    quick = [setting for setting in QUICK if setting != "model=small"]
    run(compose_config(f"experiment={experiment}", *quick, "model.max_steps=2", f"output={tmp_path}/run"))
    assert (tmp_path / "run" / "adata.h5ad").exists()


def test_the_command_and_scalex_give_the_same_latents(tmp_path: Path) -> None:
    adata = scalex.demo_cells(200, 400)
    adata.write_h5ad(tmp_path / "cells.h5ad")
    settings = ["dataset=h5ad", f"dataset.path={tmp_path}/cells.h5ad", "dataset.batch_key=batch", "preprocess.min_features=50"]
    run(compose_config("experiment=paper", *settings, "model.max_steps=20", "trainer=cpu", "seed=7", f"output={tmp_path}/run"))
    called = scalex.SCALEX(adata, min_features=50, max_iteration=20, seed=7, ignore_umap=True)
    written = ad.read_h5ad(tmp_path / "run" / "adata.h5ad")
    np.testing.assert_array_equal(called.obsm["latent"], written.obsm["latent"])
