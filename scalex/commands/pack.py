"""The command ``scalex pack``: a reference as one file for others."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from scalex.commands.errors import describe_error
from scalex.system.overrides import format_for_shell
from scalex.system.settings import check_values, describe_nearest

__all__ = ["pack"]

HELP = """Write a reference to one .zip for others, without the expression of its cells. The run folder stays as it is.

  scalex pack reference=run output=atlas.zip
  scalex pack reference=run output=atlas.zip title='Lung, 2026' species=human license=CC-BY-4.0 contact=lab@example.org
  scalex pack reference=run output=atlas.zip obs=false              without annotation and names of its cells
  scalex pack reference=run output=atlas.zip obs='[cell_type]'      with these columns of obs alone

Settings, as NAME=VALUE:

  reference=???     the folder of a finished training, or a .zip of one
  output=???        the file to write, which ends with .zip and does not exist
  obs=true          columns of obs in the file: true (all), false (none) or a list; domains and clusters are always there
  title=null        text for the card
  species=null      text for the card. Of Ensembl identifiers of common species it is known
  license=null      text for the card: what others may do with the file
  contact=null      text for the card

The .zip holds a card (README.md). Others give it, or its https:// address with the checksum that is shown at the end, as reference=.
"""
NEEDED, TEXTS = ("reference", "output"), ("title", "species", "license", "contact")
MB = 1e6


def pack(arguments: Sequence[str]) -> None:
    """Pack a reference as the arguments say, and write what to do with the file.

    Raises
    ------
    SystemExit
        For an error of the user, with one line.
    """
    if {"--help", "-h"} & set(arguments):
        sys.stdout.write(HELP)
        return
    try:
        settings = _read_settings(arguments)
        from scalex.projection.reference import Reference

        given, output = settings.pop("reference"), Path(settings.pop("output"))
        options = check_values(Reference.pack, settings)
        sha256 = Reference.load(given).pack(output, **options)
    except Exception as error:
        message = describe_error(error)
        if message is None:
            error.add_note("This is a defect of SCALEX. Please report it with these lines.")
            raise
        sys.exit(message)
    sys.stdout.write(
        f"Wrote {output} ({output.stat().st_size / MB:.1f} MB). Its card is README.md in it.\n"
        f"sha256={sha256}\n"
        f"To use it: scalex project {format_for_shell('reference', output)} dataset.path=query.h5ad\n"
        f"By its address: scalex project 'reference=https://.../{output.name}#sha256={sha256}' dataset.path=query.h5ad\n"
    )


def _read_settings(arguments: Sequence[str]) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for argument in arguments:
        name, equals, value = argument.partition("=")
        known = (*NEEDED, "obs", *TEXTS)
        if not equals:
            raise ValueError(f"{argument}: this is no setting as NAME=VALUE. scalex pack --help lists them.")
        if name not in known:
            raise ValueError(f"{name}: there is no such setting{describe_nearest(name, known)}")
        settings[name] = _read_columns(value) if name == "obs" else value
    if missing := [name for name in NEEDED if not settings.get(name)]:
        raise ValueError(f"Missing settings: {', '.join(f'{name}=' for name in missing)}. scalex pack --help shows how.")
    return settings


def _read_columns(value: str) -> Any:
    """Return true, false or a list, as Hydra reads it for other commands."""
    try:
        return yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ValueError(f"obs={value}: true, false or a list such as [cell_type,donor] is needed.") from error
