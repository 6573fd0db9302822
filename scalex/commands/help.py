"""The text of ``--help``: examples, options of groups and all settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from scalex.commands.meanings import read_first_comment
from scalex.commands.settings_table import Command, read_table
from scalex.system.configs import CONF
from scalex.system.program import name_command

__all__ = ["write_help"]

INTRODUCTIONS: Mapping[Command, str] = {
    "train": """Integrate single cells of several domains (donors, technologies, laboratories) into one embedding.

  {}                                                       the demo cells
  {} dataset.path=cells.h5ad dataset.batch_key=donor       column of obs with the domains
  {} dataset.path='[a.h5ad,b.csv]'                         each file a domain
  {} experiment=paper ...                                  the paper's settings
  {} -m model.n_latent=10,20,30 seed=1,2                   a sweep
  {} resume=outputs/2026-01-31_12-00-00-123456             resume a stopped run
  {} reference=run dataset.path=new.h5ad                   a trained model learns new domains
""",
    "tune": """Search for settings with a better score, by Optuna. Each trial is a run, or several with different seeds.

  {} dataset.path=cells.h5ad dataset.batch_key=donor output=search       the default settings to search
  {} ... output=search                                                   again: go on, or work on the same search at once
  {} ... 'tune.space.model.lr={low: 0.001, high: 0.01, log: true}'       another range, or one more setting
  {} ... 'tune.space={preprocess.n_top_features: [1000, 2000, 4000]}'    other settings to search
  {} ... tune.space.model.lr=null                                        one setting less
  {} ... tune.n_trials=50 tune.hours=8 'tune.seeds=[0,1,2]'              how long, and the mean of three seeds
  {} ... 'tune.scores=[biology,entropy_mixing]'                          the best trials by one score or the other
""",
    "project": r"""Project single cells into the space of a trained model, without training, and report how well they fit.

  {} reference=run dataset.path=query.h5ad dataset.batch_key=donor
  {} reference=run dataset.path=query.h5ad repeat=true            only the new cells
  {} reference=run dataset.path=query.h5ad impute=donor1          as if measured in domain donor1
  {} reference=run dataset.path=query.h5ad adapt=true             a technology unlike all of the training
  {} reference=run dataset.path=query.h5ad adapt=true 'fit_on="condition == \"control\""'
  {} reference=run dataset.path=more.h5ad adapter=out/adapter     more cells of that technology
  {} reference=run dataset.path=query.h5ad append=true output=run2
                                                                  grow the atlas: run2 is a reference, too
""",
}
GROUPS: Mapping[Command, Sequence[str]] = {
    "train": ("dataset", "preprocess", "model", "callbacks", "logger", "trainer", "experiment", "sweep", "launch", "tune"),
    "tune": ("tune", "dataset", "preprocess", "model", "callbacks", "logger", "trainer", "experiment"),
    "project": ("dataset", "trainer"),
}
COMBINATIONS: Mapping[Command, str] = {"train": ", -m (all combinations of values with commas)"}
# Words before the settings.
TITLES: Mapping[Command, str] = {
    "train": "Settings with their defaults, as NAME=VALUE, what they take and what they mean",
    "tune": "Settings of the search, besides all of scalex train --help",
    "project": "Settings with their defaults, as NAME=VALUE, what they take and what they mean",
}


def write_help(command: Command, arguments: Sequence[str]) -> str:
    """Return the text of ``--help``.

    Parameters
    ----------
    command
        Name of a command.
    arguments
        Arguments of the program, which may name a folder of the user's own configurations (``--config-dir``).
    """
    name = name_command(command)
    folders = [CONF, *(Path(one) for one in _find_config_dirs(arguments))]
    options = "".join(_list_options(GROUPS[command], folders))
    return (
        f"{INTRODUCTIONS[command].replace('{}', name)}\n"
        f"Options of groups, as GROUP=OPTION (callbacks and logger take lists, as in logger=[csv,wandb]):\n\n{options}\n"
        f"{TITLES[command]}:\n\n{read_table(command)}\n\n{_show_space() if command == 'tune' else ''}"
        f"More: {name} --cfg job (the settings as they are with the others of the line){COMBINATIONS.get(command, '')},\n"
        "--config-dir FOLDER (options and experiments of your own, in a folder like conf/), --info, --hydra-help.\n"
    )


def _show_space() -> str:
    """Return what a search searches without tune.space."""
    _, _, space = (CONF / "tune" / "scalex.yaml").read_text().partition("space:\n")
    return f"What is searched without tune.space:\n\n{space}\n"


def _find_config_dirs(arguments: Sequence[str]) -> Iterator[str]:
    for n, argument in enumerate(arguments):
        flag, _, folder = argument.partition("=")
        if flag in ("--config-dir", "-cd"):
            yield folder or "".join(arguments[n + 1 : n + 2])


def _list_options(groups: Sequence[str], folders: Sequence[Path]) -> Iterator[str]:
    for group in groups:
        paths = {path.stem: path for folder in folders for path in sorted((folder / group).glob("*.yaml")) if path.stem != "base"}
        for n, (option, path) in enumerate(paths.items()):
            yield f"  {group if n == 0 else '':11} {option:15} {read_first_comment(path)}".rstrip() + "\n"
