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
from scalex.runs.folder import COMPOSED, claim_folder
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
        # In a shell that Slurm has given, and in a script of sbatch, Lightning starts the others.
        (slurm(0, JOB_NAME="bash") | {"LOCAL_RANK": "1"}, False),
        ({"SLURM_PROCID": "0", "SLURM_JOB_ID": "1234", "LOCAL_RANK": "1"}, False),
        # torchrun within a task of Slurm.
        (slurm(0) | torchrun(1), False),
        (slurm(1) | torchrun(0), True),
    ],
)
def test_launchers_say_which_process_is_the_first(variables: dict[str, str], first: bool, set_environment: SetEnvironment) -> None:
    set_environment(variables)
    assert is_first() is first
    with ignore_launcher():
        assert is_first()
    assert is_first() is first


def test_the_processes_of_a_launch_have_one_name_and_those_of_another_launch_another(set_environment: SetEnvironment) -> None:
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
    # On two machines, each has a folder of its own for its errors.
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
def test_the_trainer_says_whether_processes_train_together(trainer: dict[str, Any], expected: bool) -> None:
    assert uses_several_processes(trainer) is expected


def test_a_single_task_stays_one_of_slurm(set_environment: SetEnvironment) -> None:
    set_environment(slurm(0, NTASKS="1"))
    with ignore_launcher():
        assert os.environ["SLURM_NTASKS"] == "1"


def make_text(folder: Path, made: list[int]) -> AbstractContextManager[str]:
    def make() -> str:
        made.append(1)
        return "made"

    return make_once(folder / ".shared.txt", make, lambda text, path: path.write_text(text) and None, Path.read_text, seconds=60)


def test_others_wait_for_what_the_first_of_their_launch_makes(tmp_path: Path, set_environment: SetEnvironment) -> None:
    made: list[int] = []
    found: list[str] = []
    waits, ends = threading.Event(), threading.Event()
    set_environment(slurm(1))
    # Of earlier launches, which were killed.
    for name in (".shared-123456789abc.txt", ".shared-lightning.txt"):
        (tmp_path / name).write_text("of another launch")

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
        assert [path.name for path in tmp_path.iterdir()] == [f".shared-{name}.txt"]
        assert waits.wait(60)
    ends.set()
    thread.join()
    assert (found, made) == (["made"], [1])
    assert list(tmp_path.iterdir()) == []


def test_what_the_first_made_is_removed_where_it_fails(tmp_path: Path, set_environment: SetEnvironment) -> None:
    set_environment(slurm(0))
    with pytest.raises(KeyboardInterrupt), make_text(tmp_path, []):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_waiting_ends(tmp_path: Path) -> None:
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


def latents(folder: Path, output: str) -> np.ndarray:
    """Of a run, in which the first process alone has spoken."""
    assert output.count("Results: ") == 1
    assert not [path.name for path in folder.iterdir() if path.name.startswith((".fitted", ".composed-"))]
    return np.asarray(ad.read_h5ad(folder / "adata.h5ad").obsm["latent"])


def failed_before(folder: Path) -> None:
    """Leave what a run of other cells leaves that was killed."""
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


# A child of Lightning's gets the folder's name as an argument.
NASTY = 'a=b (c) [d] {e} #f, g\'s "h" $i é 雪\\'


@pytest.mark.slow
@pytest.mark.parametrize("backed", [False, True], ids=["memory", "file"])
def test_two_processes_give_what_one_gives(cells: Path, tmp_path: Path, backed: bool) -> None:
    """But for the order in which numbers are added up, which grows with the number of steps: after eight it is small still."""
    # Both ways of embedding, which share the chunks otherwise.
    options: Any = {"backed": backed, "statistics": "domain" if backed else "running", "plotted": not backed}
    folders = [tmp_path / "one", tmp_path / ("two" if backed else NASTY)]
    failed_before(folders[1])
    by_one = run_command("train.py", *settings(folders[0], cells, devices=1, **options), cwd=tmp_path)
    assert by_one.returncode == 0, by_one.stderr
    # To compile UMAP and its neighbours takes a minute in each process: what they compute is not what is asked here.
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
        # Lightning starts the other one.
        output = run_child("train.py", *by_two, cwd=tmp_path, before=before)
    one, two = map(latents, folders, (by_one.stderr, output))
    np.testing.assert_allclose(two, one, atol=2e-4)
    names = [ad.read_h5ad(folder / "adata.h5ad", backed="r").obs_names for folder in folders]
    assert list(names[0]) == list(names[1])
    files = {path.name for path in folders[0].iterdir()}
    assert {path.name for path in folders[1].iterdir()} == files
    assert {"adata.h5ad", "metrics.csv", "log.txt", *([] if backed else ["umap.png", "metrics.json"])} <= files


@pytest.mark.slow
def test_torchrun_starts_them_as_well(cells: Path, tmp_path: Path) -> None:
    failed_before(tmp_path / "run")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(ROOT / "train.py")]
    command += settings(tmp_path / "run", cells, devices=2)
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    assert latents(tmp_path / "run", done.stderr).shape == (400, 30)


def test_slurm_starts_them_as_well(cells: Path, tmp_path: Path) -> None:
    """As far as its environment goes: here are two tasks of one node."""
    failed_before(tmp_path / "run")
    arguments = settings(tmp_path / "run", cells, devices=2)
    # The second task comes first, and finds what another launch has left.
    one, other = start_tasks("train.py", *arguments, cwd=tmp_path, wait=2)
    firsts, others = one.end(), other.end()
    assert others == ""
    assert latents(tmp_path / "run", firsts).shape == (400, 30)


@pytest.mark.parametrize("launcher", [slurm, torchrun])
@pytest.mark.parametrize("backed", [False, True], ids=["memory", "file"])
def test_each_process_of_a_launch_may_have_a_run_of_its_own(
    cells: Path, tmp_path: Path, set_environment: SetEnvironment, launcher: Callable[[int], dict[str, str]], backed: bool
) -> None:
    """The second of two, with the default trainer: it waits for nobody, and does all that a run does."""
    set_environment(launcher(1))
    # From columns, which one process turns for all that train together.
    columns = ad.read_h5ad(cells)
    columns.X = columns.X.tocsc()
    columns.write_h5ad(tmp_path / "cells.h5ad")
    done = run_command("train.py", *settings(tmp_path / "run", tmp_path / "cells.h5ad", devices=1, backed=backed), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert latents(tmp_path / "run", done.stderr).shape == (400, 30)
    assert {"metrics.csv", "log.txt", "checkpoint", "config.yaml"} <= {path.name for path in (tmp_path / "run").iterdir()}
    adata = scalex.SCALEX(columns, batch_name="batch", min_features=0, max_iteration=3, outdir=tmp_path / "called", ignore_umap=True)
    assert adata.n_obs == 400
    assert (tmp_path / "called" / "metrics.csv").exists()
    query = [f"reference={tmp_path / 'called'}", f"dataset.path={tmp_path / 'cells.h5ad'}", "trainer=cpu", f"output={tmp_path / 'query'}"]
    done = run_command("project.py", *query, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Results: " in done.stderr


def test_processes_with_a_run_of_their_own_need_a_folder_of_their_own(cells: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    with claim_folder(tmp_path / "run"):
        done = run_command("train.py", *settings(tmp_path / "run", cells, devices=1), cwd=tmp_path)
    assert done.returncode == 1
    assert f"FileExistsError: A run is using the folder {tmp_path / 'run'}. Give each run a folder of its own with output=" in done.stderr
    assert list((tmp_path / "run").iterdir()) == []
