"""Several processes that project together write the same files as one process, to the bit."""

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


def read_contents(path: Path) -> dict[str, Any]:
    """Return the content of a file except the stored settings."""
    contents: dict[str, Any] = {}

    def add(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if not name.startswith("uns/scalex/parameters"):
            contents[name] = {key: str(value) for key, value in item.attrs.items()}
            if isinstance(item, h5py.Dataset):
                value = np.asarray(item[()])
                contents[name] |= {"type": value.dtype, "shape": value.shape}
                contents[name]["values"] = value.tolist() if value.dtype.hasobject else value.tobytes()

    with h5py.File(path) as file:
        file.visititems(add)
    return contents


def assert_same(one: Path, two: Path) -> None:
    """Check that two projections differ only in their settings and their log."""
    expected, found = read_contents(one / "adata.h5ad"), read_contents(two / "adata.h5ad")
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
    """Return arguments that project new cells in seven chunks."""
    trained.query.write_h5ad(tmp_path / "query.h5ad")
    return [f"reference={trained.folder}", "dataset.path=query.h5ad", f"chunk_size={-(-trained.query.n_obs // 7)}"]


@pytest.mark.slow
def test_slurm_tasks_grow_a_reference_by_adapted_cells(trained: Any, query: list[str], tmp_path: Path) -> None:
    trained.query.obs["all"] = "all"
    Reference.load(trained.folder).fit_adapter(trained.query, batch_key="all").save(tmp_path / "adapter")
    arguments = [*query, "append=true", "adapter=adapter", "impute=domain0", "dataset.backed=false"]
    project_by_one(*arguments, cwd=tmp_path)
    firsts, others = [task.end() for task in start_tasks("project.py", *arguments, *TOGETHER, "output=two", cwd=tmp_path)]
    assert firsts.count("Results: two") == 1
    assert others == ""
    assert_same(tmp_path / "one", tmp_path / "two")
    assert {path.name for path in tmp_path.iterdir()} == {"one", "two", "query.h5ad", "adapter"}
    assert Reference.load(tmp_path / "two").lineage[-1]["action"] == "projected with an adapter"


@pytest.mark.slow
def test_lightning_starts_the_other_process_for_each_run_of_a_sweep(query: list[str], tmp_path: Path) -> None:
    """One run uses the encoder statistics of each domain."""
    arguments = ["-m", *query, "repeat=true", "dataset.batch_key=batch", "statistics=domain,running", "dataset.n_obs=90"]
    project_by_one(*arguments, cwd=tmp_path)
    output = run_child("project.py", *arguments, *TOGETHER, "output=two", cwd=tmp_path)
    assert output.count("Results: ") == 2
    for job in ("0", "1"):
        assert_same(tmp_path / "one" / job, tmp_path / "two" / job)
    latents = [read_contents(tmp_path / "two" / job / "adata.h5ad")["obsm/latent"]["values"] for job in ("0", "1")]
    assert latents[0] != latents[1]


def test_torchrun_starts_more_processes_than_there_are_chunks(query: list[str], tmp_path: Path) -> None:
    arguments = [*query, "chunk_size=20000"]
    project_by_one(*arguments, cwd=tmp_path)
    launcher = partial(torchrun, port=find_free_port())
    first, second = [task.end() for task in start_tasks("project.py", *arguments, *TOGETHER, "output=two", cwd=tmp_path, launcher=launcher)]
    assert first.count("Results: two") == 1
    assert "Results" not in second
    assert_same(tmp_path / "one", tmp_path / "two")


@pytest.mark.slow
@pytest.mark.parametrize("stopped", [0, 1])
def test_if_one_process_stops_the_other_names_the_reason_and_ends(query: list[str], tmp_path: Path, stopped: int) -> None:
    before = ["", ""]
    # Rank 0 is killed when it writes, the other process when it embeds.
    before[stopped] = (
        "from scalex.h5ad.block_writer import BlockWriter\nBlockWriter.append = die",
        "from scalex.projection.blocks import QueryBlocks\nQueryBlocks.make_block = die",
    )[stopped]
    tasks = start_tasks("project.py", *query, *TOGETHER, "output=out", cwd=tmp_path, before=before)
    outputs = [task.end(-9 if number == stopped else 1) for number, task in enumerate(tasks)]
    assert "ConnectionError: Another of the 2 processes has stopped. " in outputs[1 - stopped]
    assert not (tmp_path / "out" / "adata.h5ad").exists()


def test_a_strategy_whose_processes_do_not_run_the_command_is_refused() -> None:
    trainer = Trainer(accelerator="cpu", devices=2, strategy="ddp_spawn", logger=False, enable_checkpointing=False)
    message = "DDPStrategy does not run the command again in each process, which a projection needs: use trainer=ddp."
    with pytest.raises(ValueError, match=message), connect(trainer):
        pass
