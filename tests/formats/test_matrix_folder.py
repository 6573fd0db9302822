from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from formats.damaged import AGAIN, assert_refused, open_cells, truncate
from formats.written import ALEVIN, KALLISTO, PARSE, compress, write_layout, write_tenx, write_tenx_h5
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from scalex.formats import read_cells


@pytest.fixture
def folder(few: AnnData, tmp_path: Path) -> Path:
    return write_tenx(few, tmp_path / "sample", gz=False)


def rewrite(path: Path, change: Callable[[list[str]], list[str]]) -> Path:
    """Change the lines of a text file, and return its folder."""
    path.write_text("\n".join(change(path.read_text().splitlines())) + "\n")
    return path.parent


def test_a_truncated_matrix_is_named(few: AnnData, folder: Path, tmp_path: Path) -> None:
    matrix = r"matrix\.mtx{} is not a readable Matrix Market file \(.*\)\. " + AGAIN
    packed = write_tenx(few, tmp_path / "packed")
    truncate(packed / "matrix.mtx.gz")
    with pytest.raises(ValueError, match=matrix.format(r"\.gz")):
        open_cells(packed)
    with pytest.raises(ValueError, match=matrix.format("").replace(".*", "it ends after 949 of the 969 values that its header declares")):
        open_cells(rewrite(folder / "matrix.mtx", lambda lines: lines[:-20]))
    for content in ("", "a,b\n", "%%MatrixMarket matrix coordinate integer general\n40 30 1\n99 1 5\n"):
        (folder / "matrix.mtx").write_text(content)
        with pytest.raises(ValueError, match=matrix.format("")):
            open_cells(folder)


@pytest.mark.parametrize("name", ["barcodes.tsv", "features.tsv"])
def test_an_unreadable_table_is_named(few: AnnData, tmp_path: Path, name: str) -> None:
    folder = write_tenx(few, tmp_path / "packed")
    path = truncate(folder / f"{name}.gz")
    with pytest.raises(ValueError, match=rf"{name}\.gz is not a readable table \(.*\)\. {AGAIN}"):
        open_cells(folder)
    path.write_bytes(gzip.compress(b"\xff\xff\x00"))
    with pytest.raises(ValueError, match=rf"{name}\.gz is not text in UTF-8 \(.*\)\. Save it as text in UTF-8"):
        open_cells(folder)
    path.write_bytes(gzip.compress(b""))
    with pytest.raises(ValueError, match=rf"{name}\.gz is not a readable table \(No columns"):
        open_cells(folder)


@pytest.mark.parametrize(
    ("name", "match"),
    [
        (
            "barcodes.tsv",
            r"has no barcodes\.tsv \(or \.gz of it\) for its matrix\. It holds: features\.tsv, matrix\.mtx\. Add the file of the matrix",
        ),
        ("features.tsv", r"has no features\.tsv, genes\.tsv or peaks\.bed \(or \.gz of it\) for its matrix\. It holds: barcodes\.tsv, ma"),
        (
            "matrix.mtx",
            r"is a folder that holds neither a zarr store nor a matrix in a known layout, but barcodes\.tsv, features\.tsv\. Name a file",
        ),
    ],
)
def test_a_folder_with_a_missing_part_lists_its_contents(folder: Path, name: str, match: str) -> None:
    (folder / name).unlink()
    assert_refused(folder, match)


def test_a_shape_that_differs_from_the_names_is_an_error(folder: Path) -> None:
    with pytest.raises(
        ValueError, match=r"matrix\.mtx has 40 rows and 30 columns, but there are 40 features .* and 29 barcodes .* truncated"
    ):
        open_cells(rewrite(folder / "barcodes.tsv", lambda lines: lines[1:]))
    with pytest.raises(
        ValueError, match=r"40 features .* and 31 barcodes .* truncated, or a table has a header: use matching files without header"
    ):
        open_cells(rewrite(folder / "barcodes.tsv", lambda lines: ["barcode", "x", *lines]))


def test_swapped_features_and_barcodes_are_an_error(folder: Path) -> None:
    (folder / "features.tsv").rename(folder / "x")
    (folder / "barcodes.tsv").rename(folder / "features.tsv")
    (folder / "x").rename(folder / "barcodes.tsv")
    with pytest.raises(
        ValueError, match=r"30 features in features\.tsv and 40 barcodes .* Features and barcodes are swapped: transpose the"
    ):
        open_cells(folder)


