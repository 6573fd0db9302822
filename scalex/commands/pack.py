"""The command ``scalex pack``: a reference as one file for others."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from scalex.commands.plain import run_plain
from scalex.system.overrides import format_for_shell

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
MB = 1e6


def pack(arguments: Sequence[str]) -> None:
    """Pack a reference as the arguments say, and write what to do with the file.

    Raises
    ------
    SystemExit
        For an error of the user, with one line.
    """
    run_plain("scalex pack", _pack, arguments, HELP)


def _pack(
    *,
    reference: str,
    output: str,
    obs: bool | Sequence[str] = True,
    title: str | None = None,
    species: str | None = None,
    license: str | None = None,
    contact: str | None = None,
) -> None:
    from scalex.projection.reference import Reference

    path = Path(output)
    sha256 = Reference.load(reference).pack(path, obs=obs, title=title, species=species, license=license, contact=contact)
    sys.stdout.write(
        f"Wrote {path} ({path.stat().st_size / MB:.1f} MB). Its card is README.md in it.\n"
        f"sha256={sha256}\n"
        f"To use it: scalex project {format_for_shell('reference', path)} dataset.path=query.h5ad\n"
        f"By its address: scalex project 'reference=https://.../{path.name}#sha256={sha256}' dataset.path=query.h5ad\n"
    )
