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

from scalex.projection.reference import Reference
from scalex.runs.owner import OWNER, own_folder

ROOT = Path(__file__).parents[1]
SETTINGS = [
    "model=small", "model.max_epochs=3", "model.n_hidden=16", "model.n_latent=4", "dataset.n_cells=150", "dataset.n_features=400",
    "preprocess.min_features=0", "trainer=cpu", "callbacks=[checkpoint,latent_export]",
]  # fmt: skip
# Ends the process before the file of a name gets its final name.
KILL = """
from pathlib import Path
replace = Path.replace
Path.replace = lambda self, target: die() if Path(target).name == {name!r} else replace(self, target)
"""

# Compiling the search of neighbours takes half a minute in each process.
FAST = """
from functools import partial
import scanpy
scanpy.pp.neighbors = partial(scanpy.pp.neighbors, method="gauss")
"""


def read_latents(folder: Path) -> np.ndarray:
    return np.asarray(ad.read_h5ad(folder / "adata.h5ad").obsm["latent"])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run that was not stopped."""
    folder = tmp_path_factory.mktemp("whole")
    run_child("train.py", *SETTINGS, "output=run", cwd=folder)
    return folder / "run"


# make campaign tries each change of a file.
@pytest.mark.parametrize(
    ("name", "again"),
    [(".composed.yaml", "the same command"), ("best.ckpt", "the same command"), ("adata.h5ad", "resume")],
)
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
    assert {path: time for path, time in after.items() if path in before and path.is_file() and path.name != OWNER} == {
        path: time for path, time in before.items() if path.is_file() and path.name != OWNER
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", ["report.json", "adata.h5ad"])
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
    assert "Resume with: python train.py resume=run" in started.end(130)
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


@pytest.mark.slow
def test_a_sweep_that_was_stopped_can_be_typed_again(tmp_path: Path) -> None:
    settings = ["-m", *SETTINGS, "callbacks=[checkpoint,latent_export,scores]", "seed=1,2,3"]
    run_child("train.py", *settings, "output=whole", cwd=tmp_path, before=FAST)
    before = FAST + KILL.format(name="metrics.json").replace("die() if", "die() if '/sweep/1/' in str(target) and")
    run_child("train.py", *settings, "output=sweep", cwd=tmp_path, before=before, returncode=-signal.SIGKILL)
    table = tmp_path / "sweep" / "sweep.csv"
    assert len(pd.read_csv(table)) == 1
    finished = (tmp_path / "sweep" / "0" / "adata.h5ad").stat().st_mtime_ns
    # A run that is resumed by itself gets its row.
    run_child("train.py", "resume=sweep/1", cwd=tmp_path, before=FAST)
    assert len(pd.read_csv(table)) == 2
    assert "2 finished runs." in (tmp_path / "sweep" / "sweep.html").read_text()
    again = run_child("train.py", *settings, "output=sweep", cwd=tmp_path, before=FAST)
    assert [f"Finished before: {tmp_path}/sweep/{run}" in again for run in "012"] == [True, True, False]
    assert (tmp_path / "sweep" / "0" / "adata.h5ad").stat().st_mtime_ns == finished
    pd.testing.assert_frame_equal(pd.read_csv(table), pd.read_csv(tmp_path / "whole" / "sweep.csv"))
    for run in "012":
        np.testing.assert_array_equal(*(read_latents(tmp_path / name / run) for name in ("sweep", "whole")))


def test_a_run_of_a_sweep_that_fails_is_one_line_and_the_others_go_on(tmp_path: Path) -> None:
    settings = ["-m", *SETTINGS, "callbacks=[latent_export]", "seed=1", "output=sweep"]
    done = run_command("train.py", *settings, "dataset.n_features=400,3,410", cwd=tmp_path)
    assert done.returncode == 1
    assert [(tmp_path / "sweep" / run / "adata.h5ad").exists() for run in "012"] == [True, False, True]
    errors = [line for line in done.stderr.splitlines() if line.startswith("Run ")]
    assert len(errors) == 1
    assert errors[0].startswith("Run 1 (")
    assert "dataset.n_features=3" in errors[0]
    assert done.stderr.splitlines()[-1].startswith("Failed runs of the sweep sweep: 1. Their messages are above")
    assert "Traceback" not in done.stderr
    assert "HYDRA" not in done.stderr
    # The page of the sweep has its message, until it is tried again.
    assert "<td>1</td><td>dataset.n_features=3: " in (tmp_path / "sweep" / "sweep.html").read_text()
    # Other settings would overwrite the finished runs.
    other = run_command("train.py", *settings, "dataset.n_features=420,430", cwd=tmp_path)
    assert (other.returncode, other.stderr.count("holds another run's results (adata.h5ad")) == (1, 1)
    assert "Failed runs of the sweep sweep: 0." in other.stderr


def test_more_processes_than_devices_are_refused(tmp_path: Path) -> None:
    arguments = [*SETTINGS, "trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=9999"]
    done = run_command("train.py", *arguments, "output=run", cwd=tmp_path)
    assert done.returncode == 1
    assert f"ValueError: trainer.devices=9999 asks for 9999 devices, but this machine has {os.cpu_count()} CPU cores." in done.stderr
    assert "Traceback" not in done.stderr


def is_running(number: int) -> bool:
    return Path(f"/proc/{number}").exists() and "(zombie)" not in Path(f"/proc/{number}/status").read_text()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux offers it")
def test_other_processes_end_with_the_first(tmp_path: Path) -> None:
    """The other process waits for ever, and is in the file that it writes."""
    waits = "import os, time; from pathlib import Path; from scalex.system.processes import end_with_parent\nend_with_parent()\n"
    waits += "Path('.unfinished').write_text(str(os.getpid())); Path('.unfinished').rename('child')\ntime.sleep(600)"
    starts = "import os, subprocess, sys, time; from scalex.system.processes import name_parent\nname_parent()\n"
    starts += f"subprocess.Popen([sys.executable, '-c', {waits!r}], env=os.environ | {{'LOCAL_RANK': '1'}})\ntime.sleep(600)"
    first = subprocess.Popen([sys.executable, "-c", starts], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)})
    while not (tmp_path / "child").exists():
        assert first.poll() is None
        time.sleep(0.01)
    child = int((tmp_path / "child").read_text())
    assert is_running(child)
    first.kill()
    first.wait()
    while is_running(child):
        time.sleep(0.01)


@pytest.mark.parametrize("script", ["train.py", "project.py"])
def test_ctrl_c_during_the_imports_is_one_line(tmp_path: Path, script: str) -> None:
    code = "import runpy, signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += "class Stop:\n    def find_spec(self, name, *_):\n        if name == {name!r}: signal.raise_signal(signal.SIGINT)\n"
    code += f"sys.meta_path.insert(0, Stop()); sys.path.insert(0, {str(ROOT)!r}); sys.argv = [{str(ROOT / script)!r}, *sys.argv[1:]]\n"
    code += "runpy.run_path(sys.argv[0], run_name='__main__')"
    for name in ("hydra", "torch"):
        arguments = ["reference=run", "dataset.path=query.h5ad"] if script == "project.py" else []
        command = [sys.executable, "-c", code.format(name=name), *arguments, "output=run"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == -signal.SIGINT
        assert done.stderr == "Stopped by Ctrl-C.\n"


GROWN = ["model=paper", "model.max_steps=4", "growth.allowed_fall=2", "callbacks=[checkpoint,latent_export]"]


@pytest.mark.parametrize(
    ("script", "arguments", "file"),
    [
        ("project.py", ["append=true"], "checkpoint/best.ckpt"),
        ("train.py", GROWN, "checkpoint/last.ckpt"),
    ],
    ids=["append", "grow"],
)
def test_a_command_that_fills_the_disk_can_be_typed_again(
    tmp_path: Path, trained: Any, script: str, arguments: list[str], file: str
) -> None:
    trained.query.write_h5ad(tmp_path / "query.h5ad")
    given = [*arguments, f"reference={trained.folder}", "dataset=h5ad", "dataset.path=query.h5ad", "trainer=cpu", "output=out"]
    # A checkpoint has 950,000 bytes. A report has more, since plotly is within it.
    plotly = "import plotly.offline\nplotly.offline.get_plotlyjs = lambda: ''\n"
    before = f"{FAST}{plotly}import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (800_000,) * 2)"
    output = run_child(script, *given, cwd=tmp_path, before=before, returncode=1)
    assert output.splitlines()[-1].startswith(f"OSError: The disk has no space left for out/{file}.")
    assert "Traceback" not in output
    assert "Logging error" not in output
    run_child(script, *given, cwd=tmp_path, before=FAST)
    assert Reference.load(tmp_path / "out").cells.n_obs > 0


def test_a_full_disk_stops_the_log_with_one_line(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "log.txt").write_text("x" * 20_000)
    before = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (20_000,) * 2)"
    output = run_child("train.py", *SETTINGS, "output=run", cwd=tmp_path, before=before, returncode=1)
    assert output.splitlines()[-1] == "OSError: Cannot write to the log run/log.txt (File too large)."
    assert "Traceback" not in output
    assert "Logging error" not in output