def test_one_of_two_matrices_in_a_folder_has_to_be_named(few: AnnData, tmp_path: Path) -> None:
    first, second = few[:10].copy(), few[10:].copy()
    folder = write_tenx(first, tmp_path / "both", prefix="A_")
    write_tenx(second, folder, prefix="B_", gz=False)
    assert_refused(
        folder,
        r"several matrix files, of several samples or of one: A_matrix\.mtx\.gz, B_matrix\.mtx\. Name .* as in .*both/A_matrix\.mtx\.gz",
    )
    for path, own in ((folder / "A_matrix.mtx.gz", first), (folder / "B_matrix.mtx", second)):
        cells = open_cells(path)
        assert list(cells.obs.index) == list(own.obs_names)
        np.testing.assert_array_equal(cells.read(slice(None)).toarray(), own.X.toarray())
    assert len(open_cells([folder / "A_matrix.mtx.gz", folder / "B_matrix.mtx"]).obs) == 30
    # One sample with two files of features.
    folder = write_tenx(first, tmp_path / "twice", gz=False)
    shutil.copy(folder / "features.tsv", folder / "genes.tsv")
    assert_refused(folder, r"holds several features files, .*: features\.tsv, genes\.tsv\. Keep one of them")


def test_names_of_parts_may_be_in_capitals(few: AnnData, folder: Path) -> None:
    (folder / "matrix.mtx").rename(folder / "MATRIX.MTX")
    for path in (folder, folder / "MATRIX.MTX"):
        np.testing.assert_array_equal(open_cells(path).read(slice(None)).toarray(), few.X.toarray())


def test_names_of_cells_may_contain_the_sign_of_comments(few: AnnData, folder: Path) -> None:
    rewrite(folder / "barcodes.tsv", lambda lines: [f"run#{line}" for line in lines])
    assert list(open_cells(folder).obs.index) == [f"run#{name}" for name in few.obs_names]


def test_features_without_a_symbol_are_named_by_their_identifier(few: AnnData, folder: Path) -> None:
    rewrite(folder / "features.tsv", lambda lines: ["ENSG1\t\tGene Expression", "ENSG2\t\tGene Expression", *lines[2:]])
    assert list(open_cells(folder).var.index) == ["ENSG1", "ENSG2", *few.var_names[2:]]


def test_peaks_need_three_columns(few: AnnData, folder: Path) -> None:
    (folder / "features.tsv").unlink()
    rows = [f"chr1\t{i}00\t{i}50" for i in range(40)]
    path = folder / "peaks.bed"
    path.write_text("# of a run\n" + "\n".join(rows))
    assert list(open_cells(folder).var.index[:2]) == ["chr1:000-050", "chr1:100-150"]
    with pytest.raises(ValueError, match=r"peaks\.bed has 2 column\(s\): a \.bed file needs chromosome, start and end, separated by tabs"):
        open_cells(rewrite(path, lambda _: [row.rsplit("\t", 1)[0] for row in rows]))
    with pytest.raises(ValueError, match=r"peaks\.bed: a value is missing in row 40\. The file may be truncated: copy it again"):
        open_cells(rewrite(path, lambda _: [*rows[:-1], "chr1\t5"]))


@pytest.mark.parametrize("kind", ["folder", "h5"])
def test_features_of_one_type_are_selected(few: AnnData, tmp_path: Path, kind: str) -> None:
    types = ["Gene Expression"] * 25 + ["Antibody Capture"] * 15
    if kind == "folder":
        path = write_tenx(few, tmp_path / "sample", gz=False)
        rewrite(
            path / "features.tsv", lambda lines: [f"{line.rsplit(chr(9), 1)[0]}\t{own}" for line, own in zip(lines, types, strict=True)]
        )
    else:
        path = write_tenx_h5(few, tmp_path / "sample.h5")
        with h5py.File(path, "a") as file:
            del file["matrix/features/feature_type"]
            file["matrix/features/feature_type"] = np.array(types, "S")
    assert list(open_cells(path).var.index) == list(few.var_names[:25])
    cells = open_cells(path, feature_type="Antibody Capture")
    np.testing.assert_array_equal(cells.read(slice(None)).toarray(), few.X.toarray()[:, 25:])
    assert_refused(
        path, r"no features of type 'Peaks'\. Types: Gene Expression 25, Antibody Capture 15\. Choose one with", feature_type="Peaks"
    )


def test_feature_type_needs_types_in_the_file(few: AnnData, tmp_path: Path) -> None:
    path = write_tenx(few, tmp_path / "old", features="genes", n_columns=2)
    assert_refused(
        path, "feature_type='Peaks': .*old does not give the types of its features. Leave out feature_type", feature_type="Peaks"
    )


