"""Integrate cells from the command line; see python train.py --help."""

import logging
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

# What a user can mend: said in a line, without a traceback.
MENDABLE = (ValueError, KeyError, OSError, NotImplementedError, FloatingPointError)

Result = TypeVar("Result")

# What the run is made of, besides its trainer.
PARTS = ("dataset", "preprocess", "model", "callbacks", "epoch_table", "logger")


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(cfg: DictConfig) -> float | None:
    """Run what the configuration says; the score that a sweep optimises."""
    score = explained(partial(run, overrides=HydraConfig.get().overrides.task), cfg)
    if HydraConfig.get().mode == RunMode.MULTIRUN:
        from scalex.runs.sweep_table import write_sweep_table

        write_sweep_table(Path(cfg.output).parent)
    return score


def explained(run: Callable[[DictConfig], Result], cfg: DictConfig) -> Result:
    """Run; what a user can mend is said in a line. In a sweep, each run has its folder and errors are Hydra's to collect."""
    sweeping = HydraConfig.get().mode == RunMode.MULTIRUN
    if sweeping:
        cfg.output = HydraConfig.get().runtime.output_dir
    try:
        return run(cfg)
    except OmegaConfBaseException as error:
        if sweeping:
            raise
        what = str(error).splitlines()[0]
        sys.exit(f"{type(error).__name__}: {error.full_key}: {what}. What stands in ${{}} is the value of another setting.")
    except (InstantiationException, *MENDABLE) as error:
        cause = error.__cause__ if isinstance(error, InstantiationException) else error
        if sweeping or not isinstance(cause, MENDABLE):
            raise
        sys.exit(f"{type(cause).__name__}: {cause.args[0] if isinstance(cause, KeyError) else cause}")


def run(cfg: DictConfig, overrides: Sequence[str] = ()) -> float | None:
    """One run, new or resumed."""
    from scalex.runs.folder import COMPOSED, claim_folder, new_folder, not_given
    from scalex.system.processes import ignore_launcher, is_first, make_once, uses_several_processes

    resumed = cfg.resume is not None
    folder = run_folder(cfg, "resume" if resumed else "output")
    if resumed:
        check_resume(overrides)
        cfg = load_config(new_folder(folder, resume=True) / COMPOSED)
    not_given(OmegaConf.missing_keys(cfg))
    together = uses_several_processes(cfg.trainer)
    with ExitStack() as stack:

        def begin() -> DictConfig:
            if not resumed:
                new_folder(folder)
            stack.enter_context(claim_folder(folder))
            if not resumed:
                write_config(cfg, folder)
            return cfg

        if not together:
            stack.enter_context(ignore_launcher())
        if resumed or not together:
            # Where several resume, the first has the folder.
            cfg = begin() if is_first() else cfg
        else:
            hint = "Set output=: its default contains the time, which differs between processes."
            cfg = stack.enter_context(make_once(folder / COMPOSED, begin, OmegaConf.save, load_config, hint=hint, seconds=120))
        cfg.output = str(folder)
        return train(cfg, folder)


def check_resume(overrides: Sequence[str]) -> None:
    """See that nothing is typed beside ``resume=``, since a run goes on with the settings that it began with.

    Raises
    ------
    ValueError
        If there is.
    """
    others = [override for override in overrides if not override.startswith("resume=")]
    if others:
        raise ValueError(
            f"resume= goes on with a run as it was configured, and {' '.join(others)} would change that. Leave it out, or begin a new run "
            "with these settings and another output=."
        )


def write_config(cfg: DictConfig, folder: Path) -> None:
    """Write the configuration of a new run, with its references between settings resolved and as they are."""
    from scalex.runs.folder import COMPOSED
    from scalex.system.atomic_files import atomic_write

    for name, resolve in (("config.yaml", True), (COMPOSED, False)):
        with atomic_write(folder / name) as path:
            OmegaConf.save(cfg, path, resolve=resolve)


def train(cfg: DictConfig, folder: Path) -> float | None:
    """Train in a folder that is made, and embed the cells; the score."""
    # Torch, Lightning and scanpy take seconds to import: only now, so that --help and misspelt options are answered at once.
    from scalex.callbacks.scores import NAMES
    from scalex.runs.folder import stopped_at
    from scalex.runs.log import logged_to
    from scalex.system.overrides import format_override
    from scalex.system.processes import is_first
    from scalex.training.fit import fit

    if cfg.score not in NAMES:
        raise ValueError(f"score={cfg.score}: allowed are {', '.join(NAMES)}.")
    settings: Any = OmegaConf.to_container(cfg, resolve=True)
    with logged_to(folder / "log.txt" if is_first() else None):
        parts = instantiate({name: settings[name] for name in PARTS}, _convert_="all")
        trainer = instantiate(
            settings["trainer"],
            callbacks=list(parts["callbacks"].values()),
            logger=[parts["epoch_table"], *parts["logger"].values()],
            default_root_dir=str(folder),
            enable_checkpointing="checkpoint" in parts["callbacks"],
            _convert_="all",
        )
        if trainer.world_size > 1:
            # The other processes, which Lightning starts with the arguments of this one, take part in this run and begin none.
            sys.argv[1:] = [format_override("resume", folder)]
        task: dict[str, Any] = {
            "chunk_size": cfg.chunk_size,
            "seed": cfg.seed,
            "parameters": settings,
            "resume_from": stopped_at(folder),
        }
        if cfg.reference is None:
            adata = fit(parts["dataset"], parts["preprocess"], parts["model"], trainer, **task)
        else:
            from scalex.projection.reference import Reference
            from scalex.training.growth import grow

            reference = Reference.load(cfg.reference)
            adata = grow(reference, parts["dataset"], parts["model"], trainer, folder=folder, **settings["growth"], **task)
        if is_first():
            logging.getLogger("scalex").info("Results: %s", folder)
    scores = adata.uns["scalex"].get("scores", {})
    if scores and cfg.score not in scores:
        raise ValueError(
            f"score={cfg.score} cannot be computed for these cells; there are: {', '.join(scores)}. All results are in {folder}."
        )
    score: float | None = scores.get(cfg.score)
    return score


def run_folder(cfg: DictConfig, setting: str) -> Path:
    """The folder that a setting names."""
    name = str(cfg[setting])
    if "${" in name:
        raise ValueError(
            f"{setting}={name}: the name of a folder cannot hold ${{, which begins the name of another setting. Choose another."
        )
    return Path(name)


def load_config(path: Path) -> DictConfig:
    """A configuration from a file."""
    return cast("DictConfig", OmegaConf.load(path))


if __name__ == "__main__":
    main()
