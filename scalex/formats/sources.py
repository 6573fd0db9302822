"""Sources of cells, from paths, globs and names."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from glob import glob
from pathlib import Path

from scalex.formats.advice import advise_url
from scalex.formats.folders import list_entries

__all__ = ["find_sources", "name_sample", "name_source", "split_h5mu_path"]

# The folder in which names without a path are looked up, as in the published package.
DATA_FOLDER = Path("~/.scalex")
# Names that a tool gives to its results of every sample, and of genomes. The name of a folder above them tells the sample.
RESULT = re.compile(
    r"outs|adata|alevin|(sample_)?(filtered|raw)(_(feature|gene|peak)_bc_matri(x|ces))?|Solo\.out|Gene(Full.*)?|Velocyto"
    r"|counts?(_(un)?filtered)?|DGE_(un)?filtered|(count_)?matrix|quants_mat|cells_x_(genes|features|tcc)(\..*)?|(hg|mm|GRCh|GRCm)\d+",
    re.IGNORECASE,
)


def find_sources(entry: str | Path) -> list[Path]:
    """Return the sources of a path, a glob or a name, in alphabetical order.

    Parameters
    ----------
    entry
        A path, a glob with ``*``, ``?`` or ``[...]``, ``file.h5mu/modality``, or a name. A name stands for a file in the working directory
        or, with or without its extension, in ``~/.scalex/``.

    Raises
    ------
    FileNotFoundError
        If there is no such file; the message lists the folders that were searched. If the entry is a URL.
    """
    if not str(entry).strip() or str(entry) == ".":
        raise FileNotFoundError("path is empty: give a file or folder of cells.")
    advice = advise_url(str(entry))
    if advice is not None:
        raise FileNotFoundError(f"{entry} is a URL: {advice}.")
    path = Path(entry).expanduser()
    if path.exists() or split_h5mu_path(path) is not None:
        return [path]
    if re.search(r"[*?\[]", str(path)):
        matches = sorted(glob(str(path), recursive=True))  # noqa: PTH207
        if not matches:
            raise FileNotFoundError(f"Nothing matches {entry} (searched from {Path.cwd()}).")
        return [Path(match) for match in matches]
    if path.parent.suffix == ".h5mu":
        path = path.parent
    folders = [path.absolute().parent]
    if path.name == str(path):
        data_folder = DATA_FOLDER.expanduser()
        folders.append(data_folder)
        for candidate in (data_folder / path.name, data_folder / f"{path.name}.h5ad"):
            if candidate.exists():
                return [candidate]
    raise FileNotFoundError(f"No such file: {path} (searched in {' and '.join(map(str, folders))}{_describe_similar(path)}).")


def split_h5mu_path(path: Path) -> tuple[Path, str] | None:
    """Return the file and the modality of ``file.h5mu/modality``; None for any other path."""
    if path.parent.suffix == ".h5mu" and path.parent.is_file():
        return path.parent, path.name
    return None


def name_source(path: Path) -> str:
    """Return the default name of a source: the name of the file without extensions, with the modality if there is one."""
    modality = split_h5mu_path(path)
    if modality is None:
        name = re.sub(r"(?:\.(?:h5ad|zarr|csv|tsv|txt|mtx|h5|hdf5|h5mu|loom|gz|bz2|xz|zip))+$", "", path.name) or path.name
    else:
        name = f"{modality[0].stem}-{modality[1]}"
    # Names of files may be no UTF-8, which files of AnnData need.
    return os.fsencode(name).decode(errors="replace")


def name_sample(path: Path) -> str:
    """Return the name of a single source: the default one, or that of a folder above it if a tool gives this name to every sample."""
    names = [name_source(path), *(name_source(folder) for folder in path.absolute().parents[:-1])]
    return next((name for name in names if RESULT.fullmatch(name) is None), names[0])


def _describe_similar(path: Path) -> str:
    """Return text that names files similar to a missing one, for a message."""
    if not path.parent.is_dir():
        return ", a folder that does not exist"
    names: Sequence[str] = [file.name for file in list_entries(path.parent) if file.stem.lower() == path.stem.lower()]
    return f"; similar: {', '.join(names[:5])}" if names else ""