def assert_equal(path: Path, cells: AnnData) -> None:
    found = read_cells(path)
    assert list(found.obs_names) == list(cells.obs_names)
    assert list(found.var_names) == list(cells.var_names)
    np.testing.assert_array_equal(found.X.toarray(), cells.X.toarray())


def test_files_of_macos_are_ignored(few: AnnData, tmp_path: Path) -> None:
    folder = write_tenx(few, tmp_path / "run" / "sample")
    for name in (".DS_Store", "._matrix.mtx.gz", "._barcodes.tsv.gz", "._features.tsv.gz"):
        (folder / name).write_bytes(b"\x00\x05\x16\x07")
    shutil.copytree(folder, tmp_path / "run" / "__MACOSX" / "sample")
    for path in (folder, folder / "matrix.mtx.gz", tmp_path / "run"):
        assert_equal(path, few)


@pytest.mark.parametrize("packed", [False, True])
def test_the_content_decides_whether_a_file_is_compressed(few: AnnData, tmp_path: Path, packed: bool) -> None:
    folder = write_tenx(few, tmp_path / "sample", gz=packed)
    for file in list(folder.iterdir()):
        file.rename(file.with_suffix("") if packed else file.with_name(f"{file.name}.gz"))
    assert_equal(folder, few)


def test_names_may_contain_quotes(few: AnnData, folder: Path) -> None:
    cells = few.copy()
    cells.var_names = ['"x', "5'nuc", 'Su(var)2-"HP2', *few.var_names[3:]]
    rewrite(folder / "features.tsv", lambda lines: [f"{i}\t{name}\tGene Expression" for i, name in enumerate(cells.var_names)])
    assert_equal(folder, cells)


@pytest.mark.parametrize(
    ("filtered", "raw"),
    [
        ("filtered_feature_bc_matrix", "raw_feature_bc_matrix"),
        ("outs/filtered_feature_bc_matrix", "outs/raw_feature_bc_matrix"),
        ("filtered_gene_bc_matrices/hg19", "raw_gene_bc_matrices/hg19"),
        ("Solo.out/Gene/filtered", "Solo.out/Gene/raw"),
        ("DGE_filtered", "DGE_unfiltered"),
        ("outs/per_sample_outs/A/count/sample_filtered_feature_bc_matrix", "outs/multi/count/raw_feature_bc_matrix"),
        ("count/sample_filtered_feature_bc_matrix", "count/sample_raw_feature_bc_matrix"),
    ],
)
def test_the_droplets_with_cells_are_read_from_a_folder_of_results(
    few: AnnData, tmp_path: Path, caplog: pytest.LogCaptureFixture, filtered: str, raw: str
) -> None:
    caplog.set_level("INFO")
    # The name of a folder above does not count.
    top = tmp_path / "raw"
    write_tenx(few[:9].copy(), top / raw)
    (top / "SC_RNA_COUNTER_CS").mkdir()
    assert_equal(top, few[:9].copy())
    write_tenx(few, top / filtered)
    assert_equal(top, few)
    assert f"{top}: reads {filtered}, not {raw}" in caplog.messages


@pytest.mark.parametrize("others", [("hg19", "mm10"), ("A/outs/filtered_feature_bc_matrix", "B/outs/filtered_feature_bc_matrix")])
def test_of_several_genomes_or_samples_one_has_to_be_named(few: AnnData, tmp_path: Path, others: tuple[str, str]) -> None:
    for other in others:
        write_tenx(few, tmp_path / "run" / other)
    match = rf"run holds several matrices: {others[0]}, {others[1]}\. Name one of them, as in \S*run/{others[0]}, or a list of them"
    assert_refused(tmp_path / "run", match)
    assert_equal(tmp_path / "run" / others[1], few)


def test_results_beside_intermediate_files_are_found(few: AnnData, tmp_path: Path) -> None:
    write_tenx(few[:9].copy(), tmp_path / "run" / "SC_RNA_COUNTER_CS" / "files")
    write_tenx(few, tmp_path / "run" / "outs" / "filtered_feature_bc_matrix")
    assert_equal(tmp_path / "run", few)


@pytest.mark.parametrize("gz", [False, True])
@pytest.mark.parametrize("names", [KALLISTO, ALEVIN, PARSE, ("DGE.mtx", "cell_metadata.csv", "genes.csv")])
def test_matrices_of_other_programs_have_a_row_for_each_cell(few: AnnData, tmp_path: Path, names: tuple[str, str, str], gz: bool) -> None:
    folder = write_layout(few, tmp_path / "counts", names, has_header=names[1].endswith(".csv"))
    if gz:
        compress(folder / names[0])
    for path in (folder, tmp_path, folder / f"{names[0]}{'.gz' * gz}"):
        assert_equal(path, few)
    (folder / names[2]).unlink()
    assert_refused(folder, r"counts has no .*\.(txt|csv) \(or \.gz of it\) for its matrix")


