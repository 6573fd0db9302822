from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest

from scalex.demo import demo_cells
from scalex.system.processes import made_once, process_rank, wait_for

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("variables", "expected"), [({}, 0), ({"LOCAL_RANK": "1"}, 1), ({"RANK": "5", "LOCAL_RANK": "1"}, 5), ({"SLURM_PROCID": "3"}, 3)]
)
def test_launchers_say_which_process_it_is(variables: dict[str, str], expected: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "SLURM_PROCID", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert process_rank() == expected


def test_others_wait_for_what_the_first_makes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def make() -> str:
        made.append(1)
        return "made"

    def once() -> str:
        return made_once(tmp_path / "folder" / "shared", make, lambda text, path: path.write_text(text) and None, Path.read_text)

    monkeypatch.setenv("RANK", "1")
    found: list[str] = []
    other = threading.Thread(target=lambda: found.append(once()))
    other.start()
    time.sleep(0.3)
    assert found == []
    monkeypatch.setenv("RANK", "0")
    assert once() == "made"
    other.join(5)
    assert found == ["made"]
    assert made == [1]
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["shared"]


def test_waiting_ends(tmp_path: Path) -> None:
    with pytest.raises(TimeoutError, match=r"Waited 0 s for .*run, which the first process writes. Give the folder with output="):
        wait_for(tmp_path / "run", "Give the folder with output=.", seconds=0)


def settings(
    folder: Path, cells: Path, *, devices: int, backed: bool = False, statistics: str = "running", plotted: bool = False
) -> list[str]:
    return [
        "trainer=ddp", "trainer.accelerator=cpu", f"trainer.devices={devices}", "dataset=h5ad", f"dataset.path={cells}", "seed=3",
        f"dataset.backed={str(backed).lower()}", "preprocess.min_features=0", "model.n_hidden=32", "model.max_steps=8",
        "model.batch_size=64",
        f"callbacks=[checkpoint,latent_export{',umap_plot,scores' if plotted else ''}]", f"output={folder}",
        f"model.statistics={statistics}",
    ]  # fmt: skip


def integrated(folder: Path, command: list[str], cells: Path, **options: Any) -> ad.AnnData:
    command = [*command, str(ROOT / "train.py"), *settings(folder, cells, **options)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    # The first process alone speaks.
    assert done.stderr.count("Results: ") == 1
    return ad.read_h5ad(folder / "adata.h5ad")


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cells") / "cells.h5ad"
    demo_cells(400, 400, 3).write_h5ad(path)
    return path


@pytest.mark.parametrize("backed", [False, True], ids=["memory", "file"])
def test_two_processes_give_what_one_gives(cells: Path, tmp_path: Path, backed: bool) -> None:
    """But for the order in which numbers are added up, which grows with the number of steps: after eight it is small still."""
    python = [sys.executable]
    # Both ways of embedding, which share the chunks otherwise.
    options: Any = {"backed": backed, "statistics": "domain" if backed else "running", "plotted": not backed}
    one, two = (integrated(tmp_path / str(n), python, cells, devices=n, **options) for n in (1, 2))
    np.testing.assert_allclose(two.obsm["latent"], one.obsm["latent"], atol=2e-4)
    assert list(two.obs_names) == list(one.obs_names)
    files = {path.name for path in (tmp_path / "1").iterdir()}
    assert {path.name for path in (tmp_path / "2").iterdir()} == files
    assert {"adata.h5ad", "metrics.csv", "log.txt", *([] if backed else ["umap.png", "metrics.json"])} <= files


def test_torchrun_starts_them_as_well(cells: Path, tmp_path: Path) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2"]
    found = integrated(tmp_path / "run", torchrun, cells, devices=2)
    assert found.obsm["latent"].shape == (400, 30)


def test_slurm_starts_them_as_well(cells: Path, tmp_path: Path) -> None:
    """As far as its environment goes: here are two tasks of one node."""
    running = []
    for task in ("0", "1"):
        slurm = {
            "NTASKS": "2", "NTASKS_PER_NODE": "2", "PROCID": task, "LOCALID": task, "NODEID": "0", "NODELIST": "localhost",
            "JOB_NODELIST": "localhost", "JOB_ID": "1234", "JOB_NAME": "train",
        }  # fmt: skip
        environment = os.environ | {"OMP_NUM_THREADS": "1"} | {f"SLURM_{name}": value for name, value in slurm.items()}
        command = [sys.executable, str(ROOT / "train.py"), *settings(tmp_path / "run", cells, devices=2)]
        running.append(subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True))
    said = [process.communicate(timeout=180)[1] for process in running]
    assert [process.returncode for process in running] == [0, 0], said
    # The first process alone speaks.
    assert "Results: " in said[0]
    assert said[1] == ""
    assert ad.read_h5ad(tmp_path / "run" / "adata.h5ad").obsm["latent"].shape == (400, 30)
