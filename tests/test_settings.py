"""Every setting of the commands with a wrong type, out of its range and misspelt: one line before the work starts."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import ROOT, run_command
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from torch._inductor.exc import InductorError, InvalidCxxCompiler

from scalex.callbacks import LatentExport
from scalex.cells import Cells
from scalex.commands.settings import check_project_settings, check_train_settings, list_settings
from scalex.commands.settings_table import TABLE, make_table
from scalex.demo import DemoSource
from scalex.system.settings import SettingError

# Commands with the options of their groups. Together they have every setting of conf/.
COMMANDS: dict[str, tuple[str, list[str]]] = {
    "train": (
        "train",
        [
            "callbacks=[progress,checkpoint,early_stopping,latent_export,umap_plot,scores,markers,pseudobulk]",
            "logger=[csv,tensorboard,wandb]",
        ],
    ),
    "train files": ("train", ["dataset=files", "dataset.path=a.h5ad", "preprocess=atac", "model=paper", "trainer=ddp"]),
    "train adt": ("train", ["preprocess=adt", "model=small"]),
    "train none": ("train", ["preprocess=none"]),
    "tune": ("tune", []),
    "project": ("project", ["reference=run", "dataset.path=a.h5ad"]),
}
CHECKS: dict[str, Any] = {"train": check_train_settings, "tune": check_train_settings, "project": check_project_settings}
# Settings that are passed on to a library, and take whatever it takes. tests/runs/test_search_space.py has the cases of tune.space.
OF_LIBRARIES = re.compile(r"logger\.|trainer\.strategy\.|tune\.space$")


@cache
def load(name: str) -> Mapping[str, Any]:
    command, overrides = COMMANDS[name]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        settings: Any = OmegaConf.to_container(compose(command, overrides), resolve=True)
    return settings


def list_cases() -> Iterator[Any]:
    for name, (command, _) in COMMANDS.items():
        for setting, words, *_ in list_settings(load(name), command):  # type: ignore[arg-type]
            if not OF_LIBRARIES.match(setting):
                yield pytest.param(name, setting, words, id=f"{name}-{setting}")


def check(name: str, setting: str, value: Any, *, rename: str | None = None) -> None:
    """Check the settings of a command, one of which is replaced, or renamed."""
    settings = copy.deepcopy(dict(load(name)))
    *groups, last = setting.split(".")
    node: Any = settings
    for group in groups:
        node = node[group]
    if rename is not None:
        node[rename] = node.pop(last)
    else:
        node[last] = value
    CHECKS[COMMANDS[name][0]](settings)


@pytest.mark.parametrize("name", COMMANDS)
def test_the_settings_of_conf_are_allowed(name: str) -> None:
    checked = CHECKS[COMMANDS[name][0]](load(name))
    assert checked == load(name)


@pytest.mark.parametrize(("name", "setting", "words"), list(list_cases()))
def test_every_setting_has_a_type_and_a_range(name: str, setting: str, words: str) -> None:
    assert words != "any value"
    # An object that is none of the types of settings.
    with pytest.raises(ValueError, match=rf"^{re.escape(setting)}(=.* is needed|: cells cannot be read from dict)") as error:
        check(name, setting, {"a": {"b": 1}})
    assert "\n" not in str(error.value)
    if "number" in words and "text" not in words:
        with pytest.raises(SettingError, match=rf"^{re.escape(setting)}=abc: .*number.* is needed"):
            check(name, setting, "abc")
    if re.match("(a whole number|a number) (of at least|above|from)", words):
        with pytest.raises(SettingError, match=rf"^{re.escape(setting)}=-3: .*number.* is needed"):
            check(name, setting, -3)
    if words.startswith("a whole number"):
        with pytest.raises(SettingError, match=rf"^{re.escape(setting)}=1\.5: "):
            check(name, setting, 1.5)
    if words.startswith("true or false") and "text" not in words:
        with pytest.raises(SettingError, match=rf"^{re.escape(setting)}=maybe: true or false.* is needed"):
            check(name, setting, "maybe")
    if words.startswith("one of"):
        with pytest.raises(SettingError, match=rf"^{re.escape(setting)}=nonsense: one of .* is needed"):
            check(name, setting, "nonsense")


@pytest.mark.parametrize(("name", "setting", "words"), list(list_cases()))
def test_a_misspelt_setting_is_refused(name: str, setting: str, words: str) -> None:
    with pytest.raises(ValueError, match=rf"^{re.escape(setting)}x: there is no such setting; did you mean [\w.]+\?$"):
        check(name, setting, None, rename=f"{setting.rpartition('.')[2]}x")


def test_the_table_of_settings_is_that_of_the_signatures() -> None:
    assert TABLE.read_text() == make_table(), "make settings writes it anew"


@pytest.mark.parametrize(("command", "line"), [("train", "model.lr=0.003 +a number above 0"), ("project", "append=false +true or false")])
def test_help_shows_what_settings_take(tmp_path: Path, command: str, line: str) -> None:
    assert re.search(line, run_command(f"{command}.py", "--help", cwd=tmp_path).stdout)


class OwnExport(LatentExport):
    """A callback of a user."""


@dataclass
class OwnSource:
    """A source of a user, made of another object."""

    inner: DemoSource

    def open(self) -> Cells:
        assert isinstance(self.inner, DemoSource)
        return self.inner.open()


def test_objects_of_users_are_allowed() -> None:
    settings = copy.deepcopy(dict(load("train")))
    settings["callbacks"]["latent_export"]["_target_"] = f"{__name__}.OwnExport"
    settings["dataset"] = {"_target_": f"{__name__}.OwnSource", "inner": {"_target_": "scalex.DemoSource", "n_cells": "20"}}
    assert check_train_settings(settings)["dataset"]["inner"]["n_cells"] == 20
    settings["dataset"]["inner"]["n_cells"] = 3
    with pytest.raises(SettingError, match=r"^dataset\.inner\.n_cells=3: a whole number of at least 10 is needed"):
        check_train_settings(settings)


@pytest.mark.parametrize("word", ["no", "off", "false", "False", "0"])
def test_words_for_no_are_no(word: str) -> None:
    settings = copy.deepcopy(dict(load("train")))
    settings["preprocess"]["keep_mt"] = settings["model"]["use_labels"] = word
    checked = check_train_settings(settings)
    assert checked["preprocess"]["keep_mt"] is checked["model"]["use_labels"] is False
    assert check_project_settings(dict(load("project")) | {"append": word})["append"] is False


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model.lr=abc"], "model.lr=abc: a number above 0 is needed."),
        (["callbacks=[umap]"], "callbacks=umap: there is no such option; did you mean umap_plot?"),
        (["model=scalx"], "model=scalx: there is no such option; did you mean scalex?"),
        (["dataset.batch_key=donor"], "dataset.batch_key: there is no such setting without dataset=files or dataset=h5ad: give that, too."),
        (["trainer.num_nodes=2"], "trainer.num_nodes: there is no such setting without trainer=ddp: give that, too."),
        (["model.n_latnt=3"], "model.n_latnt: there is no such setting; did you mean model.n_latent?"),
        (["launch.x=3"], "launch.x: there is no such setting. python train.py --help lists the settings."),
        (["modle.lr=3"], "modle.lr: there is no such setting; did you mean model.lr?"),
        (["+nonsense=1"], "ValueError: nonsense: there is no such setting. There are: seed, output"),
        (["+model.foo=1"], "ValueError: model.foo: there is no such setting. There are: n_latent"),
        (["+callbacks.foo=1"], "callbacks.foo=1: an object with a _target_, as in conf/callbacks, is needed."),
        (["model=null"], "Config group override must be a string or a list"),
        (["epoch_table=null"], "epoch_table=null: an option of conf/epoch_table, or settings as epoch_table.NAME=VALUE, is needed."),
        (["model._target_=no.such"], "ValueError: model._target_=no.such: there is no such class or function."),
        (["dataset=files", "dataset.path=null"], "ValueError: dataset.path: cells cannot be read from null. Give"),
        (
            ["dataset=files", "dataset.path=a,b.csv"],
            "dataset.path=a,b.csv: several values with commas. For a list: 'dataset.path=[a,b.csv]'",
        ),
        (["dataset.path=[a"], "dataset.path=[a: this is no setting as NAME=VALUE. Quote a value with spaces, commas, brackets or = twice"),
        (["model.lr"], "model.lr: this is no setting as NAME=VALUE."),
        (["model.correct_at=[0.5,0.2]"], "ValueError: model.correct_at=[0.5, 0.2]: it must be rising shares of the training"),
        (["trainer.devices=0"], "trainer.devices=0: a whole number of at least 1, a list of devices, or auto is needed."),
        (["growth=null"], "growth=null: settings as growth.NAME=VALUE, is needed."),
        (["growth.encoder_lr=-1"], "growth.encoder_lr=-1: a number above 0 is needed."),
        (
            ["callbacks=[early_stopping,latent_export]", "callbacks.early_stopping.monitor=nope"],
            "callbacks.early_stopping.monitor=nope: one",
        ),
        (
            ["reference=run", "preprocess=atac"],
            "ValueError: preprocess=atac: reference= keeps the preprocessing of the reference. Leave it out.",
        ),
    ],
)
def test_wrong_settings_are_one_line_before_a_folder_is_made(tmp_path: Path, arguments: list[str], message: str) -> None:
    done = run_command("train.py", *arguments, "output=run", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_gpu_that_is_absent_and_a_package_that_is_not_installed_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("scalex.commands.settings.find_spec", lambda name: None)
    for argument, message in (
        ("trainer=gpu", "ValueError: trainer.accelerator=gpu: torch finds no GPU on this machine. Use trainer=auto or trainer=cpu."),
        (
            "logger=tensorboard",
            "ValueError: logger.tensorboard needs tensorboard, which is not installed: pip install 'scalex[tensorboard]'.",
        ),
    ):
        done = run_command("train.py", argument, "output=run", cwd=tmp_path)
        assert done.stderr.startswith(message)
        assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB."), "The memory of the GPU is full. Lower model.batch_size"),
        (MemoryError("Unable to allocate 80 GiB"), "The memory is full. Leave the cells in their files (dataset.backed=true)"),
        (
            InductorError(InvalidCxxCompiler(), None),
            "torch cannot compile the step on this machine (InvalidCxxCompiler: No working C++ compiler found",
        ),
    ],
    ids=["full memory of a GPU", "full memory", "no compiler"],
)
def test_what_a_machine_lacks_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("scalex.commands.train._train_and_embed", fail)
    done = run_command("train.py", "dataset.n_cells=20", "output=run", cwd=tmp_path)
    assert done.returncode == 1
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_defect_shows_where_it_is_and_where_the_log_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr("scalex.commands.train._train_and_embed", fail)
    done = run_command("train.py", "dataset.n_cells=20", "output=run", cwd=tmp_path)
    assert done.returncode == 1
    assert "RuntimeError: broken\nThis is a defect of SCALEX. Please report it with these lines, and with log.txt in run." in done.stderr