def test_annotation_of_the_cells_of_parse_is_kept(few: AnnData, tmp_path: Path) -> None:
    cells = read_cells(write_layout(few, tmp_path / "DGE_filtered", PARSE, has_header=True))
    assert list(cells.obs["sample"]) == ["s1"] * 30
    assert list(cells.obs["tscp_count"]) == [7] * 30
    assert list(cells.var["gene_ids"][:2]) == ["ENSG00000000000", "ENSG00000000001"]
    assert list(cells.var["genome"]) == ["hg38"] * 40


def test_one_of_the_matrices_of_kallisto_for_nuclei_has_to_be_named(few: AnnData, tmp_path: Path) -> None:
    folder = write_layout(few, tmp_path / "counts", ("cells_x_genes.mature.mtx", *KALLISTO[1:]))
    shutil.copy(folder / "cells_x_genes.mature.mtx", folder / "cells_x_genes.nascent.mtx")
    assert_refused(folder, r"several matrix files, .* Name the matrix to read, as in \S*cells_x_genes\.mature\.mtx, or a list of them")
    assert_equal(folder / "cells_x_genes.nascent.mtx", few)


def test_a_table_whose_names_are_all_in_quotes_is_one_of_r(few: AnnData, folder: Path) -> None:
    for name in ("barcodes.tsv", "features.tsv"):
        rewrite(folder / name, lambda lines: ["\t".join(f'"{value}"' for value in line.split("\t")) for line in lines])
    assert_equal(folder, few)


def test_sizes_are_compared_before_the_values_are_read(few: AnnData, folder: Path) -> None:
    rewrite(folder / "matrix.mtx", lambda lines: [lines[0], "2000000000 2000000000 4000000000", *lines[3:]])
    assert_refused(folder, r"matrix\.mtx has 2,000,000,000 rows and 2,000,000,000 columns, but there are 40 features")


def test_a_web_page_for_a_table_is_named(few: AnnData, folder: Path) -> None:
    (folder / "barcodes.tsv").write_text("<!DOCTYPE html>\n<html></html>\n")
    assert_refused(folder, r"barcodes\.tsv is a web page, not data: the download failed or needs a login")


@st.composite
def draw_counts(draw: st.DrawFn) -> AnnData:
    """Draw counts, most of them 0, with names in any script."""
    # Where all names are in quotes, they are read without.
    letters = st.characters(codec="utf-8", categories=["L", "N", "P", "S"], exclude_characters='"') | st.just(" ")
    name = st.text(letters, min_size=1, max_size=6).map(str.strip).filter(bool) | st.sampled_from(
        ["NA", "nan", "007", "1e5", "a#1", 'a"b', ","]
    )
    cells, features = (draw(st.lists(name, min_size=1, max_size=7, unique=True)) for _ in range(2))
    value = st.sampled_from([0, 0, 0, 1, 2]) | st.integers(0, 10_000)
    values = draw(st.lists(value, min_size=len(cells) * len(features), max_size=len(cells) * len(features)))
    matrix = sparse.csr_matrix(np.reshape(values, (len(cells), len(features))).astype(np.float32))
    return AnnData(matrix, obs=pd.DataFrame(index=cells), var=pd.DataFrame(index=features))


@settings(deadline=None, max_examples=50, derandomize=True)
@given(
    cells=draw_counts(), features=st.sampled_from(["features", "genes"]), prefix=st.sampled_from(["", "GSM1_", "a.b-"]), gz=st.booleans(),
    n_columns=st.sampled_from([1, 2, 3]), named=st.booleans(),
)  # fmt: skip
def test_a_folder_is_read_as_it_was_written(
    tmp_path_factory: pytest.TempPathFactory, cells: AnnData, features: str, prefix: str, gz: bool, n_columns: int, named: bool
) -> None:
    folder = write_tenx(cells, tmp_path_factory.mktemp("tenx"), features=features, prefix=prefix, gz=gz, n_columns=n_columns)
    found = read_cells(folder / f"{prefix}matrix.mtx{'.gz' * gz}" if named else folder)
    assert list(found.obs_names) == list(cells.obs_names)
    assert list(found.var_names) == list(cells.var_names)
    assert list(found.var.columns) == ["gene_ids", "feature_types"][: n_columns - 1]
    np.testing.assert_array_equal(found.X.toarray(), cells.X.toarray())
