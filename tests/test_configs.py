"""Every option of every group composes, and says what the signatures say."""

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

CONF = Path(__file__).parents[1] / "conf"
OPTIONS = [f"{path.parent.name}={path.stem}" for path in sorted(CONF.glob("*/*.yaml"))]
# Settings whose default is the folder or the seed of the run, which a signature cannot know.
OF_THE_RUN = {"folder", "seed", "path"}


def composed(*overrides: str, command: str = "train") -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose(command, overrides=[*overrides, "output=out"])


def resolved(node: Any) -> dict[str, Any]:
    plain = OmegaConf.to_container(node, resolve=True)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def signature_of(target: str) -> dict[str, Any]:
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
    cfg = composed(option, *(["dataset.path=x.h5ad"] if option.startswith("dataset=") and "demo" not in option else []))
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
def test_a_config_lists_all_settings_with_the_defaults_of_the_signature(option: str, node: str) -> None:
    overrides = [option, "dataset.path=x"] if option == "dataset=h5ad" else [option]
    selected = OmegaConf.select(composed(*overrides), node)
    listed = resolved(selected)
    expected = signature_of(listed.pop("_target_"))
    assert listed.keys() == expected.keys()
    for name in listed.keys() - OF_THE_RUN:
        assert listed[name] == expected[name], name


@pytest.mark.parametrize("dataset", [path.stem for path in sorted((CONF / "dataset").glob("*.yaml"))])
@pytest.mark.parametrize("trainer", [path.stem for path in sorted((CONF / "trainer").glob("*.yaml"))])
def test_project_composes_with_every_dataset_and_trainer(dataset: str, trainer: str) -> None:
    path = [] if dataset == "demo" else ["dataset.path=x.h5ad"]
    cfg = composed(f"dataset={dataset}", f"trainer={trainer}", "reference=run", *path, command="project")
    assert not OmegaConf.missing_keys(cfg)
    assert instantiate(cfg.dataset, _convert_="all") is not None
    # How long a training takes is not asked of a projection.
    assert not {"max_steps", "max_epochs"} & resolved(cfg.trainer).keys()


def test_project_lists_the_settings_of_project_with_their_defaults() -> None:
    cfg = composed("dataset.path=x", "reference=run", command="project")
    listed = {key: value for key, value in resolved(cfg).items() if key not in ("dataset", "trainer", "hydra", "output", "reference")}
    expected = signature_of("scalex.projection.project.project") | {
        "append": signature_of("scalex.projection.to_folder.project_to")["append"]
    }
    # What is projected into what, and the defaults of the dataset, are no settings of the projection itself.
    for name in ("reference", "source", "file", "trainer", "parameters"):
        expected.pop(name)
    assert (listed.pop("backed"), listed.pop("seed")) == (True, signature_of("scalex.AnnDataSource")["seed"])
    assert listed == expected


def test_project_asks_for_the_reference_and_the_query() -> None:
    assert set(OmegaConf.missing_keys(composed(command="project"))) == {"reference", "dataset.path"}


def test_cells_stay_on_disk_for_a_projection_and_are_read_for_a_training() -> None:
    assert composed("dataset.path=x", command="project").dataset.backed is True
    assert composed("dataset.path=x", "backed=false", command="project").dataset.backed is False
    assert composed("dataset=h5ad", "dataset.path=x").dataset.backed is False
    assert composed("dataset=h5ad", "dataset.path=x", "dataset.backed=true").dataset.backed is True


def test_growth_lists_the_settings_of_grow_with_their_defaults() -> None:
    cfg = composed("dataset=h5ad", "dataset.path=x")
    listed, expected = resolved(cfg.growth), signature_of("scalex.training.growth.grow")
    assert listed == {name: expected[name] for name in listed}
    of_the_run = {"reference", "source", "module", "trainer", "folder", "chunk_size", "seed", "parameters", "resume_from"}
    assert expected.keys() - of_the_run == listed.keys()
    # The column with known types is that of the cells, however they are given.
    assert composed("dataset=h5ad", "dataset.path=x", "dataset.label_key=kind").growth.label == "kind"
    assert composed("dataset=demo").growth.label == expected["label"]


def test_how_long_it_trains_is_the_models_plan() -> None:
    for path in sorted((CONF / "trainer").glob("*.yaml")):
        assert "max_" not in path.read_text()
        trainer = resolved(composed(f"trainer={path.stem}", "model.max_steps=7", "model.max_epochs=2").trainer)
        assert (trainer["max_steps"], trainer["max_epochs"]) == (7, 2)


@pytest.mark.parametrize("command", ["train", "project"])
def test_the_commands_share_how_they_use_hydra(command: str) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose(command, return_hydra_config=True, overrides=["output=out"])
    assert cfg.hydra.output_subdir is None
    assert cfg.hydra.job.chdir is False
    assert cfg.hydra.run.dir == "."
    assert cfg.hydra.sweep.dir == "out"
    assert cfg.hydra.job_logging.loggers.scalex.handlers == ["console"]
    assert f"python {command}.py" in cfg.hydra.help.template


def test_the_models_change_only_what_the_module_has() -> None:
    for model in ("scalex", "small"):
        listed = resolved(composed(f"model={model}").model)
        assert listed.keys() - {"_target_"} == signature_of("scalex.ScalexModule").keys()


def test_the_paper_is_the_interface_of_the_published_package() -> None:
    cfg = composed("experiment=paper", "dataset=h5ad", "dataset.path=x")
    given = signature_of("scalex.SCALEX")
    assert (cfg.model.batch_size, cfg.model.lr, cfg.model.max_steps) == (given["batch_size"], given["lr"], given["max_iteration"])
    assert (cfg.preprocess.min_features, cfg.preprocess.min_cells) == (given["min_features"], given["min_cells"])
    assert (cfg.seed, cfg.chunk_size, cfg.dataset.join) == (given["seed"], given["chunk_size"], given["join"])
    assert cfg.model.statistics == "domain"
    assert not given["eval"]


def test_trackers_can_be_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    cfg = composed("logger=[tensorboard,wandb]", f"logger.wandb.save_dir={tmp_path}", f"logger.tensorboard.save_dir={tmp_path}")
    made = instantiate(cfg.logger, _convert_="all")
    assert set(made) == {"tensorboard", "wandb"}


@pytest.mark.parametrize(
    ("override", "named"),
    [("model.n_latnt=8", "n_latnt"), ("dataset.pth=x", "pth"), ("model=scalx", "scalx"), ("trainer.max_stps=1", "max_stps")],
)
def test_a_misspelt_option_is_named(override: str, named: str) -> None:
    with pytest.raises(ConfigCompositionException, match=named):
        composed(override)


@pytest.mark.parametrize(("override", "named"), [("apend=true", "apend"), ("trainer.max_steps=1", "max_steps"), ("model.lr=1", "model")])
def test_a_misspelt_option_of_a_projection_is_named(override: str, named: str) -> None:
    with pytest.raises(ConfigCompositionException, match=named):
        composed(override, command="project")
