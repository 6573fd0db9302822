"""Checking of all settings of a command before the work starts, against the signatures of what they are given to."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from pydantic import StringConstraints

from scalex.commands.meanings import read_comments, read_docstring
from scalex.system.configs import CONF
from scalex.system.settings import (
    Count,
    Described,
    NonNegative,
    Number,
    Positive,
    Seed,
    SettingError,
    check_value,
    check_values,
    describe,
    describe_nearest,
    read_types,
)

__all__ = ["Setting", "check_project_settings", "check_search_settings", "check_train_settings", "list_settings"]

# Groups of settings from which the objects of a training are created.
GROUPS = ("dataset", "preprocess", "model", "callbacks", "epoch_table", "logger", "trainer")
# Packages that are not installed with SCALEX, by the last part of the name of what needs them.
OPTIONAL_PACKAGES = {"TensorBoardLogger": "tensorboard", "open_mlflow": "mlflow"}
# "auto", -1 for all, a number, or a list of numbers with commas.
Devices: TypeAlias = Annotated[str, StringConstraints(pattern=r"^(auto|-1|\d+(,\d+)*,?)$")]
# Ranges of settings of Lightning's trainer, whose signature has only types.
TRAINER_TYPES: Mapping[str, Any] = {
    "accelerator": Literal["auto", "cpu", "gpu", "cuda"],
    "devices": Annotated[Count | Devices | Sequence[Number], Described("a whole number of at least 1, a list of devices, or auto")],
    "precision": Literal["32-true", "bf16-mixed", "16-mixed", "bf16-true", "16-true", "64-true"],
    "deterministic": bool | Literal["warn"],
    "num_nodes": Count,
    "max_steps": Count | None,
    "max_epochs": Count | None,
    "gradient_clip_val": NonNegative | None,
    "log_every_n_steps": Count,
    "accumulate_grad_batches": Count,
}


def check_train_settings(settings: Mapping[str, Any], overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Return the settings of ``train.py``, converted to their types.

    Parameters
    ----------
    settings
        All settings, resolved.
    overrides
        Those on the command line.

    Raises
    ------
    ValueError
        If a setting does not exist, has another type, is out of range, or has no effect. The message names it.
    """
    search = {"tune": check_search_settings(settings["tune"])} if settings.get("tune") is not None else {}
    checked = _check({name: value for name, value in settings.items() if name not in search}, _read_train_types()) | search
    if checked["reference"] is not None:
        unused = [one for one in overrides if one.startswith(("preprocess=", "preprocess."))]
        if unused:
            raise ValueError(f"{' '.join(unused)}: reference= keeps the preprocessing of the reference. Leave it out.")
    if not isinstance(settings["growth"], Mapping):
        raise SettingError("growth", "null" if settings["growth"] is None else str(settings["growth"]), "settings as growth.NAME=VALUE,")
    checked["growth"] = _check_node(_get_target("scalex.training.growth.grow"), settings["growth"], "growth.")
    _check_callbacks(checked["callbacks"])
    _create(checked, ("dataset", "preprocess", "model"))
    return checked


def check_project_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of ``project.py``, converted to their types. Raises the errors of `check_train_settings`."""
    from scalex.projection.adaptation import check_adapter_options

    checked = _check(settings, _read_project_types())
    check_adapter_options(adapt=checked["adapt"], adapter=checked["adapter"], fit_on=checked["fit_on"])
    _create(checked, ("dataset",))
    return checked


def check_search_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a search, ``tune``, converted to their types. Those to search are not looked at.

    Raises
    ------
    ValueError
        If a setting does not exist, has another type or is out of range. The message names it.
    """
    types = _read_search_types()
    for name in settings:
        if name not in types:
            raise ValueError(f"tune.{name}: there is no such setting{describe_nearest(name, types)}")
    checked = {name: check_value(kind, f"tune.{name}", settings.get(name)) for name, kind in types.items()}
    for name in ("seeds", "scores"):
        values = checked[name]
        if values is not None and (not values or len(set(values)) < len(values)):
            raise SettingError(f"tune.{name}", f"[{','.join(map(str, values))}]", "a list of different values")
    return checked


