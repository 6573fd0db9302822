"""Commands that are stopped and typed again, and commands that want the same folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from commands import run_child, run_command, slurm, start_child, start_tasks

from scalex.runs.owner import OWNER, own_folder

ROOT = Path(__file__).parents[1]
SETTINGS = [
    "model=small", "model.max_epochs=3", "model.n_hidden=16", "model.n_latent=4", "dataset.n_cells=150", "dataset.n_features=200",
    "preprocess.min_features=0", "trainer=cpu", "callbacks=[checkpoint,latent_export]",
]  # fmt: skip
# Ends the process before the file of a name gets its final name.
KILL = """
from pathlib import Path
replace = Path.replace
Path.replace = lambda self, target: die() if Path(target).name == {name!r} else replace(self, target)
"""


def read_latents(folder: Path) -> np.ndarray:
    return np.asarray(ad.read_h5ad(folder / "adata.h5ad").obsm["latent"])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run that was not stopped."""
    folder = tmp_path_factory.mktemp("whole")
    run_child("train.py", *SETTINGS, "output=run", cwd=folder)
    return folder / "run"


@pytest.mark.parametrize("again", ["resume", "the same command"])
@pytest.mark.parametrize("name", ["config.yaml", ".composed.yaml", "metrics.csv", "last.ckpt", "best.ckpt", "adata.h5ad"])
def test_a_killed_run_gives_the_result_of_a_whole_one(tmp_path: Path, whole: Path, name: str, again: str) -> None:
    run_child("train.py", *SETTINGS, "output=run", cwd=tmp_path, before=KILL.format(name=name), returncode=-signal.SIGKILL)
    has_begun = name not in ("config.yaml", ".composed.yaml")
    if again == "resume" and has_begun:
        run_child("train.py", "resume=run", cwd=tmp_path)
    else:
        if again == "resume":
            assert "Nothing to resume in run: it holds no run" in run_child("train.py", "resume=run", cwd=tmp_path, returncode=1)
        run_child("train.py", *SETTINGS, "output=run", cwd=tmp_path)
    found = tmp_path / "run"
    assert {path.name for path in found.rglob("*")} == {path.name for path in whole.rglob("*")}
    np.testing.assert_array_equal(read_latents(found), read_latents(whole))
    pd.testing.assert_frame_equal(*(pd.read_csv(folder / "metrics.csv") for folder in (found, whole)))
    weights = [torch.load(folder / "checkpoint" / "best.ckpt", weights_only=True)["state_dict"] for folder in (found, whole)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])


def test_a_stopped_run_is_not_changed_by_another_command(tmp_path: Path) -> None:
    run_child("train.py", *SETTINGS, "output=run", cwd=tmp_path, before=KILL.format(name="adata.h5ad"), returncode=-signal.SIGKILL)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*") if "unfinished" not in path.name}
    done = run_command("train.py", *SETTINGS, "seed=7", "output=run", cwd=tmp_path)
    assert done.returncode == 1
    assert "FileExistsError: The output folder run holds another run's results (checkpoint, metrics.csv)" in done.stderr
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*")}
    assert {path: time for path, time in after.items() if path in before and path.is_file()} == {
        path: time for path, time in before.items() if path.is_file() and path.name != OWNER
    }


