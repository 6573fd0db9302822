"""Resuming a run folder that somebody else has written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import ROOT, Done, run_command
from hydra import compose, initialize_config_dir

from scalex.commands.configuration import write_config

SETTINGS = [
    "model=small", "model.max_steps=2", "model.n_hidden=16", "dataset.n_cells=100", "dataset.n_features=400", "preprocess.min_features=0",
    "trainer=cpu", "callbacks=[checkpoint,latent_export]", "logger=[tensorboard,mlflow,wandb]",
]  # fmt: skip
Resume = Callable[..., Done]


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    """Return the settings of a run that has begun and can be resumed."""
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        write_config(compose("train", [*SETTINGS, "output=run"]), tmp_path / "run")
    stored: dict[str, Any] = yaml.safe_load((tmp_path / "run" / ".composed.yaml").read_text())
    stored["logger"] = {}
    return stored


@pytest.fixture
def resume(settings: dict[str, Any], tmp_path: Path) -> Resume:
    def write_and_resume(*arguments: str) -> Done:
        (tmp_path / "run" / ".composed.yaml").write_text(yaml.safe_dump(settings))
        return run_command("train.py", "resume=run", *arguments, cwd=tmp_path)

    return write_and_resume


@pytest.mark.parametrize(
    ("part", "target"),
    [("dataset", "torch.load"), ("logger", "pandas.read_pickle"), ("trainer", "torch.load"), ("optimizer", "${score}")],
)
def test_unknown_code_is_not_started(settings: dict[str, Any], resume: Resume, part: str, target: str) -> None:
    settings.setdefault(part, {})["extra"] = [{"_target_": target, "path": "evil"}]
    done = resume()
    assert done.returncode == 1
    found = "total" if target == "${score}" else target
    name = f"{part}.extra.0._target_"
    assert f"ValueError: run/.composed.yaml: {name} starts code of {found}, which no file of conf/ names." in done.stderr
    assert f"add allow=[{found}]" in done.stderr


def test_known_and_allowed_code_is_started(settings: dict[str, Any], resume: Resume, tmp_path: Path) -> None:
    settings["callbacks"]["timer"] = {"_target_": "lightning.pytorch.callbacks.Timer"}
    assert "starts code of lightning.pytorch.callbacks.Timer" in resume().stderr
    (tmp_path / "mine" / "callbacks").mkdir(parents=True)
    (tmp_path / "mine" / "callbacks" / "timer.yaml").write_text("timer: {_target_: lightning.pytorch.callbacks.Timer}\n")
    settings["score"] = "unknown"
    assert "score=unknown: one of" in resume("hydra.searchpath=[file://mine]").stderr
    settings["score"] = "total"
    done = resume("allow=[lightning.pytorch.callbacks.Timer]")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "value", ["${oc.env:SECRET}", "a ${oc.env:SECRET} b", "${oc.select:x,${oc.env:SECRET}}", "${${name}:SECRET}", "\\\\${oc.env:SECRET}"]
)
def test_the_environment_is_not_read(
    settings: dict[str, Any], resume: Resume, monkeypatch: pytest.MonkeyPatch, value: str, tmp_path: Path
) -> None:
    monkeypatch.setenv("SECRET", "hush")
    settings |= {"name": "oc.env", "more": {"value": [value]}}
    done = resume()
    assert done.returncode == 1
    assert f"ValueError: run/.composed.yaml: more.value.0={value} asks for more than other settings and the time." in done.stderr
    assert not [path for path in (tmp_path / "run").rglob("*") if path.is_file() and b"hush" in path.read_bytes()]


def test_settings_from_the_environment_are_stored_as_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LABEL", "cell_type")
    run_command("train.py", *SETTINGS, "logger=csv", "growth.label='${oc.env:LABEL}'", "output=run", cwd=tmp_path)
    stored = yaml.safe_load((tmp_path / "run" / ".composed.yaml").read_text())
    assert stored["growth"]["label"] == "cell_type"
    assert stored["callbacks"]["checkpoint"]["folder"] == "${output}"


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("callbacks", "latent_export.folder", "/elsewhere"),
        ("callbacks", "latent_export.folder", "elsewhere"),
        ("callbacks", "checkpoint.folder", "${output}/../elsewhere"),
        ("epoch_table", "folder", "~/elsewhere"),
        ("logger", "tensorboard.sub_dir", "/elsewhere"),
        ("logger", "tensorboard.name", "../../elsewhere"),
        ("logger", "mlflow.tracking_uri", "sqlite:////elsewhere"),
    ],
)
def test_nothing_is_written_elsewhere(settings: dict[str, Any], resume: Resume, tmp_path: Path, part: str, name: str, value: str) -> None:
    node = settings[part]
    for step in name.split(".")[:-1]:
        node = node.setdefault(step, {})
    node[name.split(".")[-1]] = value
    done = resume()
    assert done.returncode == 1
    assert f"ValueError: run/.composed.yaml: {part}.{name}={value} is outside of the run folder." in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"run"}
    settings["score"] = "unknown"
    assert "score=unknown: one of" in resume(f"allow=['{value}']" if "$" not in value else "allow=['\\${output}/../elsewhere']").stderr


@pytest.mark.parametrize("name", ["run_name", "reference"])
def test_settings_within_the_names_of_places_do_not_lead_elsewhere(
    settings: dict[str, Any], resume: Resume, tmp_path: Path, name: str
) -> None:
    settings[name] = "../../elsewhere"
    settings["logger"] = {
        "board": {"_target_": "lightning.pytorch.loggers.TensorBoardLogger", "save_dir": "${output}", "version": f"${{{name}}}"}
    }
    done = resume()
    assert done.returncode == 1
    assert f"ValueError: run/.composed.yaml: logger.board.version=${{{name}}} is outside of the run folder." in done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"run"}


@pytest.mark.parametrize("name", ["log.txt", "checkpoint", "adata.png"])
def test_links_are_not_followed(resume: Resume, tmp_path: Path, name: str) -> None:
    (tmp_path / "run" / name).unlink(missing_ok=True)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run" / name).symlink_to(tmp_path / "elsewhere")
    done = resume()
    assert done.returncode == 1
    assert f"ValueError: run/{name} is a link, and a resumed run writes only inside its folder. Remove it." in done.stderr
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_run_with_all_trackers_of_conf_can_be_resumed(settings: dict[str, Any], resume: Resume, tmp_path: Path) -> None:
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        write_config(compose("train", [*SETTINGS, "output=other"]), tmp_path / "other")
    settings["logger"] = yaml.safe_load((tmp_path / "other" / ".composed.yaml").read_text())["logger"]
    assert set(settings["logger"]) == {"tensorboard", "mlflow", "wandb"}
    settings["score"] = "unknown"
    assert "score=unknown: one of" in resume().stderr
