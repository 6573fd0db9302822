"""The name and the tags of a run in trackers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from scalex.commands.stored import TRACKING

__all__ = ["describe_overrides", "name_in_trackers"]

# Options of groups that are tags of a run.
GROUPS = ("preprocess", "model")
# Letters of a tag.
LONGEST = 60


def name_in_trackers(cfg: DictConfig, folder: Path, overrides: Sequence[str], *, of_sweep: bool) -> None:
    """Set the name and the tags of a run in trackers, and the folder of the trackers' files.

    Parameters
    ----------
    cfg
        All settings, which are changed.
    folder
        The run folder.
    overrides
        Settings of this run on the command line.
    of_sweep
        Whether it is one of several runs, whose trackers share a folder.
    """
    if cfg.run_name is None:
        cfg.run_name = (describe_overrides(list(_list_varied(folder.parent, overrides))) if of_sweep else "") or folder.resolve().name
    if of_sweep and OmegaConf.to_container(cfg, resolve=False)["tracking"] == TRACKING[0]:  # type: ignore[index,call-overload]
        cfg.tracking = TRACKING[1]
    tags = {"dataset": _name_dataset(cfg.dataset), **_read_choices(), **({"sweep": folder.resolve().parent.name} if of_sweep else {})}
    cfg.tags = {name: value[:LONGEST] for name, value in tags.items()} | dict(cfg.tags)


def describe_overrides(overrides: Sequence[str]) -> str:
    """Return overrides in short, as in "n_latent=16 seed=2"."""
    pairs = [one.lstrip("+~").partition("=") for one in overrides]
    return " ".join(f"{name.rpartition('.')[2]}={value}" for name, _, value in pairs)


def _list_varied(sweep: Path, overrides: Sequence[str]) -> Iterator[str]:
    """Yield those settings of a run that are not the same in all runs of its sweep."""
    path = sweep / "multirun.yaml"
    if not path.exists():
        return
    hydra = OmegaConf.load(path).hydra
    parsed = OverridesParser.create().parse_overrides(list(hydra.overrides.task))
    varied = {one.get_key_element() for one in parsed if one.is_sweep_override()} | set(hydra.sweeper.params or {})
    yield from (one for one in overrides if one.partition("=")[0] in varied)


def _read_choices() -> dict[str, str]:
    if not HydraConfig.initialized():
        return {}
    choices = HydraConfig.get().runtime.choices
    return {name: str(choices[name]) for name in GROUPS if choices.get(name)}


def _name_dataset(dataset: Any) -> str:
    path = dataset.get("path")
    if path is None:
        return str(dataset.get("_target_", "")).rpartition(".")[2]
    paths = [str(one) for one in path] if OmegaConf.is_list(path) else [str(path)]
    return Path(paths[0]).name + (f" and {len(paths) - 1} more" if len(paths) > 1 else "")
