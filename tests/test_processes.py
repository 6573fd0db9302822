from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
from commands import run_child, run_command, slurm, start_tasks, torchrun

import scalex
from scalex.demo import demo_cells
from scalex.runs.folder import COMPOSED
from scalex.runs.owner import own_folder
from scalex.system.overrides import format_override
from scalex.system.processes import ignore_launcher, is_first, make_once, read_launch, uses_several_processes, wait_for

ROOT = Path(__file__).parents[1]


@pytest.fixture
def set_environment(monkeypatch: pytest.MonkeyPatch) -> Callable[[Mapping[str, str]], None]:
    """Set the environment variables of a launcher, and remove all others of launchers."""

    def set_variables(variables: Mapping[str, str]) -> None:
        for name in os.environ:
            if name.startswith(("SLURM_", "TORCHELASTIC_", "MASTER_")) or name.endswith(("RANK", "WORLD_SIZE")):
                monkeypatch.delenv(name)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    set_variables({})
    return set_variables


SetEnvironment = Callable[[Mapping[str, str]], None]


@pytest.mark.parametrize(
    ("variables", "first"),
    [
        ({}, True),
        ({"LOCAL_RANK": "1"}, False),
        ({"LOCAL_RANK": "0", "NODE_RANK": "1"}, False),
        ({"LOCAL_RANK": "0", "NODE_RANK": "0"}, True),
        (torchrun(0), True),
        (torchrun(1), False),
        (slurm(0), True),
        (slurm(1), False),
        # In an interactive shell of Slurm and in a script of sbatch, Lightning starts the other processes.
        (slurm(0, JOB_NAME="bash") | {"LOCAL_RANK": "1"}, False),
        ({"SLURM_PROCID": "0", "SLURM_JOB_ID": "1234", "LOCAL_RANK": "1"}, False),
        # torchrun runs within a Slurm task.
        (slurm(0) | torchrun(1), False),
        (slurm(1) | torchrun(0), True),
    ],
)
def test_the_launcher_determines_the_first_process(variables: dict[str, str], first: bool, set_environment: SetEnvironment) -> None:
    set_environment(variables)
    assert is_first() is first
    with ignore_launcher():
        assert is_first()
    assert is_first() is first


def test_all_processes_of_a_launch_have_the_same_name_which_differs_between_launches(set_environment: SetEnvironment) -> None:
    def name(variables: Mapping[str, str]) -> str:
        set_environment(variables)
        return read_launch().name

    launches = [
        [torchrun(0), torchrun(1)],
        [torchrun(0, "b"), torchrun(1, "b")],
        [torchrun(0) | {"TORCHELASTIC_RUN_ID": "c"}, torchrun(1) | {"TORCHELASTIC_RUN_ID": "c"}],
        [slurm(0), slurm(1)],
        [slurm(0, STEP_ID="1"), slurm(1, STEP_ID="1")],
        [slurm(0, JOB_ID="99"), slurm(1, JOB_ID="99")],
        [slurm(0, RESTART_COUNT="1"), slurm(1, RESTART_COUNT="1")],
        [{}, {"LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_PORT": "1234"}],
    ]
    names = [{name(process) for process in processes} for processes in launches]
    assert all(len(of_one) == 1 for of_one in names)
    assert len(set.union(*names)) == len(launches)
    # On two machines, torchrun creates two folders for errors.
    nodes = [torchrun(rank, str(rank)) | {"LOCAL_WORLD_SIZE": "1"} for rank in (0, 1)]
    assert name(nodes[0]) == name(nodes[1])


@pytest.mark.parametrize(
    ("trainer", "expected"),
    [
        ({"devices": 1}, False),
        ({"devices": "1", "num_nodes": 1}, False),
        ({"devices": [3]}, False),
        ({"devices": "3,"}, False),
        ({"devices": 2}, True),
        ({"devices": "2"}, True),
        ({"devices": [0, 1]}, True),
        ({"devices": "0,1"}, True),
        ({"devices": 1, "num_nodes": 2}, True),
        ({"devices": "auto"}, True),
        ({"devices": -1}, True),
        ({}, True),
    ],
)
def test_the_trainer_determines_whether_processes_train_together(trainer: dict[str, Any], expected: bool) -> None:
    assert uses_several_processes(trainer) is expected


def test_a_single_slurm_task_keeps_its_variables(set_environment: SetEnvironment) -> None:
    set_environment(slurm(0, NTASKS="1"))
    with ignore_launcher():
        assert os.environ["SLURM_NTASKS"] == "1"


