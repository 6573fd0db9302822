"""Tests that every option of every group composes and agrees with the signatures."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from scalex.runs.search_space import read_space
from scalex.system.overrides import flatten

CONF = Path(__file__).parents[1] / "conf"
OPTIONS = [f"{path.parent.name}={path.stem}" for path in sorted(CONF.glob("*/*.yaml"))]
# Settings whose defaults are the folder or the seed of the run, which no signature knows.
RUN_SETTINGS = {"folder", "seed", "path"}


def compose_config(*overrides: str, command: str = "train") -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(command, overrides=[*overrides, "output=out"])


def to_plain(node: Any) -> dict[str, Any]:
    plain = OmegaConf.to_container(node, resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def list_defaults(target: str) -> dict[str, Any]:
    """Return the defaults of the parameters of a function or class."""
    module, name = target.rsplit(".", 1)
    parameters = inspect.signature(getattr(importlib.import_module(module), name)).parameters
    return {p.name: p.default for p in parameters.values()}


@pytest.mark.parametrize("option", OPTIONS)
def test_each_option_composes(option: str) -> None:
    group, _, name = option.partition("=")
    if group in ("callbacks", "logger"):
        option = f"{group}=[{name}]"
    elif option == "launch=ray":
        pytest.importorskip("hydra_plugins.hydra_ray_launcher", reason="needs pip install '.[ray]'")
    cfg = compose_config(option, *(["dataset.path=x.h5ad"] if option.startswith("dataset=") and "demo" not in option else []))
    assert not OmegaConf.missing_keys(cfg)
    OmegaConf.to_container(cfg, resolve=True)


@pytest.mark.parametrize(
    ("option", "node"),
    [
        ("preprocess=rna", "preprocess"),
        ("preprocess=atac", "preprocess"),
        ("preprocess=adt", "preprocess"),
        ("preprocess=none", "preprocess"),
        ("model=paper", "model"),
        ("dataset=h5ad", "dataset"),
        ("dataset=demo", "dataset"),
        ("callbacks=[progress]", "callbacks.progress"),
        ("callbacks=[checkpoint]", "callbacks.checkpoint"),
        ("callbacks=[latent_export]", "callbacks.latent_export"),
        ("callbacks=[umap_plot]", "callbacks.umap_plot"),
        ("callbacks=[scores]", "callbacks.scores"),
    ],
)
def test_a_config_lists_all_parameters_with_their_defaults(option: str, node: str) -> None:
    overrides = [option, "dataset.path=x"] if option == "dataset=h5ad" else [option]
    selected = OmegaConf.select(compose_config(*overrides), node)
    listed = to_plain(selected)
    expected = list_defaults(listed.pop("_target_"))
    assert listed.keys() == expected.keys()
    for name in listed.keys() - RUN_SETTINGS:
        assert listed[name] == expected[name], name


@pytest.mark.parametrize("dataset", [path.stem for path in sorted((CONF / "dataset").glob("*.yaml"))])
@pytest.mark.parametrize("trainer", [path.stem for path in sorted((CONF / "trainer").glob("*.yaml"))])
def test_project_composes_with_every_dataset_and_trainer(dataset: str, trainer: str) -> None:
    path = [] if dataset == "demo" else ["dataset.path=x.h5ad"]
    cfg = compose_config(f"dataset={dataset}", f"trainer={trainer}", "reference=run", *path, command="project")
    assert not OmegaConf.missing_keys(cfg)
    assert instantiate(cfg.dataset, _convert_="all") is not None
    # A projection has no length of training.
    assert not {"max_steps", "max_epochs"} & to_plain(cfg.trainer).keys()


def test_the_config_of_project_lists_all_parameters_with_their_defaults() -> None:
    cfg = compose_config("dataset.path=x", "reference=run", command="project")
    listed = {key: value for key, value in to_plain(cfg).items() if key not in ("dataset", "trainer", "hydra", "output", "reference")}
    expected = list_defaults("scalex.projection.project.project") | {
        name: list_defaults("scalex.projection.to_folder.project_to")[name] for name in ("append", "adapt", "fit_on", "adapter")
    }
    # Reference, query and the defaults of the dataset are not settings of the projection itself.
    for name in ("reference", "source", "file", "trainer", "parameters"):
        expected.pop(name)
    assert (listed.pop("backed"), listed.pop("seed")) == (True, list_defaults("scalex.AnnDataSource")["seed"])
    assert listed == expected


def test_project_needs_a_reference_and_a_query() -> None:
    assert set(OmegaConf.missing_keys(compose_config(command="project"))) == {"reference", "dataset.path"}


def test_cells_stay_in_files_for_a_projection_but_not_for_a_training() -> None:
    assert compose_config("dataset.path=x", command="project").dataset.backed is True
    assert compose_config("dataset.path=x", "backed=false", command="project").dataset.backed is False
    assert compose_config("dataset=h5ad", "dataset.path=x").dataset.backed is False
    assert compose_config("dataset=h5ad", "dataset.path=x", "dataset.backed=true").dataset.backed is True


def test_the_config_of_growth_lists_all_parameters_with_their_defaults() -> None:
    cfg = compose_config("dataset=h5ad", "dataset.path=x")
    listed, expected = to_plain(cfg.growth), list_defaults("scalex.training.growth.grow")
    assert listed == {name: expected[name] for name in listed}
    run_settings = {"reference", "source", "module", "trainer", "folder", "chunk_size", "seed", "parameters", "resume_from"}
    assert expected.keys() - run_settings == listed.keys()
    # The column of known types is that of the dataset.
    assert compose_config("dataset=h5ad", "dataset.path=x", "dataset.label_key=kind").growth.label == "kind"
    assert compose_config("dataset=demo").growth.label == expected["label"]


def test_the_model_determines_the_length_of_the_training() -> None:
    for path in sorted((CONF / "trainer").glob("*.yaml")):
        assert "max_" not in path.read_text()
        trainer = to_plain(compose_config(f"trainer={path.stem}", "model.max_steps=7", "model.max_epochs=2").trainer)
        assert (trainer["max_steps"], trainer["max_epochs"]) == (7, 2)


@pytest.mark.parametrize("command", ["train", "tune", "project"])
def test_the_commands_share_their_settings_of_hydra(command: str) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose(command, return_hydra_config=True, overrides=["output=out"])
    assert cfg.hydra.output_subdir is None
    assert cfg.hydra.job.chdir is False
    assert cfg.hydra.run.dir == "."
    assert cfg.hydra.sweep.dir == "out"
    assert cfg.hydra.job_logging.loggers.scalex.handlers == ["console"]
    assert cfg.hydra.job.name == command


def test_the_config_of_a_search_lists_its_settings_with_their_defaults() -> None:
    listed = to_plain(compose_config("tune=base").tune)
    expected = list_defaults("scalex.runs.study.search")
    for name in ("n_trials", "hours", "sampler"):
        assert listed[name] == expected[name]
    assert listed.keys() == {"n_trials", "hours", "sampler", "seeds", "scores", "space"}
    # A search by its own command has everything of a run, and a space.
    search = to_plain(compose_config(command="tune"))
    assert search.pop("tune") == to_plain(compose_config("tune=scalex").tune)
    assert search == to_plain(compose_config())


def test_the_default_search_is_around_the_default_settings() -> None:
    cfg = compose_config("tune=scalex")
    settings = flatten(to_plain(cfg))
    space = read_space(to_plain(cfg.tune.space), settings)
    assert all(one.encode(settings[name]) == settings[name] for name, one in space.items())


def test_the_models_list_exactly_the_parameters_of_the_module() -> None:
    for model in ("scalex", "small"):
        listed = to_plain(compose_config(f"model={model}").model)
        assert listed.keys() - {"_target_"} == list_defaults("scalex.ScalexModule").keys()


def test_the_experiment_paper_has_the_defaults_of_scalex() -> None:
    cfg = compose_config("experiment=paper", "dataset=h5ad", "dataset.path=x")
    defaults = list_defaults("scalex.SCALEX")
    assert (cfg.model.batch_size, cfg.model.lr, cfg.model.max_steps) == (defaults["batch_size"], defaults["lr"], defaults["max_iteration"])
    assert (cfg.preprocess.min_features, cfg.preprocess.min_cells) == (defaults["min_features"], defaults["min_cells"])
    assert (cfg.seed, cfg.chunk_size, cfg.dataset.join) == (defaults["seed"], defaults["chunk_size"], defaults["join"])
    assert cfg.model.statistics == "domain"
    assert not defaults["eval"]


def test_trackers_can_be_instantiated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    cfg = compose_config("logger=[tensorboard,wandb]", f"logger.wandb.save_dir={tmp_path}", f"logger.tensorboard.save_dir={tmp_path}")
    trackers = instantiate(cfg.logger, _convert_="all")
    assert set(trackers) == {"tensorboard", "wandb"}


@pytest.mark.parametrize(
    ("override", "name"),
    [("model.n_latnt=8", "n_latnt"), ("dataset.pth=x", "pth"), ("model=scalx", "scalx"), ("trainer.max_stps=1", "max_stps")],
)
def test_the_error_names_a_misspelt_option(override: str, name: str) -> None:
    with pytest.raises(ConfigCompositionException, match=name):
        compose_config(override)


@pytest.mark.parametrize(("override", "name"), [("apend=true", "apend"), ("trainer.max_steps=1", "max_steps"), ("model.lr=1", "model")])
def test_the_error_names_a_misspelt_option_of_a_projection(override: str, name: str) -> None:
    with pytest.raises(ConfigCompositionException, match=name):
        compose_config(override, command="project")
