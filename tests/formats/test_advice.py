from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from anndata import AnnData
from formats.damaged import assert_refused, open_cells
from formats.written import write_h5ad, write_zarr

from scalex.cells.stores import STORES
from scalex.formats import READERS, find_sources, name_sample, name_source


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("cells.h5ad.gz", r"is compressed: unpack it with gunzip -k '.*/a folder/cells\.h5ad\.gz', and give .*/a folder/cells\.h5ad\."),
        ("cells.loom.bz2", r"is compressed: unpack it with bunzip2 -k "),
        ("cells.h5.xz", r"is compressed: unpack it with unxz -k "),
        ("cells.h5ad.zst", r"is compressed: unpack it with zstd -d "),
        ("GSE1_RAW.tar", r"is an archive: unpack it with tar -xf '.*/GSE1_RAW\.tar' -C '.*/a folder', and give the files in it\."),
        ("GSE1.tar.gz", r"is an archive: unpack it with tar -xf "),
        ("GSE1.TGZ", r"is an archive: unpack it with tar -xf "),
        ("cells.h5ad.zip", r"is an archive: unpack it, as with unzip '.*' -d '.*', and give the files in it\."),
        (
            "cells.rds",
            r"is an object of R\. In R, .*: zellkonverter::writeH5AD\(Seurat::as\.SingleCellExperiment\(readRDS\('.*/cells\.rds'",
        ),
        ("cells.RData", r"holds objects of R\. In R, load\('.*/cells\.RData'\) and write its cells to \.h5ad"),
        (
            "cells.h5seurat",
            r"is a file of Seurat\. In R, convert it to \.h5ad: SeuratDisk::Convert\('.*/cells\.h5seurat', dest = ",
        ),
        ("cells.xlsx", r"is a spreadsheet: save its sheet as \.csv\."),
        ("cells.npz", r"holds arrays without names\. In Python, add them: anndata\.AnnData\(array, obs=\.\.\., var=\.\.\.\)"),
        ("cells.parquet", r"is a table of pandas\. In Python, write it: anndata\.AnnData\(table\)\.write_h5ad\('cells\.h5ad'\)\."),
        ("reads.bam", r"holds reads, not counts: count them first, with a program such as Cell Ranger or STARsolo\."),
    ],
)
def test_a_file_that_cannot_be_read_gets_advice(tmp_path: Path, name: str, match: str) -> None:
    (tmp_path / "a folder").mkdir()
    (tmp_path / "a folder" / name).write_bytes(b"0" * 600)
    assert_refused(tmp_path / "a folder" / name, match)


@pytest.mark.parametrize(
    ("url", "match"),
    [
        (
            "https://example.org/cells.h5ad",
            r"is a URL: download it first, with curl -LO https://example\.org/cells\.h5ad, and give",
        ),
        (
            "s3://bucket/cells.h5ad",
            r"is a URL: download it first, with aws s3 cp s3://bucket/cells\.h5ad \., and give the path of the file",
        ),
        ("gs://bucket/cells.h5ad", r"is a URL: download it first, with gsutil cp gs://bucket/cells\.h5ad \., and"),
        ("file:///data/cells.h5ad", r"is a URL: give the path itself, /data/cells\.h5ad\."),
        ("abc://cells.h5ad", r"is a URL: download it first, and give the path of the file\."),
    ],
)
def test_a_url_is_to_be_downloaded(url: str, match: str) -> None:
    for entry in (url, Path(url)):
        with pytest.raises(FileNotFoundError, match=match):
            find_sources(entry)


@pytest.mark.parametrize("name", ["cells.h5ad", "cells.loom", "cells.h5mu", "cells.h5", "cells.mtx", "cells.zarr.zip"])
def test_the_content_of_any_file_is_named_if_it_is_no_data(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("<!DOCTYPE html><html></html>")
    assert_refused(tmp_path / name, rf"{name} is a web page, not data: the download failed or needs a login\. Download the file again\.")
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\n")
    assert_refused(tmp_path / name, rf"{name} is a pointer of Git LFS, not the data: run git lfs pull")


def test_a_zip_with_the_folder_of_a_store_gets_one_piece_of_advice(few: AnnData, tmp_path: Path) -> None:
    folder = write_zarr(few, tmp_path / "cells.zarr")
    shutil.make_archive(str(tmp_path / "outer.zarr"), "zip", tmp_path, folder.name)
    assert_refused(
        tmp_path / "outer.zarr.zip",
        r"outer\.zarr\.zip has neither \.zgroup nor zarr\.json at its top: zip the contents of the zarr folder, not the folder itself\.$",
    )


def test_stores_are_formats_and_each_extension_is_left_out_of_names() -> None:
    assert set(STORES) <= set(READERS)
    for extension in READERS:
        assert name_source(Path(f"cells{extension}")) == "cells"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("data/patient1.h5ad", "patient1"),
        ("data/GSM1_matrix.mtx.gz", "GSM1_matrix"),
        ("S7/outs/filtered_feature_bc_matrix", "S7"),
        ("S7/outs/filtered_feature_bc_matrix.h5", "S7"),
        ("S7/outs", "S7"),
        ("S7/outs/filtered_gene_bc_matrices/hg19", "S7"),
        ("S7/Solo.out/GeneFull/filtered", "S7"),
        ("S7/outs/per_sample_outs/A/count/sample_filtered_feature_bc_matrix", "A"),
        ("runs/first/adata.h5ad", "first"),
        ("S7/counts_unfiltered/cells_x_genes.mtx", "S7"),
        ("study.h5mu/rna", "study.h5mu/rna"),
        ("/outs", "outs"),
    ],
)
def test_a_sample_has_the_name_that_no_tool_has_given(path: str, name: str) -> None:
    assert name_sample(Path(path)) == name.replace("study.h5mu/", "")


def test_a_path_with_a_colon_is_a_path(few: AnnData, tmp_path: Path) -> None:
    path = write_h5ad(few, tmp_path / "a:b.h5ad")
    assert len(open_cells(path).obs) == 30
