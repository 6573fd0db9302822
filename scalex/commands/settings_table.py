"""The table of all settings with what each takes, ``conf/settings.txt``, which ``--help`` shows."""

from __future__ import annotations

import re
from ast import literal_eval
from collections.abc import Iterator
from typing import Any, Literal, TypeAlias

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from scalex.commands.settings import TRAINER_TYPES, list_settings
from scalex.system.configs import CONF

__all__ = ["Command", "TABLE", "make_table", "read_table"]

Command: TypeAlias = Literal["train", "tune", "project"]

TABLE = CONF / "settings.txt"
# What docstrings and the command line name differently.
WORD = re.compile(r"\b(?:None|True|False)\b")
# Options of groups that have settings besides those of the default options.
OPTIONS: dict[Command, tuple[tuple[str, ...], ...]] = {
    "train": (
        (),
        ("dataset=files",),
        ("preprocess=atac",),
        ("preprocess=adt",),
        ("callbacks=[early_stopping]",),
        ("callbacks=[markers]",),
        ("callbacks=[pseudobulk]",),
        ("trainer=ddp",),
    ),
    "tune": ((),),
    "project": ((),),
}


def make_table() -> str:
    """Return, for each setting of the commands, its name, its default, what it takes and what it means."""
    return "".join(f"Settings of scalex {command}\n\n{''.join(_list_lines(command))}\n" for command in OPTIONS)


def read_table(command: Command) -> str:
    """Return the part of a command of the table."""
    _, _, after = TABLE.read_text().partition(f"Settings of scalex {command}\n\n")
    return after.partition("\n\n")[0]


def _list_lines(command: Command) -> Iterator[str]:
    listed = set[str]()
    for options in OPTIONS[command]:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            settings: Any = OmegaConf.to_container(compose(command, list(options)), resolve=False)
        # What libraries take depends on their versions.
        found = [one for one in list_settings(settings, command) if one.name not in listed and not _is_of_library(one.name)]
        # The others are those of training.
        found = [one for one in found if command != "tune" or one.name.startswith("tune.")]
        listed |= {one.name for one in found}
        for one in found:
            yield f"  {one.name}={_write(one.value)}".ljust(62) + f"  {one.takes}{f'   ({options[0]})' if options else ''}\n"
            if one.meaning:
                yield f"      {WORD.sub(lambda word: _write(literal_eval(word[0])), one.meaning)}\n"


def _write(value: Any) -> str:
    """Return a value as on the command line."""
    return {None: "null", True: "true", False: "false"}[value] if isinstance(value, bool | None) else str(value)


def _is_of_library(name: str) -> bool:
    group, _, last = name.partition(".")
    return group == "logger" or (group == "trainer" and last not in TRAINER_TYPES)