def make_text(folder: Path, made: list[int]) -> AbstractContextManager[str]:
    def make() -> str:
        made.append(1)
        return "made"

    return make_once(folder / ".shared.txt", make, lambda text, path: path.write_text(text) and None, Path.read_text, seconds=60)


def test_other_processes_wait_for_the_value_of_the_first(tmp_path: Path, set_environment: SetEnvironment) -> None:
    made: list[int] = []
    found: list[str] = []
    waits, ends = threading.Event(), threading.Event()
    set_environment(slurm(1))
    # This file is left from an earlier launch that was killed.
    (tmp_path / ".shared-123456789abc.txt").write_text("of another launch")

    def other() -> None:
        def load(path: Path) -> str:
            return path.read_text()

        with make_once(tmp_path / ".shared.txt", lambda: "", lambda *_: None, load, seconds=60) as one:
            found.append(one)
            waits.set()
            ends.wait(60)

    name, _ = read_launch()
    thread = threading.Thread(target=other)
    thread.start()
    assert not waits.wait(0.3)
    set_environment(slurm(0))
    with make_text(tmp_path, made) as mine:
        assert mine == "made"
        assert {path.name for path in tmp_path.iterdir()} == {f".shared-{name}.txt", ".shared-123456789abc.txt"}
        assert waits.wait(60)
    ends.set()
    thread.join()
    assert (found, made) == (["made"], [1])
    assert [path.name for path in tmp_path.iterdir()] == [".shared-123456789abc.txt"]


def test_the_shared_file_is_removed_after_an_error(tmp_path: Path, set_environment: SetEnvironment) -> None:
    set_environment(slurm(0))
    with pytest.raises(KeyboardInterrupt), make_text(tmp_path, []):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_waiting_times_out(tmp_path: Path) -> None:
    with pytest.raises(TimeoutError, match=r"Waited 0 s for .*run, which the first process should have written. Set output="):
        wait_for(tmp_path / "run", "Set output=.", seconds=0)


def settings(
    folder: Path, cells: Path, *, devices: int, backed: bool = False, statistics: str = "running", plotted: bool = False
) -> list[str]:
    trainer = ["trainer=cpu"] if devices == 1 else ["trainer=ddp", "trainer.accelerator=cpu", f"trainer.devices={devices}"]
    return [
        *trainer, "dataset=h5ad", f"dataset.path={cells}", "seed=3",
        f"dataset.backed={str(backed).lower()}", "preprocess.min_features=0", "model.n_hidden=32", "model.max_steps=8",
        "model.batch_size=64",
        f"callbacks=[checkpoint,latent_export{',umap_plot,scores' if plotted else ''}]", format_override("output", folder),
        f"model.statistics={statistics}",
    ]  # fmt: skip


def read_latents(folder: Path, output: str) -> np.ndarray:
    """Return the latents of a run, and check that only its first process has logged."""
    assert output.count("Results: ") == 1
    assert not [path.name for path in folder.iterdir() if path.name.startswith((".fitted", ".composed-"))]
    return np.asarray(ad.read_h5ad(folder / "adata.h5ad").obsm["latent"])


def leave_killed_run(folder: Path) -> None:
    """Create a folder with the files of a killed run of other cells."""
    folder.mkdir()
    for name in (COMPOSED, ".composed-123456789abc.yaml", ".composed-lightning.yaml"):
        (folder / name).write_text(f"output: {folder}\nresume: null\ntrainer: {{devices: 1}}\n")
    for name in (".fitted-123456789abc.pt", ".fitted-lightning.pt"):
        (folder / name).write_bytes(b"of other cells")


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cells") / "cells.h5ad"
    demo_cells(400, 400, 3).write_h5ad(path)
    return path


# Lightning passes the folder's name to its child process as an argument.
NASTY = 'a=b (c) [d] {e} #f, g\'s "h" $i é 雪\\'


