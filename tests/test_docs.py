"""Tests that README and the pages of the documentation are true: commands run, settings, names and messages exist."""

from __future__ import annotations

import ast
import inspect
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import scanpy
import yaml
from commands import run_command, run_program
from formats.written import compress, write_tenx, write_text
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

import scalex
from scalex.commands.settings_table import read_table
from scalex.demo import demo_cells
from scalex.metrics import SCORES
from scalex.runs.search_space import read_space
from scalex.system.overrides import flatten

ROOT = Path(__file__).parents[1]
# The build of the pages runs the tutorials.
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def read_blocks(page: Path, language: str = "[a-z]*") -> list[str]:
    """Return the blocks of code of a page, in fences of a language, without what indents them."""
    fences = re.finditer(rf"^( *)```({language})\n(.*?)^ *```$", page.read_text(), re.DOTALL | re.MULTILINE)
    return ["\n".join(line.removeprefix(fence[1]) for line in fence[3].splitlines()) for fence in fences]


def read_rows() -> Iterator[list[list[str]]]:
    """Yield the rows of the table of parameters, as what each cell has in backticks."""
    table = (ROOT / "docs" / "published.md").read_text().split("| `SCALEX(...)` | setting | |\n", 1)[1]
    for line in table.splitlines()[1:]:
        if not line.startswith("|"):
            return
        yield [re.findall(r"`([^`]+)`", cell) for cell in line.strip("|").split("|")]


@pytest.fixture(scope="module")
def configs() -> list[DictConfig]:
    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        train = [compose("train", ["dataset=files", "dataset.path=x", f"preprocess={kind}"]) for kind in ("rna", "atac", "adt", "none")]
        return [*train, compose("project", ["reference=x"])]


def test_the_table_lists_every_parameter_once() -> None:
    listed = [name for names, *_ in read_rows() for name in names]
    assert len(listed) == len(set(listed))
    assert set(listed) == set(inspect.signature(scalex.SCALEX).parameters)


def test_every_setting_of_the_table_exists(configs: list[DictConfig]) -> None:
    missing = object()
    n_settings = 0
    for _, settings, *_ in read_rows():
        for setting in settings:
            n_settings += 1
            group, _, option = setting.partition("=")
            if option:
                assert (ROOT / "conf" / group / f"{option}.yaml").is_file(), setting
            else:
                assert any(OmegaConf.select(cfg, setting, default=missing, throw_on_missing=False) is not missing for cfg in configs), (
                    setting
                )
    assert n_settings >= len(inspect.signature(scalex.SCALEX).parameters) - 1


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_setting_of_a_page_exists(page: Path) -> None:
    known = set(re.findall(r"^  (\S+?)=", "\n".join(read_table(command) for command in ("train", "tune", "project")), re.MULTILINE))
    groups = "dataset|preprocess|model|trainer|callbacks|growth|tune"
    code = [*re.findall(r"`([^`\n]+)`", page.read_text()), *read_blocks(page, "bash")]
    named = {name for one in code for name in re.findall(rf"(?:^|[ '\"])((?:{groups})\.[a-z_.]+)(?:=|$)", one)} - {"growth.json"}
    # What is searched has a test of its own.
    unknown = {name for name in named - known if not name.startswith("tune.space.")}
    assert not unknown


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_python_of_a_page_uses_public_names(page: Path) -> None:
    for block in read_blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "scalex":
                assert hasattr(scalex, node.attr), f"scalex.{node.attr}"


@cache
def read_messages() -> tuple[str, ...]:
    """Return all text in the code of the package, from one inserted value to the next."""
    trees = [ast.parse(path.read_text()) for path in sorted((ROOT / "scalex").rglob("*.py"))]
    return tuple(node.value for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str))


def list_messages() -> list[str]:
    """Return the messages of the page of errors: the first column of its tables."""
    return re.findall(r"^\| `([^`]+)` \|", (ROOT / "docs" / "troubleshooting.md").read_text(), re.MULTILINE)


@pytest.mark.parametrize("message", list_messages())
def test_the_messages_of_the_page_of_errors_are_in_the_code(message: str) -> None:
    for part in message.split("..."):
        assert any(part.strip() in text for text in read_messages()), part


# Signs of commands that need a cluster or several devices, whose "..." stands for something, or that only show settings.
NOT_TYPED = re.compile(r"\.\.\.|launch=(?:slurm|ray|local)|--cfg|--help|--version")
# What follows a command to make its training short.
SHORT = {
    "train": [
        "preprocess.min_features=0", "preprocess.n_top_features=50", "model.max_steps=2", "trainer=cpu",
        "callbacks=[checkpoint,latent_export]",
    ],
    "project": ["trainer=cpu"],
}  # fmt: skip
SHORT["pack"] = []
SHORT["tune"] = [*SHORT["train"][:-1], "callbacks=[latent_export,scores]", "tune.n_trials=1"]


def list_commands() -> list[str]:
    """Return the commands of the pages that can be typed anywhere."""
    lines = [
        line.strip() for page in PAGES for block in read_blocks(page, "bash") for line in block.replace("\\\n", "").splitlines()
    ]  # fmt: skip
    commands = [line for line in lines if re.match(r"(?:scalex|python) (?:train|project|tune|pack)", line)]
    return list(dict.fromkeys(line for line in commands if not NOT_TYPED.search(line.split(" #")[0])))


