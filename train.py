"""Integrate cells from the command line; see python train.py --help."""

import logging
import sys
from pathlib import Path
from typing import Any, cast

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

# What a user can mend: said in a line, without a traceback.
MENDABLE = (ValueError, KeyError, OSError, NotImplementedError, FloatingPointError)

# What the run is made of, besides its trainer.
PARTS = ("dataset", "preprocess", "model", "callbacks", "epoch_table", "logger")


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(cfg: DictConfig) -> float | None:
    """Run what the configuration says; the score that a sweep optimises."""
    sweeping = HydraConfig.get().mode == RunMode.MULTIRUN
    if sweeping:
        cfg.output = HydraConfig.get().runtime.output_dir
    try:
        score = run(cfg)
    except (InstantiationException, *MENDABLE) as error:
        cause = error.__cause__ if isinstance(error, InstantiationException) else error
        if sweeping or not isinstance(cause, MENDABLE):
            raise
        sys.exit(f"{type(cause).__name__}: {cause.args[0] if isinstance(cause, KeyError) else cause}")
    if sweeping:
        from scalex.sweep import write_sweep_table

        write_sweep_table(Path(cfg.output).parent)
    return score


def run(cfg: DictConfig) -> float | None:
    """One run, new or resumed."""
    from scalex.files import COMPOSED, new_folder

    if cfg.resume is not None:
        folder = new_folder(cfg.resume, resume=True)
        cfg = cast("DictConfig", OmegaConf.load(folder / COMPOSED))
    else:
        if missing := OmegaConf.missing_keys(cfg):
            raise ValueError(f"Not given: {', '.join(missing)}. Say it on the command line: {min(missing)}=...")
        folder = new_folder(cfg.output)
        OmegaConf.save(cfg, folder / "config.yaml", resolve=True)
        OmegaConf.save(cfg, folder / COMPOSED)
    cfg.output = str(folder)

    # Torch, Lightning and scanpy take seconds to import: only now, so that --help and misspelt options are answered at once.
    from scalex.workflow import fit, logged_to, stopped_at

    settings: Any = OmegaConf.to_container(cfg, resolve=True)
    with logged_to(folder / "log.txt"):
        parts = instantiate({name: settings[name] for name in PARTS}, _convert_="all")
        trainer = instantiate(
            settings["trainer"],
            callbacks=list(parts["callbacks"].values()),
            logger=[parts["epoch_table"], *parts["logger"].values()],
            default_root_dir=str(folder),
            enable_checkpointing="checkpoint" in parts["callbacks"],
            _convert_="all",
        )
        adata = fit(
            parts["dataset"],
            parts["preprocess"],
            parts["model"],
            trainer,
            chunk_size=cfg.chunk_size,
            seed=cfg.seed,
            parameters=settings,
            resume_from=stopped_at(folder),
        )
    logging.getLogger("scalex").info("Results: %s", folder)
    scores = adata.uns["scalex"].get("scores", {})
    if scores and cfg.score not in scores:
        raise ValueError(f"score={cfg.score} was not computed; there are: {', '.join(scores)}.")
    score: float | None = scores.get(cfg.score)
    return score


if __name__ == "__main__":
    main()