class Setting(NamedTuple):
    """A setting of a command.

    Attributes
    ----------
    name
        Its name, with those of its groups, as in "model.lr".
    takes
        What it takes, in words.
    value
        Its value.
    meaning
        A sentence, or nothing if none is known.
    """

    name: str
    takes: str
    value: Any
    meaning: str


def list_settings(settings: Mapping[str, Any], command: Literal["train", "tune", "project"]) -> Iterator[Setting]:
    """Yield each setting of a command."""
    types = _read_project_types() if command == "project" else _read_train_types()
    comments = read_comments(CONF / ("project.yaml" if command == "project" else "train.yaml"))
    for name, value in settings.items():
        if name in types:
            yield Setting(name, describe(types[name]), value, comments.get(name, ""))
        elif name == "growth":
            kinds = read_types(_get_target("scalex.training.growth.grow"))
            for own, one in value.items():
                yield Setting(f"growth.{own}", describe(kinds[own]), one, comments.get(f"growth.{own}", ""))
        elif name == "tune":
            kinds, comments = _read_search_types(), read_comments(CONF / "tune" / "base.yaml")
            for own, one in value.items():
                yield Setting(f"tune.{own}", describe(kinds[own]), {} if own == "space" else one, comments.get(own, ""))
        elif isinstance(value, Mapping):
            yield from _list_node(value, f"{name}.", comments)


def _list_node(node: Mapping[str, Any], prefix: str, comments: Mapping[str, str]) -> Iterator[Setting]:
    types, meanings = dict[str, Any](), dict[str, str]()
    if "_target_" in node:
        target = _get_target(node["_target_"])
        types, meanings = read_types(target), read_docstring(target)
    if prefix == "trainer.":
        types |= TRAINER_TYPES
        meanings = {name: text for path in (CONF / "trainer").glob("*.yaml") for name, text in read_comments(path).items() if text}
    for name, value in node.items():
        if isinstance(value, Mapping):
            yield from _list_node(value, f"{prefix}{name}.", comments)
        elif not name.startswith("_"):
            takes = describe(types[name]) if name in types else "any value"
            yield Setting(prefix + name, takes, value, comments.get(prefix + name) or meanings.get(name, ""))


def _read_train_types() -> dict[str, Any]:
    from scalex.callbacks import LatentExport, UmapPlot
    from scalex.callbacks.scores import SCORE_NAMES
    from scalex.training.fit import fit

    # Names that are not known before the program runs.
    score: Any = Literal[tuple(SCORE_NAMES)]
    return {
        "seed": Seed,
        "output": str,
        "resume": str | None,
        "allow": Sequence[str],
        "reference": str | None,
        "score": score,
        "impute": read_types(LatentExport)["impute"],
        "max_cells": read_types(UmapPlot)["max_cells"],
        "chunk_size": read_types(fit)["chunk_size"],
        "run_name": str | None,
        "tags": Mapping[str, str],
        "tracking": str,
        "log_model": bool,
    }


def _read_search_types() -> dict[str, Any]:
    from scalex.runs.study import Sampler

    score: Any = _read_train_types()["score"]
    return {
        "n_trials": Count,
        "hours": Positive | None,
        "seeds": Sequence[Seed] | None,
        "scores": Sequence[score] | None,
        "sampler": Sampler,
        "space": Annotated[Mapping[str, Any], Described("settings with ranges or lists of values")],
    }


def _read_project_types() -> dict[str, Any]:
    from scalex.projection.project import project

    types = read_types(project)
    options = {name: types[name] for name in ("repeat", "impute", "label", "statistics", "chunk_size", "least_found")}
    adapter = {"adapt": bool, "fit_on": str | None, "adapter": str | None}
    return {"reference": str, "output": str, "append": bool, "backed": bool, "seed": Seed} | options | adapter


def _check(settings: Mapping[str, Any], types: Mapping[str, Any]) -> dict[str, Any]:
    known = [*types, *GROUPS, "growth"]
    for name in settings:
        if name not in known:
            raise ValueError(f"{name}: there is no such setting{describe_nearest(name, known)}")
    # Settings that others refer to come first, so that the message names what was given.
    checked = {name: check_value(types[name], name, settings[name]) for name in types if name in settings}
    checked |= {name: _check_group(name, settings[name]) for name in GROUPS if name in settings}
    return {name: checked.get(name, value) for name, value in settings.items()}