def test_commands_are_found() -> None:
    assert len(list_commands()) > 30


@pytest.fixture(scope="module")
def typed_in(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the files that the commands name."""
    folder = tmp_path_factory.mktemp("docs")
    cells = demo_cells(80, 400, 2, seed=1)
    more = demo_cells(300, 400, 2, seed=1)
    for one in (cells, more):
        one.obs["donor"] = one.obs["batch"].cat.rename_categories(["donor1", "donor2"])
        one.raw = one.copy()
    for name in ("cells", "a", "rna", "gene_activity", "query", "more", "new", "my cells, day=1 [new]", "donor's cells"):
        # An adapter needs more cells than a training of two steps.
        (more if name in ("query", "more") else cells).write_h5ad(folder / f"{name}.h5ad")
    compress(write_text(cells, folder / "b.csv", ","))
    for name in ("1", "2"):
        write_tenx(cells, folder / "runs" / name / "filtered_feature_bc_matrix")
    arguments = ["dataset=files", "dataset.path=cells.h5ad", "dataset.batch_key=donor", "output=run", *SHORT["train"]]
    assert run_command("train.py", *arguments, cwd=folder).returncode == 0
    shutil.copytree(folder / "run", folder / "mine")
    scalex.Reference.load(folder / "run").pack(folder / "atlas.zip")
    (folder / "outputs").mkdir()
    return folder


@pytest.mark.parametrize("command", list_commands())
def test_commands_can_be_typed(typed_in: Path, command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shell splits the command into words; a process for each would take long."""
    monkeypatch.setenv("WANDB_SILENT", "true")
    # Compiling the search of neighbours takes half a minute.
    monkeypatch.setattr(scanpy.pp, "neighbors", partial(scanpy.pp.neighbors, method="gauss"))
    program, _, code = command.partition(" ")
    split = subprocess.run(["bash", "-c", f"printf '%s\\0' {code}"], cwd=typed_in, capture_output=True, check=True, text=True)
    name, *arguments = split.stdout.split("\0")[:-1]
    kind = "tune" if "tune=scalex" in arguments else name.removesuffix(".py")
    # A reference keeps its preprocessing.
    added: list[Any] = [one for one in SHORT[kind] if not (" reference=" in command and one.startswith("preprocess."))]
    for argument in arguments:
        # Several pages use the same folder.
        if argument.startswith("output="):
            output = typed_in / argument.partition("=")[2].strip("'")
            if output.is_file():
                output.unlink()
            shutil.rmtree(output, ignore_errors=True)
    if any(argument.startswith("resume=") for argument in arguments):
        folder = typed_in / arguments[0].partition("=")[2]
        shutil.copytree(typed_in / "run", folder)
        (folder / "adata.h5ad").unlink()
        added = []
    elif kind == "train" and not any(argument.startswith("dataset") for argument in arguments):
        added += ["dataset.n_cells=80", "dataset.n_features=400"]
    done = (
        run_command(name, *arguments, *added, cwd=typed_in) if program == "python" else run_program(name, *arguments, *added, cwd=typed_in)
    )
    assert done.returncode == 0, f"{shlex.join(arguments)}\n{done.stderr}"
    assert "Results: " in done.stderr or "resume=" in command or done.stdout.startswith("Wrote ")


def test_the_agent_of_wandb_types_a_command_that_trains(typed_in: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent needs the server of Weights & Biases. Its command is made here by its own function."""
    from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

    monkeypatch.setenv("WANDB_SILENT", "true")
    sweep = yaml.safe_load((ROOT / "docs" / "sweep.yaml").read_text())
    assert sweep["metric"]["name"].removeprefix("score/") in SCORES
    drawn = {name: {"value": one["values"][0] if "values" in one else one["max"]} for name, one in sweep["parameters"].items()}
    arguments = create_sweep_command_args({"args": drawn})["args_no_hyphens"]
    command = [one for part in sweep["command"] for one in (arguments if part == "${args_no_hyphens}" else [part])]
    assert command[:3] == ["${env}", "scalex", "train"]
    done = run_program("train", *command[3:], "logger.wandb.offline=true", "output=agent", *SHORT["train"], cwd=typed_in)
    assert done.returncode == 0, done.stderr
    config = yaml.safe_load((typed_in / "agent" / "config.yaml").read_text())
    assert (config["model"]["lr"], config["model"]["n_latent"], config["model"]["schedule"]) == (0.01, 50, "constant")


def test_the_page_of_sweeps_names_what_is_searched_as_the_configuration_does() -> None:
    text = re.search(r"```yaml\n(.*?)```", (ROOT / "docs" / "sweeps.md").read_text(), re.DOTALL)
    assert text is not None
    own = yaml.safe_load(text[1])
    with initialize_config_dir(str(ROOT / "conf"), version_base=None):
        cfg: Any = OmegaConf.to_container(compose("train"))
    assert own.keys() - {"defaults"} <= {"n_trials", "space"}
    assert read_space(own["space"], flatten(cfg)).keys() <= flatten(cfg).keys()