@pytest.mark.parametrize("name", ["config.yaml", "report.json", "projection.png", "best.ckpt", "lineage.json", "adata.h5ad"])
def test_a_killed_projection_can_be_typed_again(tmp_path: Path, trained: Any, name: str) -> None:
    trained.query.write_h5ad(tmp_path / "query.h5ad")
    arguments = [f"reference={trained.folder}", "dataset.path=query.h5ad", "append=true", "trainer=cpu"]
    run_child("project.py", *arguments, "output=out", cwd=tmp_path, before=KILL.format(name=name), returncode=-signal.SIGKILL)
    if name == "adata.h5ad":
        done = run_command("project.py", *arguments, "chunk_size=50", "output=out", cwd=tmp_path)
        assert "FileExistsError: The output folder out holds another run's results" in done.stderr
    for output in ("out", "whole"):
        done = run_command("project.py", *arguments, f"output={output}", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    files = [{path.name for path in (tmp_path / output).rglob("*")} for output in ("out", "whole")]
    assert files[0] == files[1]
    np.testing.assert_array_equal(read_latents(tmp_path / "out"), read_latents(tmp_path / "whole"))
    assert "holds another run's results" in run_command("project.py", *arguments, "output=out", cwd=tmp_path).stderr


def test_a_running_training_keeps_its_folder(tmp_path: Path) -> None:
    settings = [*SETTINGS, "model.max_epochs=null", "model.max_steps=100000000", "callbacks.checkpoint.every_seconds=0.1"]
    started = start_child("train.py", *settings, "output=run", cwd=tmp_path)
    while not (tmp_path / "run" / "checkpoint" / "last.ckpt").exists():
        assert started.process.is_alive()
        time.sleep(0.01)
    assert started.process.pid is not None
    commands = [("train.py", [*settings, "output=run"]), ("train.py", ["resume=run"])]
    commands.append(("project.py", ["reference=x", "dataset.path=query.h5ad", "output=run"]))
    for script, arguments in commands:
        done = run_command(script, *arguments, cwd=tmp_path)
        assert done.returncode == 1
        assert f"FileExistsError: Another run is using the folder run: process {started.process.pid} on " in done.stderr
        assert done.stderr.count("\n") == 1
    os.kill(started.process.pid, signal.SIGINT)
    assert "Resume with: python train.py resume=run" in started.end(1)
    assert not (tmp_path / "run" / OWNER).exists()


def test_resuming_claims_the_folder_before_it_is_checked(tmp_path: Path, whole: Path) -> None:
    with own_folder(whole):
        done = run_command("train.py", f"resume={whole}", cwd=tmp_path)
    assert "Another run is using the folder" in done.stderr


@pytest.mark.parametrize("script", ["train.py", "project.py"])
def test_runs_that_start_together_have_different_default_folders(tmp_path: Path, script: str) -> None:
    code = "import runpy, sys; from datetime import datetime; from hydra.core import utils; from omegaconf import OmegaConf\n"
    code += f"sys.path.insert(0, {str(ROOT)!r}); sys.argv = [{str(ROOT / script)!r}, '--cfg', 'job', '--resolve', '-p', 'output']\n"
    code += "runpy.run_path(sys.argv[0], run_name='__main__')"
    names = {subprocess.check_output([sys.executable, "-c", code], cwd=tmp_path, text=True).strip() for _ in range(2)}
    assert len(names) == 2
    assert all(name.startswith("outputs/2") and len(name) == len("outputs/2026-01-31_12-00-00-123456") for name in names)


def test_of_several_processes_the_first_names_the_default_folder(tmp_path: Path) -> None:
    arguments = [*SETTINGS, "trainer=ddp", "trainer.accelerator=cpu"]
    for task in start_tasks("train.py", *arguments, cwd=tmp_path, launcher=lambda task: slurm(task, NTASKS_PER_NODE="2")):
        task.end()
    (folder,) = (tmp_path / "outputs").iterdir()
    assert (folder / "adata.h5ad").exists()


@pytest.mark.parametrize(("script", "argument"), [("train.py", "output="), ("train.py", "resume="), ("project.py", "output=null")])
def test_an_empty_name_of_a_folder_is_refused(tmp_path: Path, script: str, argument: str) -> None:
    arguments = ["reference=run", "dataset.path=query.h5ad"] if script == "project.py" else []
    done = run_command(script, *arguments, argument, cwd=tmp_path)
    assert done.returncode == 1
    setting = argument.split("=")[0]
    assert done.stderr == f"ValueError: {setting}= is empty: name a folder ({setting}=. is the current one), or omit it.\n"
    assert list(tmp_path.iterdir()) == []


def test_a_broken_file_of_settings_is_said(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    for text, reason in (("a: [", "while parsing a flow node"), ("[1]", "it holds no settings")):
        (tmp_path / "run" / ".composed.yaml").write_text(text)
        done = run_command("train.py", "resume=run", cwd=tmp_path)
        assert done.returncode == 1
        assert done.stderr.startswith(f"ValueError: run/.composed.yaml is broken ({reason}")
