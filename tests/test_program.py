"""The program ``scalex`` as an installed command: its own arguments, and those it passes on to a command."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import requires
from pathlib import Path
from zipfile import ZipFile

import anndata as ad
import numpy as np
import pytest
from commands import ROOT, Done, run_command, run_program
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import scalex
from scalex.commands.settings_table import read_table

SMALL = ["dataset.n_cells=80", "dataset.n_features=400", "preprocess.min_features=0", "model.max_steps=2", "trainer=cpu"]
NO_FOLDER = "no such folder. Give the folder of a finished training, a .zip of it, or its https:// address."
NO_CHECKSUM = (
    "an address needs the checksum of its file at its end: https://host/a.zip#sha256=... (64 digits). The sender knows it from "
    "scalex pack, or by sha256sum FILE."
)
SHORT = [*SMALL, "callbacks=[checkpoint,latent_export]"]


def test_the_help_of_the_program_names_its_commands(tmp_path: Path) -> None:
    for arguments in ([], ["--help"], ["-h"]):
        shown = run_program(*arguments, cwd=tmp_path).stdout
        assert re.search(
            "scalex train .*\n.*scalex tune .*\n.*scalex project .*\n.*scalex genes .*\n.*scalex pack .*\n.*scalex doctor ", shown
        )


@pytest.mark.parametrize("command", ["train", "tune", "project"])
def test_the_help_of_a_command_has_its_name_its_options_and_its_settings(tmp_path: Path, command: str) -> None:
    shown = run_program(command, "--help", cwd=tmp_path).stdout
    assert f"  scalex {command} " in shown
    assert f"{command}.py" not in shown
    assert re.search("dataset +demo +Simulated cells", shown)
    assert read_table(command) in shown  # type: ignore[arg-type]
    if command != "tune":
        assert f"  python {command}.py " in run_command(f"{command}.py", "--help", cwd=tmp_path).stdout


def test_every_setting_is_explained() -> None:
    for command in ("train", "tune", "project"):
        names = re.findall(r"^  (\S+?)=", read_table(command), re.MULTILINE)  # type: ignore[arg-type]
        explained = re.findall(r"^  (\S+?)=.*\n      \S", read_table(command), re.MULTILINE)  # type: ignore[arg-type]
        assert names == explained


def test_options_of_a_folder_of_the_user_are_shown_and_used(tmp_path: Path) -> None:
    (tmp_path / "conf" / "experiment").mkdir(parents=True)
    text = "# @package _global_\n# Our own settings.\ndefaults:\n  - override /model: small\nmodel: {n_latent: 3}\n"
    (tmp_path / "conf" / "experiment" / "own.yaml").write_text(text)
    assert re.search("own +Our own settings", run_program("train", "--config-dir", "conf", "--help", cwd=tmp_path).stdout)
    done = run_program("train", "--config-dir", "conf", "experiment=own", "output=run", *SHORT, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert scalex.Reference.load(tmp_path / "run").latent.shape[1] == 3


def test_a_command_that_does_not_exist_is_one_line(tmp_path: Path) -> None:
    done = run_program("trian", cwd=tmp_path)
    assert done == Done(1, "", "scalex trian: there is no such command; did you mean train?\n")


def test_the_version_is_that_of_the_package(tmp_path: Path) -> None:
    assert run_program("--version", cwd=tmp_path).stdout == f"scalex {scalex.__version__}\n"


def test_the_module_is_the_program(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "scalex", "--version"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == f"scalex {scalex.__version__}\n"


def test_a_path_alone_means_files(tmp_path: Path) -> None:
    scalex.demo_cells(80, 400, 2, seed=1).write_h5ad(tmp_path / "cells.h5ad")
    done = run_program("train", "dataset.path=cells.h5ad", "dataset.batch_key=batch", "output=run", *SHORT[2:], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Reads cells.h5ad" in done.stderr


def test_a_run_and_its_projection_in_the_words_of_the_program(tmp_path: Path) -> None:
    assert run_program("train", "output=run", *SHORT, cwd=tmp_path).returncode == 0
    again = run_program("train", "output=run", "seed=1", *SHORT, cwd=tmp_path)
    assert "resume a stopped training with scalex train resume=run" in again.stderr
    scalex.demo_cells(80, 400, 2, seed=1).write_h5ad(tmp_path / "query.h5ad")
    done = run_program("project", "reference=run", "dataset.path=query.h5ad", "output=projected", "trainer=cpu", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "scalex train --help" in run_program("train", "nonsense.x=1", cwd=tmp_path).stderr


def test_a_run_is_packed_sent_and_used(tmp_path: Path, serve: Callable[..., str]) -> None:
    """From one folder to another, as a file and by its address."""
    scalex.demo_cells(80, 400, 2, seed=1).write_h5ad(tmp_path / "query.h5ad")
    assert run_program("train", "output=run", *SHORT, cwd=tmp_path).returncode == 0
    packed = run_program("pack", "reference=run", "output=sent/atlas.zip", "title=One, two=three", cwd=tmp_path)
    assert packed.returncode == 0, packed.stderr
    sha256 = hashlib.sha256((tmp_path / "sent" / "atlas.zip").read_bytes()).hexdigest()
    assert f"\nsha256={sha256}\n" in packed.stdout
    assert re.match(r"Wrote sent/atlas\.zip \([0-9.]+ MB\)\. Its card is README\.md in it\.\n", packed.stdout)
    assert f"scalex project 'reference=https://.../atlas.zip#sha256={sha256}' dataset.path=query.h5ad" in packed.stdout
    with ZipFile(tmp_path / "sent" / "atlas.zip") as archive:
        assert archive.read("README.md").startswith(b"# One, two=three\n")

    address = f"{serve((tmp_path / 'sent' / 'atlas.zip').read_bytes())}#sha256={sha256}"
    for output, reference in (("folder", "run"), ("file", "sent/atlas.zip"), ("address", address)):
        done = run_program("project", f"reference={reference}", "dataset.path=query.h5ad", f"output={output}", "trainer=cpu", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        report = json.loads((tmp_path / output / "report.json").read_text())
        assert report["reference"]["folder"] == reference
    assert f"Downloads {address.partition('#')[0]}" not in done.stderr, "it was unpacked before"
    latents = [ad.read_h5ad(tmp_path / output / "adata.h5ad").obsm["latent"] for output in ("folder", "file", "address")]
    for one in latents[1:]:
        np.testing.assert_array_equal(one, latents[0])

    grown = run_program("train", "reference=sent/atlas.zip", "dataset.path=query.h5ad", "output=grown", "trainer=cpu", cwd=tmp_path)
    assert grown.returncode == 1
    assert grown.stderr.splitlines()[-1].startswith("ValueError: sent/atlas.zip holds no expression, since it is a packed reference, ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["reference=run"], "ValueError: Missing settings: output=. scalex pack --help shows how."),
        ([], "ValueError: Missing settings: reference=, output=. scalex pack --help shows how."),
        (["run", "atlas.zip"], "ValueError: run: this is no setting as NAME=VALUE. scalex pack --help lists them."),
        (["otput=atlas.zip"], "ValueError: otput: there is no such setting; did you mean output?"),
        (["reference=run", "output=a.zip", "obs=[a"], "ValueError: obs=[a: this cannot be read. A list is typed as [a,b]."),
        (["reference=run", "output=a.zip", "obs=some"], "obs=some: true or false or a list of text is needed."),
        (["reference=absent", "output=a.zip"], f"FileNotFoundError: reference=absent: {NO_FOLDER}"),
    ],
)
def test_wrong_settings_of_pack_are_one_line(tmp_path: Path, arguments: list[str], message: str) -> None:
    assert run_program("pack", *arguments, cwd=tmp_path) == Done(1, "", f"{message}\n")


def test_a_defect_while_packing_asks_for_a_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(scalex.Reference, "load", fail)
    done = run_program("pack", "reference=run", "output=atlas.zip", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.endswith("RuntimeError: a defect\nThis is a defect of SCALEX. Please report it with these lines.\n")


def test_the_help_of_pack_lists_its_settings(tmp_path: Path) -> None:
    shown = run_program("pack", "--help", cwd=tmp_path).stdout
    names = {"reference", "output", *inspect.signature(scalex.Reference.pack).parameters} - {"self", "path"}
    assert set(re.findall("^  ([a-z]+)=", shown, re.MULTILINE)) == names


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("text.zip", "text.zip is not a readable .zip (File is not a zip file). It may be truncated or damaged: copy it again."),
        ("https://host/a.zip", f"https://host/a.zip: {NO_CHECKSUM}"),
    ],
)
def test_a_reference_that_does_not_open_is_one_line_of_the_command(tmp_path: Path, reference: str, message: str) -> None:
    (tmp_path / "text.zip").write_text("text")
    scalex.demo_cells(80, 400, 2, seed=1).write_h5ad(tmp_path / "query.h5ad")
    done = run_program("project", f"reference={reference}", "dataset.path=query.h5ad", "output=out", "trainer=cpu", cwd=tmp_path)
    assert done == Done(1, "", f"ValueError: {message}\n")


def complete(line: str, cwd: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("COMP_LINE", line)
    return run_program("-sc", "query=bash", cwd=cwd).stdout.split()


def test_bash_completes_commands_and_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {"train", "tune", "project", "pack", "doctor"} <= set(complete("scalex tr", tmp_path, monkeypatch))
    assert complete("scalex doctor ", tmp_path, monkeypatch) == []
    assert "model.n_latent=" in complete("scalex train model.n_", tmp_path, monkeypatch)
    assert "model=paper" in complete("scalex train seed=1 model=", tmp_path, monkeypatch)
    assert "adapt=" in complete("scalex project ada", tmp_path, monkeypatch)
    assert complete("scalex tune seed=1 tune.n_", tmp_path, monkeypatch) == ["tune.n_trials="]
    assert "model.n_latent=" in complete("scalex tune model.n_l", tmp_path, monkeypatch)
    assert "complete " in run_program("-sc", "install=bash", cwd=tmp_path).stdout


def test_the_doctor_names_what_a_report_needs(tmp_path: Path) -> None:
    shown = run_program("doctor", cwd=tmp_path).stdout
    version = re.escape(scalex.__version__)
    for words in (f"scalex: .*{version}", "torch: .*[0-9]", "CPU cores: .*thread", "memory: .*GB free", "for launch=ray: "):
        assert re.search(words, shown), words


def list_requirements() -> Iterator[Requirement]:
    yield from (one for one in map(Requirement, requires("scalex") or []) if one.marker is None)


def test_the_constraints_are_within_the_ranges_of_the_package() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    pinned = {canonicalize_name(one.name): str(one.specifier).removeprefix("==") for one in map(Requirement, lines)}
    for needed in list_requirements():
        assert needed.specifier.contains(pinned[canonicalize_name(needed.name)]), needed


def test_ctrl_c_ends_a_run_as_shells_expect(tmp_path: Path) -> None:
    """Lightning would end it like an error. A shell calls this 130."""
    code = "import signal, sys; from scalex.commands.main import main; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += "from scalex.model.module import ScalexModule\n"
    code += "ScalexModule.on_train_epoch_end = lambda self: signal.raise_signal(signal.SIGINT)\n"
    code += "sys.argv[0] = 'scalex'; main()"
    command = [sys.executable, "-c", code, "train", *SHORT, "output=run"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGINT
    assert done.stderr.splitlines()[-2:] == [
        "Stopped at step 1. Nothing of it is kept. Begin again with: scalex train resume=run",
        "Stopped by Ctrl-C.",
    ]


@pytest.mark.slow
def test_the_program_starts_its_other_processes_with_the_same_command(tmp_path: Path) -> None:
    scalex.demo_cells(80, 400, 2, seed=1).write_h5ad(tmp_path / "query.h5ad")
    several = ["trainer=ddp", "trainer.accelerator=cpu"]
    short = [one for one in SHORT if one != "trainer=cpu"]
    for arguments in (
        ["train", *short, *several, "output=run"],
        ["project", "reference=run", "dataset.path=query.h5ad", "dataset.batch_key=batch", *several, "output=projected"],
    ):
        command = [sys.executable, "-m", "scalex", *arguments]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr
        assert "Results: " in done.stderr