def _check_group(group: str, node: Any) -> Any:
    if not isinstance(node, Mapping):
        raise SettingError(group, "null" if node is None else str(node), f"an option of conf/{group}, or settings as {group}.NAME=VALUE,")
    if "_target_" in node:
        return _check_object(node, f"{group}.")
    # A group of several objects, such as callbacks. One that is null is left out.
    for name, one in node.items():
        if one is not None and not (isinstance(one, Mapping) and "_target_" in one):
            raise SettingError(f"{group}.{name}", str(one), f"an object with a _target_, as in conf/{group},")
    return {name: _check_object(one, f"{group}.{name}.") for name, one in node.items() if one is not None}


def _check_object(node: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    target = _get_target(node["_target_"], prefix)
    package = OPTIONAL_PACKAGES.get(str(node["_target_"]).rpartition(".")[2])
    if package is not None and find_spec(package) is None:
        raise ValueError(f"{prefix.removesuffix('.')} needs {package}, which is not installed: pip install 'scalex[{package}]'.")
    if prefix == "trainer.":
        _check_trainer(node)
    # Where the number of cells decides how many steps there are, Lightning gets its own name for that.
    known = {"max_steps": None} if prefix == "trainer." and node.get("max_steps", 0) is None else {}
    rest = {name: value for name, value in node.items() if name not in known}
    return {name: value for name, value in node.items() if name.startswith("_")} | known | _check_node(target, rest, prefix)


def _check_node(target: Any, node: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Return the settings of one object or function, with those of objects within it."""
    nested = {
        name: _check_object(value, f"{prefix}{name}.") for name, value in node.items() if isinstance(value, Mapping) and "_target_" in value
    }
    plain = {name: value for name, value in node.items() if name not in nested and not name.startswith("_")}
    checked = check_values(target, plain, prefix)
    return {name: nested.get(name, checked.get(name)) for name in node if not name.startswith("_")}


def _check_trainer(node: Mapping[str, Any]) -> None:
    import torch

    for name, kind in TRAINER_TYPES.items():
        if name in node:
            check_value(kind, f"trainer.{name}", node[name])
    if node.get("devices") in (0, "0", []):
        raise SettingError("trainer.devices", str(node["devices"]), describe(TRAINER_TYPES["devices"]))
    if node.get("accelerator") in ("gpu", "cuda") and not torch.cuda.is_available():
        raise ValueError(f"trainer.accelerator={node['accelerator']}: torch finds no GPU on this machine. Use trainer=auto or trainer=cpu.")


def _check_callbacks(callbacks: Mapping[str, Any]) -> None:
    from scalex.callbacks import LatentExport

    targets = [_get_target(one["_target_"]) for one in callbacks.values()]
    if not any(isinstance(target, type) and issubclass(target, LatentExport) for target in targets):
        raise ValueError(
            f"callbacks=[{','.join(callbacks)}]: none of them keeps the latents. Add latent_export: callbacks=[latent_export,...]."
        )


def _create(settings: Mapping[str, Any], groups: Sequence[str]) -> None:
    """Create the objects of some groups, which check what depends on several of their settings. Nothing is read.

    Raises
    ------
    ValueError
        If a constructor refuses its settings.
    """
    for group in groups:
        try:
            instantiate(settings[group], _convert_="all")
        except InstantiationException as error:
            if not isinstance(error.__cause__, ValueError):
                raise
            raise ValueError(f"{group}.{error.__cause__}") from error


def _get_target(name: Any, prefix: str = "") -> Any:
    """Return a class or function by its full name.

    Raises
    ------
    ValueError
        If there is none.
    """
    parts = str(name).split(".")
    for n in range(len(parts) - 1, 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:n]))
        except ModuleNotFoundError as error:
            if error.name is None or not ".".join(parts[:n]).startswith(error.name):
                raise ValueError(f"{prefix}_target_={name} needs {error.name}, which is not installed.") from error
            continue
        for part in parts[n:]:
            found = getattr(found, part, None)
        if callable(found):
            return found
        break
    raise ValueError(f"{prefix}_target_={name}: there is no such class or function.")
