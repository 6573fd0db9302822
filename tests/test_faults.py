"""Faults during a run of cells in files, and the files that are left."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
import torch
from commands import run_child, start_child, start_tasks

from scalex.demo import demo_cells

SETTINGS = [
    "dataset=h5ad", "dataset.path=cells.h5ad", "dataset.batch_key=batch", "dataset.backed=true", "preprocess.min_features=0", "trainer=cpu",
    "model=paper", "model.n_hidden=16", "model.max_steps=30", "callbacks=[checkpoint,latent_export]",
    "callbacks.checkpoint.every_seconds=0.1",
]  # fmt: skip


@pytest.fixture
def settings(tmp_path: Path) -> list[str]:
    demo_cells(400, 400, 2).write_h5ad(tmp_path / "cells.h5ad")
    return SETTINGS


@pytest.fixture(scope="module")
def expected_latents(tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """Return the latents of a run without faults."""
    folder = tmp_path_factory.mktemp("expected_latents")
    demo_cells(400, 400, 2).write_h5ad(folder / "cells.h5ad")
    run_child("train.py", *SETTINGS, "output=run", cwd=folder)
    return read_latents(folder / "run")


def read_latents(folder: Path) -> np.ndarray:
    return np.asarray(ad.read_h5ad(folder / "adata.h5ad").obsm["latent"])


def touch(path: Path) -> None:
    os.utime(path, (1, 1))


@pytest.mark.parametrize(("damage", "message"), [(touch, "changed while it was being read"), (Path.unlink, "is gone")])
def test_a_source_that_changes_or_disappears_stops_the_run(
    settings: list[str], tmp_path: Path, damage: Callable[[Path], None], message: str
) -> None:
    started = start_child("train.py", *settings, "model.max_steps=100000000", "output=run", cwd=tmp_path)
    last = tmp_path / "run" / "checkpoint" / "last.ckpt"
    while not last.exists():
        assert started.process.is_alive()
        time.sleep(0.01)
    damage(tmp_path / "cells.h5ad")
    line = started.end(1).splitlines()[-1]
    assert line.startswith("OSError: ")
    assert f"{tmp_path / 'cells.h5ad'} {message}" in line
    assert torch.load(last, weights_only=True)["global_step"] > 0
    assert not (tmp_path / "run" / "adata.h5ad").exists()


@pytest.mark.slow
def test_if_one_of_two_processes_is_killed_the_run_can_be_resumed(settings: list[str], tmp_path: Path) -> None:
    settings = [*settings, "trainer=ddp", "trainer.accelerator=cpu", "callbacks.checkpoint.every_seconds=0"]
    for task in start_tasks("train.py", *settings, "output=whole", cwd=tmp_path):
        task.end()
    # The second process is killed after the first has written a checkpoint. In the meantime the first waits for the second.
    killed = """
import time
from scalex.callbacks import Checkpoint
write = Checkpoint._write
def write_and_die(self, trainer):
    write(self, trainer)
    while not (self.folder / "last.ckpt").exists():
        time.sleep(0.01)
    die()
Checkpoint._write = write_and_die
"""
    one, other = start_tasks("train.py", *settings, "output=killed", cwd=tmp_path, before=("", killed))
    other.end(-signal.SIGKILL)
    line = one.end(1).splitlines()[-1]
    assert line.startswith("ConnectionError: Another of the 2 processes has stopped")
    assert "resume=killed" in line
    assert (tmp_path / "killed" / "checkpoint" / "last.ckpt").exists()
    assert not (tmp_path / "killed" / "adata.h5ad").exists()
    for task in start_tasks("train.py", "resume=killed", cwd=tmp_path):
        task.end()
    np.testing.assert_array_equal(read_latents(tmp_path / "killed"), read_latents(tmp_path / "whole"))


@pytest.mark.parametrize("while_writing", ["cache", "results"])
def test_a_run_that_is_killed_while_writing_can_be_resumed(
    settings: list[str], tmp_path: Path, expected_latents: np.ndarray, while_writing: str
) -> None:
    settings = [*settings, "dataset.cache=cache", "callbacks.latent_export.expression=true"]
    unfinished = {"cache": "inputs", "results": "adata"}[while_writing]
    before = f"""
from scalex.h5ad.block_writer import BlockWriter
finish = BlockWriter.finish
BlockWriter.finish = lambda self, **elements: die() if "{unfinished}" in self._file.filename else finish(self, **elements)
"""
    run_child("train.py", *settings, "output=killed", cwd=tmp_path, before=before, returncode=-signal.SIGKILL)
    assert not (tmp_path / "killed" / "adata.h5ad").exists()
    assert len(list((tmp_path / "cache").glob("inputs-*"))) == (while_writing == "results")
    run_child("train.py", "resume=killed", cwd=tmp_path)
    np.testing.assert_array_equal(read_latents(tmp_path / "killed"), expected_latents)


# The cache has 890,000 bytes, the results 430,000, a checkpoint 240,000.
@pytest.mark.parametrize("while_writing", ["cache", "results"])
def test_a_run_that_fills_the_disk_can_be_resumed(
    settings: list[str], tmp_path: Path, expected_latents: np.ndarray, while_writing: str
) -> None:
    limited = [*settings, "output=run", *(["dataset.cache=cache"] if while_writing == "cache" else [])]
    before = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (300_000,) * 2)"
    output = run_child("train.py", *limited, cwd=tmp_path, before=before, returncode=1)
    left = {path.name for path in (tmp_path / "run").rglob("*")}
    if while_writing == "cache":
        assert "OSError: The disk has no space left for cache/" in output
        assert list((tmp_path / "cache").iterdir()) == []
        assert left == {"config.yaml", ".composed.yaml", "log.txt"}
    else:
        assert "OSError: The disk has no space left for run/adata.h5ad. The incomplete file was removed. Free some space" in output
        assert left == {"config.yaml", ".composed.yaml", "log.txt", "metrics.csv", "checkpoint", "best.ckpt", "last.ckpt"}
    run_child("train.py", "resume=run", cwd=tmp_path)
    np.testing.assert_array_equal(read_latents(tmp_path / "run"), expected_latents)


def test_two_runs_can_write_one_cache_at_the_same_time(settings: list[str], tmp_path: Path, expected_latents: np.ndarray) -> None:
    settings = [*settings, "dataset.cache=cache"]
    # Each run waits before its cache is complete until the other has reached the same point.
    meet = """
import time
from pathlib import Path
import scalex.training.input_cache
finish = scalex.training.input_cache.BlockWriter.finish
def met(self, **elements):
    finish(self, **elements)
    Path(f"met-{os.getpid()}").touch()
    while len(list(Path().glob("met-*"))) < 2:
        time.sleep(0.01)
scalex.training.input_cache.BlockWriter.finish = met
"""
    running = [start_child("train.py", *settings, f"output={name}", cwd=tmp_path, before=meet) for name in ("one", "two")]
    for started in running:
        started.end()
    assert len(list((tmp_path / "cache").iterdir())) == 1
    for name in ("one", "two"):
        np.testing.assert_array_equal(read_latents(tmp_path / name), expected_latents)
