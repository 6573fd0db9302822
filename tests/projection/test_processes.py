"""Several processes that project together write what one writes, to the bit."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from commands import find_free_port, run_child, run_command, start_tasks, torchrun
from lightning import Trainer

from scalex.projection.processes import connect
from scalex.projection.reference import Reference

TOGETHER = ["trainer=ddp", "trainer.accelerator=cpu"]


def contents(path: Path) -> dict[str, Any]:
    """All that a file holds, but for the settings that it was made with."""
    found: dict[str, Any] = {}

    def add(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if not name.startswith("uns/scalex/parameters"):
            found[name] = {key: str(value) for key, value in item.attrs.items()}
            if isinstance(item, h5py.Dataset):
                value = np.asarray(item[()])
                found[name] |= {"type": value.dtype, "shape": value.shape}
                found[name]["values"] = value.tolist() if value.dtype.hasobject else value.tobytes()

    with h5py.File(path) as file:
        file.visititems(add)
    return found


def check_same(one: Path, two: Path) -> None:
    """See that two projections differ in their settings and their log alone."""
    expected, found = contents(one / "adata.h5ad"), contents(two / "adata.h5ad")
    assert found.keys() == expected.keys()
    assert [name for name in expected if found[name] != expected[name]] == []
    assert (two / "report.json").read_bytes() == (one / "report.json").read_bytes()
    names = [{str(path.relative_to(folder)) for path in folder.rglob("*")} for folder in (one, two)]
    assert names[0] == names[1]


def project_by_one(*arguments: str, cwd: Path) -> None:
    """Project with one process and, as in the child processes, one thread."""
    n_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        done = run_command("project.py", *arguments, "trainer=cpu", "output=one", cwd=cwd)
    finally:
        torch.set_num_threads(n_threads)
    assert done.returncode == 0, done.stderr


@pytest.fixture
def query(trained: Any, tmp_path: Path) -> list[str]:
    """What is typed to project new cells in seven chunks."""
    trained.query.write_h5ad(tmp_path / "query.h5ad")
    return [f"reference={trained.folder}", "dataset.path=query.h5ad", f"chunk_size={-(-trained.query.n_obs // 7)}"]


@pytest.mark.slow
def test_tasks_of_slurm_grow_a_reference(query: list[str], tmp_path: Path) -> None:
    arguments = [*query, "append=true", "impute=domain0", "dataset.backed=false"]
    project_by_one(*arguments, cwd=tmp_path)
    firsts, others = [task.end() for task in start_tasks("project.py", *arguments, *TOGETHER, "output=two", cwd=tmp_path)]
    assert firsts.count("Results: two") == 1
    assert others == ""
    check_same(tmp_path / "one", tmp_path / "two")
    assert {path.name for path in tmp_path.iterdir()} == {"one", "two", "query.h5ad"}
    assert Reference.load(tmp_path / "two").lineage[-1]["action"] == "projected"


@pytest.mark.slow
def test_lightning_starts_them_for_each_projection_of_a_sweep(query: list[str], tmp_path: Path) -> None:
    """With the encoder's statistics of all cells of a domain, too."""
    arguments = ["-m", *query, "repeat=true", "dataset.batch_key=batch", "statistics=domain,running", "dataset.n_obs=90"]
    project_by_one(*arguments, cwd=tmp_path)
    said = run_child("project.py", *arguments, *TOGETHER, "output=two", cwd=tmp_path)
    assert said.count("Results: ") == 2
    for job in ("0", "1"):
        check_same(tmp_path / "one" / job, tmp_path / "two" / job)
    latents = [contents(tmp_path / "two" / job / "adata.h5ad")["obsm/latent"]["values"] for job in ("0", "1")]
    assert latents[0] != latents[1]


def test_torchrun_starts_more_than_there_are_chunks(query: list[str], tmp_path: Path) -> None:
    arguments = [*query, "chunk_size=20000"]
    project_by_one(*arguments, cwd=tmp_path)
    launcher = partial(torchrun, port=find_free_port())
    first, second = [task.end() for task in start_tasks("project.py", *arguments, *TOGETHER, "output=two", cwd=tmp_path, launcher=launcher)]
    assert first.count("Results: two") == 1
    assert "Results" not in second
    check_same(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
@pytest.mark.parametrize("stopped", [0, 1])
def test_where_one_stops_the_other_says_so_and_ends(query: list[str], tmp_path: Path, stopped: int) -> None:
    before = ["", ""]
    # The first is killed as it writes, the other one as it embeds.
    before[stopped] = (
        "from scalex.h5ad.block_writer import BlockWriter\nBlockWriter.append = die",
        "from scalex.projection.blocks import QueryBlocks\nQueryBlocks.make_block = die",
    )[stopped]
    tasks = start_tasks("project.py", *query, *TOGETHER, "output=out", cwd=tmp_path, before=before)
    said = [task.end(-9 if number == stopped else 1) for number, task in enumerate(tasks)]
    assert "ConnectionError: Another of the 2 processes has stopped. " in said[1 - stopped]
    assert not (tmp_path / "out" / "adata.h5ad").exists()


def test_processes_that_do_not_run_the_command_are_refused() -> None:
    trainer = Trainer(accelerator="cpu", devices=2, strategy="ddp_spawn", logger=False, enable_checkpointing=False)
    said = "DDPStrategy does not run the command again in each process, which a projection needs: use trainer=ddp."
    with pytest.raises(ValueError, match=said), connect(trainer):
        pass
