"""The table of all settings with what each takes, ``conf/settings.txt``, which ``--help`` shows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, TypeAlias

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from scalex.commands.settings import TRAINER_TYPES, list_settings
from scalex.commands.stored import CONF

__all__ = ["Command", "TABLE", "make_table", "read_table"]

Command: TypeAlias = Literal["train", "project"]

TABLE = CONF / "settings.txt"
# Options of groups that have settings besides those of the default options.
OPTIONS: dict[Command, tuple[tuple[str, ...], ...]] = {
    "train": (
        (),
        ("dataset=files",),
        ("preprocess=atac",),
        ("preprocess=adt",),
        ("callbacks=[early_stopping]",),
        ("trainer=ddp",),
    ),
    "project": ((),),
}


def make_table() -> str:
    """Return a line for each setting of the commands: its name, its default and what it takes."""
    return "".join(f"Settings of python {command}.py\n\n{''.join(_list_lines(command))}\n" for command in OPTIONS)


def read_table(command: Command) -> str:
    """Return the part of a command of the table."""
    _, _, after = TABLE.read_text().partition(f"Settings of python {command}.py\n\n")
    return after.partition("\n\n")[0]


def _list_lines(command: Command) -> Iterator[str]:
    listed = set[str]()
    for options in OPTIONS[command]:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            settings: Any = OmegaConf.to_container(compose(command, list(options)), resolve=False)
        # What libraries take depends on their versions.
        rows = [row for row in list_settings(settings, command) if row[0] not in listed and not _is_of_library(row[0])]
        listed |= {name for name, _, _ in rows}
        for name, words, value in rows:
            default = {None: "null", True: "true", False: "false"}.get(value, value) if isinstance(value, bool | None) else value
            yield f"  {name}={default}".ljust(62) + f"  {words}{f'   ({options[0]})' if options else ''}\n"


def _is_of_library(name: str) -> bool:
    group, _, last = name.partition(".")
    return group == "logger" or (group == "trainer" and last not in TRAINER_TYPES)