@pytest.mark.slow
@pytest.mark.parametrize("backed", [False, True], ids=["memory", "file"])
def test_two_processes_give_the_latents_of_one_process(cells: Path, tmp_path: Path, backed: bool) -> None:
    """The sums differ in order. The difference grows with the number of steps, and is still small after eight steps."""
    # The two kinds of statistics divide the chunks differently among the processes.
    options: Any = {"backed": backed, "statistics": "domain" if backed else "running", "plotted": not backed}
    folders = [tmp_path / "one", tmp_path / ("two" if backed else NASTY)]
    leave_killed_run(folders[1])
    by_one = run_command("train.py", *settings(folders[0], cells, devices=1, **options), cwd=tmp_path)
    assert by_one.returncode == 0, by_one.stderr
    # Compiling UMAP and its neighbours takes a minute in each process, and their results are not tested here.
    before = """
from functools import partial
import scanpy
scanpy.tl.umap = lambda adata, **_: adata.obsm.update(X_umap=adata.obsm["latent"][:, :2])
scanpy.pp.neighbors = partial(scanpy.pp.neighbors, method="gauss")
"""
    by_two = settings(folders[1], cells, devices=2, **options)
    if backed:
        output, _ = [task.end() for task in start_tasks("train.py", *by_two, cwd=tmp_path)]
    else:
        # Lightning starts the other process.
        output = run_child("train.py", *by_two, cwd=tmp_path, before=before)
    one, two = map(read_latents, folders, (by_one.stderr, output))
    np.testing.assert_allclose(two, one, atol=2e-4)
    names = [ad.read_h5ad(folder / "adata.h5ad", backed="r").obs_names for folder in folders]
    assert list(names[0]) == list(names[1])
    files = {path.name for path in folders[0].iterdir()}
    assert {path.name for path in folders[1].iterdir()} == files
    assert {"adata.h5ad", "metrics.csv", "log.txt", *([] if backed else ["umap.png", "metrics.json"])} <= files


@pytest.mark.slow
def test_torchrun_starts_processes_that_train_together(cells: Path, tmp_path: Path) -> None:
    leave_killed_run(tmp_path / "run")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(ROOT / "train.py")]
    command += settings(tmp_path / "run", cells, devices=2)
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    assert read_latents(tmp_path / "run", done.stderr).shape == (400, 30)


def test_slurm_starts_processes_that_train_together(cells: Path, tmp_path: Path) -> None:
    """The test only sets the environment variables of two Slurm tasks on one node."""
    leave_killed_run(tmp_path / "run")
    arguments = settings(tmp_path / "run", cells, devices=2)
    # The second task starts first, and finds the files of another launch.
    one, other = start_tasks("train.py", *arguments, cwd=tmp_path, wait=2)
    firsts, others = one.end(), other.end()
    assert others == ""
    assert read_latents(tmp_path / "run", firsts).shape == (400, 30)


@pytest.mark.parametrize(("launcher", "backed"), [(slurm, True), (torchrun, False)])
def test_each_process_of_a_launch_may_have_its_own_run(
    cells: Path, tmp_path: Path, set_environment: SetEnvironment, launcher: Callable[[int], dict[str, str]], backed: bool
) -> None:
    """The second of two processes, with a trainer of one process, does not wait, and writes all files of a run."""
    set_environment(launcher(1))
    # These cells are stored by columns. When processes train together, one of them converts the matrix for all.
    columns = ad.read_h5ad(cells)
    columns.X = columns.X.tocsc()
    columns.write_h5ad(tmp_path / "cells.h5ad")
    done = run_command("train.py", *settings(tmp_path / "run", tmp_path / "cells.h5ad", devices=1, backed=backed), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert read_latents(tmp_path / "run", done.stderr).shape == (400, 30)
    assert {"metrics.csv", "log.txt", "checkpoint", "config.yaml"} <= {path.name for path in (tmp_path / "run").iterdir()}
    adata = scalex.SCALEX(columns, batch_name="batch", min_features=0, max_iteration=3, outdir=tmp_path / "called", ignore_umap=True)
    assert adata.n_obs == 400
    assert (tmp_path / "called" / "metrics.csv").exists()
    query = [f"reference={tmp_path / 'called'}", f"dataset.path={tmp_path / 'cells.h5ad'}", "trainer=cpu", f"output={tmp_path / 'query'}"]
    done = run_command("project.py", *query, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Results: " in done.stderr


def test_each_run_needs_its_own_folder(cells: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with own_folder(tmp_path / "run"):
        done = run_command("train.py", *settings(tmp_path / "run", cells, devices=1), cwd=tmp_path)
    assert done.returncode == 1
    assert f"FileExistsError: Another run is using the folder {tmp_path / 'run'}: process {os.getpid()} on " in done.stderr
    assert "Give each run its own folder with output=" in done.stderr
    assert list((tmp_path / "run").iterdir()) == []
