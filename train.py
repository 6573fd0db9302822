"""Integrate cells from the command line; see python train.py --help."""

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

# What a user can mend: said in a line, without a traceback.
MENDABLE = (ValueError, KeyError, OSError, NotImplementedError, FloatingPointError)

Result = TypeVar("Result")

# What the run is made of, besides its trainer.
PARTS = ("dataset", "preprocess", "model", "callbacks", "epoch_table", "logger")


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(cfg: DictConfig) -> float | None:
    """Run what the configuration says; the score that a sweep optimises."""
    score = explained(run, cfg)
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
    except (InstantiationException, *MENDABLE) as error:
        cause = error.__cause__ if isinstance(error, InstantiationException) else error
        if sweeping or not isinstance(cause, MENDABLE):
            raise
        sys.exit(f"{type(cause).__name__}: {cause.args[0] if isinstance(cause, KeyError) else cause}")


def run(cfg: DictConfig) -> float | None:
    """One run, new or resumed."""
    from scalex.runs.folder import COMPOSED, new_folder, not_given
    from scalex.system.processes import process_rank, wait_for

    first = process_rank() == 0
    if cfg.resume is None and not first:
        what = "Give the folder with output=: its default name holds the time, on which processes do not agree."
        wait_for(Path(cfg.output) / COMPOSED, what, seconds=120)
        cfg.resume = cfg.output
    if cfg.resume is not None:
        folder = new_folder(cfg.resume, resume=True) if first else Path(cfg.resume)
        cfg = cast("DictConfig", OmegaConf.load(folder / COMPOSED))
    else:
        not_given(OmegaConf.missing_keys(cfg))
        folder = new_folder(cfg.output)
        OmegaConf.save(cfg, folder / "config.yaml", resolve=True)
        OmegaConf.save(cfg, folder / COMPOSED)
    cfg.output = str(folder)

    # Torch, Lightning and scanpy take seconds to import: only now, so that --help and misspelt options are answered at once.
    from scalex.runs.folder import stopped_at
    from scalex.runs.log import logged_to
    from scalex.training.fit import fit

    settings: Any = OmegaConf.to_container(cfg, resolve=True)
    with logged_to(folder / "log.txt" if first else None):
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
            sys.argv[1:] = [f"resume={folder.absolute()}"]
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
    if first:
        logging.getLogger("scalex").info("Results: %s", folder)
    scores = adata.uns["scalex"].get("scores", {})
    if scores and cfg.score not in scores:
        raise ValueError(f"score={cfg.score} was not computed; there are: {', '.join(scores)}.")
    score: float | None = scores.get(cfg.score)
    return score


if __name__ == "__main__":
    main()
