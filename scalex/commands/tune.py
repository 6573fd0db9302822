"""The command ``scalex tune``: a search for good settings, each trial of which is a run, or several with different seeds."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict

from scalex.commands.configuration import check_complete, get_folder, load_config, resolve_settings
from scalex.commands.errors import describe_error
from scalex.commands.hydra_errors import explain
from scalex.commands.run_names import describe_overrides
from scalex.commands.search_arguments import drop_search, list_overrides, show_search, show_training
from scalex.commands.settings import check_search_settings, check_train_settings
from scalex.commands.sweep import is_sweep
from scalex.commands.train import read_scores, run
from scalex.runs.failed_runs import note_failed_run
from scalex.runs.folder import FINISHED, SEARCH, check_unused
from scalex.runs.search_space import Space, read_space
from scalex.runs.study import JOURNAL, Found, TrialFailedError, TrialResult, lock_study, read_trials, search
from scalex.system.atomic_files import atomic_write
from scalex.system.overrides import flatten, format_for_shell, format_value
from scalex.system.processes import uses_several_processes

__all__ = ["tune"]

logger = logging.getLogger("scalex")

# Settings that a search does not try: where the results are, and what it looks for.
NOT_SEARCHED = ("allow", "log_model", "output", "resume", "run_name", "score", "tags", "tracking")
# Settings with other values of which a search goes on.
LIMITS = ("output", "tune.n_trials", "tune.hours")


def tune(cfg: DictConfig) -> float | None:
    """Search as the command line says, and return the best score. Raises the errors of a run before the work starts."""
    _check_kind(cfg)
    options = check_search_settings(resolve_settings(cfg.tune))
    folder = get_folder(cfg, "output")
    cfg.output = str(folder)
    overrides = drop_search(HydraConfig.get().overrides.task)
    present = _check_base(_compose(overrides), overrides)
    space = _make_space(options["space"], present, overrides, options["seeds"])
    _check_space(space, overrides)
    _begin(folder, cfg)
    scores = options["scores"] or [cfg.score]
    trials = {name: options[name] for name in ("n_trials", "hours", "sampler")}
    logger.info("Searches %s for the best %s. Folder: %s", ", ".join(space), " and ".join(scores), folder)
    run_trial = partial(_run_trial, folder=folder, overrides=overrides, seeds=options["seeds"], scores=scores)
    try:
        search(folder, space, run_trial, scores=scores, seed=cfg.seed, first=present, **trials)
    except (KeyboardInterrupt, SystemExit):
        n_completed = read_trials(folder, space, scores).n_completed
        sys.exit(f"Stopped with {n_completed} of {options['n_trials']} trials completed. To go on: {show_search(folder)}")
    except Exception:
        logger.info("The search stops. To go on when the cause is removed: %s", show_search(folder))
        raise
    found = read_trials(folder, space, scores)
    _write_pages(folder, scores)
    _report(found, folder, scores, options["n_trials"])
    return found.best[0].mean[scores[0]] if found.best else None


def _check_kind(cfg: DictConfig) -> None:
    """Check that this is a search alone, and that Optuna is there."""
    if find_spec("optuna") is None:
        raise ValueError("tune needs optuna, which is not installed: pip install 'scalex[tune]'.")
    if is_sweep():
        raise ValueError("a search has no -m. To search several values of a setting: tune.space.NAME=[...].")
    if cfg.resume is not None:
        raise ValueError("resume= continues one run. A search goes on when it is typed again with the same output=.")


def _compose(overrides: Sequence[str]) -> DictConfig:
    """Return the settings of a run."""
    name = HydraConfig.get().job.config_name
    hydra = GlobalHydra.instance().hydra
    try:
        cfg = compose("train" if name in (None, "tune") else name, list(overrides))
    except HydraException as error:
        message = explain(error, "train")
        # The explanation composes other settings.
        GlobalHydra.instance().hydra = hydra
        raise ValueError(message) from error
    with open_dict(cfg):
        # The user's own experiment may name a search.
        cfg.pop("tune", None)
    return cfg


def _check_base(cfg: DictConfig, overrides: Sequence[str]) -> dict[str, Any]:
    """Check the settings without those of a trial, and return them by name, with the options of groups."""
    check_complete(cfg)
    settings = resolve_settings(cfg)
    checked = check_train_settings(settings, overrides)
    if uses_several_processes(checked["trainer"]):
        raise ValueError(
            "Each trial trains in one process: use trainer=auto (or cpu, gpu) with trainer.devices=1. For several trials at a time, type "
            "the same command several times with the same output=."
        )
    if not any(str(one["_target_"]).rpartition(".")[2] == "Scores" for one in checked["callbacks"].values()):
        raise ValueError(f"callbacks=[{','.join(checked['callbacks'])}]: a search needs scores. Add scores: callbacks=[scores,...].")
    return flatten(settings) | {str(group): option for group, option in HydraConfig.get().runtime.choices.items()}


def _make_space(given: Mapping[str, Any], present: Mapping[str, Any], overrides: Sequence[str], seeds: Sequence[int] | None) -> Space:
    """Return the settings to search, without those that the command line gives a value."""
    space = read_space(given, present)
    excluded = [name for name in space if name in NOT_SEARCHED or (name == "seed" and seeds) or name.startswith(("tune", "hydra"))]
    if excluded:
        reason = "tune.seeds averages over it" if excluded[0] == "seed" else "it is not part of what a run does"
        raise ValueError(f"tune.space.{excluded[0]}: a search cannot try {excluded[0]}: {reason}. Leave it out.")
    fixed = [name for name in space if name in {one.lstrip("+~").partition("=")[0] for one in overrides}]
    if fixed:
        logger.info("Not searched, since the command line gives a value: %s", ", ".join(fixed))
    space = {name: one for name, one in space.items() if name not in fixed}
    if not space:
        raise ValueError("tune.space is empty: name settings to search, as in 'tune.space.model.lr={low: 0.0001, high: 0.01, log: true}'.")
    return space


def _check_space(space: Space, overrides: Sequence[str]) -> None:
    """Check the ends of all ranges and all values of choices as settings of a run."""
    for n in range(max(len(one.examples) for one in space.values())):
        examples = list_overrides({name: one.examples[n % len(one.examples)] for name, one in space.items()})
        check_train_settings(resolve_settings(_compose([*overrides, *examples])))


def _begin(folder: Path, cfg: DictConfig) -> None:
    """Write the settings to the folder, or check that they are those of the search in it."""
    if not (folder / SEARCH).exists():
        check_unused(folder)
        if (folder / "multirun.yaml").exists():
            raise FileExistsError(f"The folder {folder} holds another sweep. Choose another with output=.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OSError(f"Cannot write to the output folder {folder} ({error.strerror}). Choose another with output=.") from error
    with lock_study(folder):
        if (folder / SEARCH).exists():
            _check_same(load_config(folder / SEARCH), cfg, folder)
        with atomic_write(folder / SEARCH) as path:
            OmegaConf.save(cfg, path)


def _check_same(stored: DictConfig, cfg: DictConfig, folder: Path) -> None:
    there, here = (flatten(OmegaConf.to_container(one, resolve=False)) for one in (stored, cfg))  # type: ignore[arg-type]
    differing = [name for name in there | here if name not in LIMITS and there.get(name) != here.get(name)]
    if differing:
        values = ", ".join(f"{name} was {format_value(there.get(name))} and is {format_value(here.get(name))}" for name in differing[:3])
        raise FileExistsError(
            f"The folder {folder} holds a search with other settings ({values}). Give the same settings to go on, or another output=."
        )


def _run_trial(
    number: int,
    settings: Mapping[str, Any],
    *,
    folder: Path,
    overrides: Sequence[str],
    seeds: Sequence[int] | None,
    scores: Sequence[str],
) -> dict[str, list[float]]:
    """Run a trial with each seed, and return each score of each run."""
    logger.info("Trial %s: %s", number, " ".join(list_overrides(settings)))
    found: dict[str, list[float]] = {}
    for seed in (None,) if seeds is None else seeds:
        path = folder / (str(number) if seed is None else f"{number}-seed{seed}")
        own = list_overrides({**settings, **({} if seed is None else {"seed": seed})})
        placed = [f"output={format_value(str(path))}", f"run_name={format_value(describe_overrides(own))}"]
        _run_one([*overrides, *own, *placed], [*overrides, *own], path)
        for name, value in read_scores(path).items():
            found.setdefault(name, []).append(value)
    _write_pages(folder, scores)
    mean = {name: sum(found[name]) / len(found[name]) for name in scores if name in found}
    logger.info("Trial %s: %s", number, ", ".join(f"{name} {value:.4f}" for name, value in mean.items()))
    return found


def _run_one(overrides: Sequence[str], given: Sequence[str], folder: Path) -> None:
    """Run a trial with one seed.

    Raises
    ------
    TrialFailedError
        If its settings are the reason of an error, and not a full disk or a folder in use.
    """
    try:
        run(_compose(overrides), given, of_sweep=True)
    except Exception as error:
        if (folder / FINISHED).exists():
            # The score of the command line, which need not be the one of the search, cannot be computed.
            return
        if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
            raise
        message = describe_error(error)
        # What is not an error of the user, such as too little memory, is shown in full.
        logger.error("Run %s failed: %s", folder.name, message or error, exc_info=error if message is None else None)  # noqa: TRY400
        message = message or f"{type(error).__name__}: {error}"
        note_failed_run(folder.parent, folder.name, message)
        raise TrialFailedError(message) from error


def _write_pages(folder: Path, scores: Sequence[str]) -> None:
    from scalex.runs.sweep_page import write_sweep

    write_sweep(folder, scores)


def _report(found: Found, folder: Path, scores: Sequence[str], n_trials: int) -> None:
    """Log the best trials and what to do with them."""
    counts = {"completed": found.n_completed, "failed": found.n_failed, "run by other processes": found.n_unfinished}
    logger.info("Trials: %s", ", ".join(f"{count} {name}" for name, count in counts.items() if count))
    if found.n_completed + found.n_unfinished < n_trials:
        logger.info("For %s completed trials: %s", n_trials, show_search(folder))
    if len(scores) > 1:
        logger.info("Best trials (no other is better by all of %s):", ", ".join(scores))
    for trial in found.best:
        logger.info("%s %s: %s", "Best: trial" if len(scores) == 1 else "Trial", trial.number, _describe(trial, scores))
        logger.info("  To train with these settings: %s", show_training(trial.settings))
        path = folder / (str(trial.number) if (folder / str(trial.number)).exists() else f"{trial.number}-seed...")
        logger.info("  Its folder, a reference for new cells: %s", path)
    if found.best and "ari" not in found.best[0].mean:
        logger.info("No types are known: total tells bad settings from good ones, but hardly good ones from each other (docs/model.md)")
    logger.info("Table: %s, page: %s", folder / "sweep.csv", folder / "sweep.html")
    logger.info("Optuna's own page (pip install optuna-dashboard): optuna-dashboard %s", format_for_shell("", folder / JOURNAL)[1:])


def _describe(trial: TrialResult, scores: Sequence[str]) -> str:
    spread = f" (mean and standard deviation of {trial.n_runs} seeds)" if trial.n_runs > 1 else ""
    values = (f"{name} {trial.mean[name]:.4f}" + (f" ± {trial.spread[name]:.4f}" if spread else "") for name in scores)
    return ", ".join(values) + spread
