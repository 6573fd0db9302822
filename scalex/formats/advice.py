"""What to do about files that cannot be read as they are, by their names."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

__all__ = ["AdvisedError", "advise_extension", "advise_url"]


class AdvisedError(ValueError):
    """Error whose message names the file and says what to do, so that nothing is to be added."""


# By a pattern of the end of the name. {path}: the file, {folder}: its folder, {unpacked}: its name without the last extension.
ADVICE = {
    r"\.tar|\.tgz|\.tbz2?|\.txz|\.tar\.\w+": "is an archive: unpack it with tar -xf {path} -C {folder}, and give the files in it",
    r"\.gz": "is compressed: unpack it with gunzip -k {path}, and give {unpacked}",
    r"\.bz2": "is compressed: unpack it with bunzip2 -k {path}, and give {unpacked}",
    r"\.xz": "is compressed: unpack it with unxz -k {path}, and give {unpacked}",
    r"\.zst": "is compressed: unpack it with zstd -d {path}, and give {unpacked}",
    r"\.zip|\.7z|\.rar": "is an archive: unpack it, as with unzip {path} -d {folder}, and give the files in it",
    r"\.rds": (
        "is an object of R. In R, write its cells to .h5ad: "
        "zellkonverter::writeH5AD(Seurat::as.SingleCellExperiment(readRDS({name})), 'cells.h5ad')"
    ),
    r"\.rda|\.rdata": (
        "holds objects of R. In R, load({name}) and write its cells to .h5ad: "
        "zellkonverter::writeH5AD(Seurat::as.SingleCellExperiment(object), 'cells.h5ad')"
    ),
    r"\.h5seurat": "is a file of Seurat. In R, convert it to .h5ad: SeuratDisk::Convert({name}, dest = 'h5ad')",
    r"\.xlsx?|\.ods": "is a spreadsheet: save its sheet as .csv",
    r"\.np[yz]": "holds arrays without names. In Python, add them: anndata.AnnData(array, obs=..., var=...).write_h5ad('cells.h5ad')",
    r"\.parquet|\.feather|\.pickle|\.pkl": "is a table of pandas. In Python, write it: anndata.AnnData(table).write_h5ad('cells.h5ad')",
    r"\.fastq|\.fq|\.bam|\.cram|\.sra": "holds reads, not counts: count them first, with a program such as Cell Ranger or STARsolo",
}
DOWNLOAD = {"http": "curl -LO {}", "https": "curl -LO {}", "ftp": "curl -LO {}", "s3": "aws s3 cp {} .", "gs": "gsutil cp {} ."}


def advise_extension(path: Path) -> str | None:
    """Return what a file is by its name and what to do; None if that is unknown."""
    advice = next((text for pattern, text in ADVICE.items() if re.search(rf"(?:{pattern})$", path.name, re.IGNORECASE)), None)
    if advice is None:
        return None
    file, folder = (shlex.quote(str(part)) for part in (path, path.parent))
    return advice.format(path=file, folder=folder, unpacked=path.with_suffix(""), name=repr(str(path)))


def advise_url(entry: str) -> str | None:
    """Return what to do about a URL; None if the text is none. The second slash is absent if the text has been a path."""
    match = re.match(r"([a-z][a-z0-9+.-]+):/+(.*)", entry, re.IGNORECASE)
    if match is None:
        return None
    scheme, rest = match[1].lower(), match[2]
    if scheme == "file":
        return f"give the path itself, /{rest}"
    command = DOWNLOAD.get(scheme)
    url = f"{scheme}://{rest}"
    return "download it first" + (f", with {command.format(shlex.quote(url))}" if command else "") + ", and give the path of the file"
