"""Tests of joins of sources with other names of features: the joined cells, and the errors for sources that do not match."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from scipy import sparse
from tables import assert_same_table

from scalex.cells import AnnDataSource, BackedCells
from scalex.features.joining import harmonize_names

N = 40
SYMBOLS = ["ACTB", "GAPDH", "CD3E", "MS4A1", "NKG7", *[f"GENE{i}" for i in range(N - 5)]]
HUMAN = [f"ENSG{i:011d}" for i in range(N)]
MOUSE = [f"ENSMUSG{i:011d}" for i in range(N)]
VERSIONED = [f"{name}.{i % 7 + 1}" for i, name in enumerate(HUMAN)]
PEAKS = [f"chr{i % 3 + 1}:{i}000-{i}500" for i in range(N)]
SHIFTED = [f"chr{i % 3 + 1}:{i}200-{i}900" for i in range(N)]
BARCODES = ["".join(np.random.default_rng(i).choice(list("ACGT"), 16)) + "-1" for i in range(N)]


def make_source(features: Sequence[str], *, cells: Sequence[str] = ("c0", "c1", "c2"), seed: int = 0, **var: Sequence[Any]) -> AnnData:
    values = np.random.default_rng(seed).poisson(1.0, (len(cells), len(features)))
    matrix = sparse.csr_matrix(values.astype(np.float32))
    return AnnData(matrix, obs=pd.DataFrame(index=list(cells)), var=pd.DataFrame(var, index=list(features)))


def write_files(sources: Sequence[AnnData], folder: Path) -> list[Path]:
    """Write the files a.h5ad, b.h5ad, ... and return their paths."""
    paths = [folder / f"{name}.h5ad" for name, _ in zip("abcd", sources, strict=False)]
    for one, path in zip(sources, paths, strict=True):
        one.write_h5ad(path)
    return paths


def open_cells(sources: Sequence[AnnData] | Sequence[Path], folder: Path, *, backed: bool, **options: Any) -> Any:
    """Return the opened cells of the sources, which are written to files first."""
    paths = [one for one in sources if isinstance(one, Path)] or write_files([one for one in sources if isinstance(one, AnnData)], folder)
    cells = AnnDataSource(path=paths if len(paths) > 1 else paths[0], backed=backed, **options).open()
    assert isinstance(cells, BackedCells) == backed
    return cells


def read_table(cells: Any) -> pd.DataFrame:
    """Return the expression with the names of the features."""
    return pd.DataFrame(cells.read(slice(None)).toarray(), columns=cells.var.index)


@pytest.fixture(params=[False, True], ids=["in memory", "backed"])
def backed(request: pytest.FixtureRequest) -> Iterator[bool]:
    return request.param


COLUMNS = r"\(columns of a: none; of b: length\)"
MISMATCHES: dict[str, tuple[AnnData, AnnData, str]] = {
    "mouse and human": (
        make_source([name.capitalize() for name in SYMBOLS]),
        make_source(SYMBOLS),
        (
            r"The sources share only 0 features, and the smallest has 40\. The names differ in case "
            r"\(a: Actb, Gapdh, Cd3e, \.\.\.; b: ACTB, .*\)\. Mouse genes are written Actb and human "
            r"genes ACTB: .* map one source to orthologues first"
        ),
    ),
    "mouse and human by Ensembl": (
        make_source(VERSIONED),
        make_source(MOUSE),
        (
            r"The Ensembl identifiers belong to different species \(a: ENSG00000000000\.1, .*; b: ENSMUSG.*\): human ones "
            r"start with ENSG, mouse ones with ENSMUSG\. Map one source to orthologues first"
        ),
    ),
    "symbols and Ensembl": (
        make_source(SYMBOLS),
        make_source(HUMAN, length=range(N)),
        rf"uses Ensembl identifiers and the other symbols \(a: ACTB, .*; b: ENSG.*\)\. .* name it with var_names_from {COLUMNS}. Otherwise",
    ),
    "symbols and Ensembl, identifiers in the first": (
        make_source(SYMBOLS, gene_ids=HUMAN),
        make_source(HUMAN),
        r"symbols and Ensembl .*\. var\['gene_ids'\] of a holds the names that the other uses: set var_names_from=gene_ids\.",
    ),
    "symbols and Ensembl, symbols in the second": (
        make_source(SYMBOLS, length=range(N)),
        make_source(VERSIONED, length=range(N), symbol=SYMBOLS),
        r"symbols and Ensembl .*\. var\['symbol'\] of b holds the names that the other uses: set var_names_from=symbol\.",
    ),
    "Ensembl with versions in a column": (
        make_source(SYMBOLS, gene_ids=VERSIONED),
        make_source(HUMAN),
        r"var\['gene_ids'\] of a holds the names that the other uses: set var_names_from=gene_ids\.",
    ),
    "other names, symbols in a column": (
        make_source([f"probe{i}" for i in range(N)], symbol=SYMBOLS),
        make_source(SYMBOLS),
        r"The sources use different names .* var\['symbol'\] of a holds the names that the other uses: set var_names_from=symbol\.",
    ),
    "peaks of each source": (
        make_source(PEAKS),
        make_source(SHIFTED),
        r"The peaks have different coordinates \(a: chr1:0000-0500, .*; b: chr1:0200-0900, .*\): .* use match_peaks=overlap, which merges",
    ),
    "peaks written differently": (
        make_source(PEAKS),
        make_source([name.replace(":", "-") for name in reversed(PEAKS)]),
        r"The names of the same peaks have different formats \(a: .*; b: .*\)\. Rename the peaks of one source, or use match_peaks=overlap",
    ),
    "peaks and genes": (
        make_source(PEAKS),
        make_source(SYMBOLS),
        r"features of a are peaks and those of b are not \(.*\). Compute gene activities",
    ),
    "genes and peaks": (
        make_source(HUMAN),
        make_source(PEAKS),
        r"features of b are peaks and those of a are not \(.*\). Compute gene activities",
    ),
    "no known difference": (
        make_source(SYMBOLS),
        make_source([f"protein{i}" for i in range(N)]),
        r"share no feature, so an inner join is empty\. Their features: a: ACTB, .*; b: protein0, .* Rename the features, or use",
    ),
}


@pytest.mark.parametrize("kind", MISMATCHES)
def test_the_error_for_an_empty_join_gives_the_reason(tmp_path: Path, backed: bool, kind: str) -> None:
    first, second, match = MISMATCHES[kind]
    with pytest.raises(ValueError, match=match):
        open_cells([first, second], tmp_path, backed=backed)


def test_the_error_names_the_source_that_differs(tmp_path: Path, backed: bool) -> None:
    with pytest.raises(ValueError, match=r"The names differ in case \(a: ACTB, .*; c: Actb, "):
        open_cells(
            [make_source(SYMBOLS), make_source(SYMBOLS), make_source([name.capitalize() for name in SYMBOLS])], tmp_path, backed=backed
        )


def test_the_same_peaks_are_recognized_in_another_order() -> None:
    """Many peaks are compared by more than the first ones."""
    peaks = [f"chr{i // 1000 + 1}:{i}000-{i}500" for i in range(12_000)]
    with pytest.raises(ValueError, match="The names of the same peaks have different formats"):
        AnnDataSource(path=[make_source(peaks), make_source([name.replace(":", "_") for name in reversed(peaks)])]).open()


@pytest.mark.parametrize("features", [SYMBOLS, HUMAN, PEAKS], ids=["symbols", "Ensembl", "peaks"])
@pytest.mark.parametrize("transposed", [0, 1])
def test_the_error_names_a_transposed_source(features: list[str], transposed: int) -> None:
    sources = [make_source(features, cells=[f"c{i}" for i in range(N)]), make_source(BARCODES, cells=features)]
    names = ["right", "transposed"] if transposed else ["transposed", "right"]
    with pytest.raises(
        ValueError,
        match=r"The names of the cells of transposed are features of right \(.*\): one of the two is transposed\. .* transpose=true",
    ):
        AnnDataSource(path=sources if transposed else sources[::-1], batch_categories=names).open()


@pytest.mark.parametrize("join", ["inner", "outer"])
def test_sources_are_joined_by_names_from_a_column_of_var(tmp_path: Path, backed: bool, join: Any) -> None:
    """Sources without the column, and features without a name in it, keep their names."""
    column = [*HUMAN[:-2], None, ""]
    first, second = make_source(SYMBOLS, gene_ids=column, seed=1), make_source(HUMAN[::-1], seed=2)
    cells = open_cells([first, second], tmp_path, backed=backed, join=join, var_names_from="gene_ids")
    expected = pd.concat(
        [first.to_df().set_axis([*HUMAN[:-2], *SYMBOLS[-2:]], axis=1), second.to_df()], join=join, ignore_index=True
    ).fillna(0)
    assert_same_table(read_table(cells)[expected.columns], expected, check_names=False)
    assert len(cells.var) == {"inner": N - 2, "outer": N + 2}[join]


def test_the_error_for_a_missing_column_of_names_lists_the_columns(tmp_path: Path, backed: bool) -> None:
    with pytest.raises(KeyError, match=r"var_names_from='symbol' is not in var of a\. Columns: gene_ids, length\."):
        open_cells([make_source(SYMBOLS, gene_ids=HUMAN, length=range(N))], tmp_path, backed=backed, var_names_from="symbol")


@pytest.mark.filterwarnings("ignore:.* names are not unique")
def test_repeated_names_from_a_column_are_numbered(tmp_path: Path, backed: bool, caplog: pytest.LogCaptureFixture) -> None:
    only = make_source(HUMAN, symbol=pd.Categorical(["ACTB", "ACTB", *SYMBOLS[2:]]))
    cells = open_cells([only], tmp_path, backed=backed, var_names_from="symbol")
    assert list(cells.var.index[:3]) == ["ACTB", "ACTB-1", "CD3E"]
    assert "a: 1 feature names are not unique (ACTB)" in caplog.text
    np.testing.assert_array_equal(read_table(cells), only.to_df())


@pytest.mark.parametrize("others", [[f"{name}.{i % 5 + 3}" for i, name in enumerate(HUMAN)], HUMAN], ids=["other versions", "none"])
def test_different_versions_of_ensembl_identifiers_are_dropped(tmp_path: Path, backed: bool, others: list[str]) -> None:
    first, second = make_source(VERSIONED, seed=1), make_source(others[::-1], seed=2)
    cells = open_cells([first, second], tmp_path, backed=backed)
    assert list(cells.var.index) == HUMAN
    expected = np.concatenate([first.X.toarray(), second.X.toarray()[:, ::-1]])
    np.testing.assert_array_equal(read_table(cells), expected)


def test_equal_versions_of_ensembl_identifiers_stay(tmp_path: Path, backed: bool) -> None:
    assert list(open_cells([make_source(VERSIONED), make_source(VERSIONED[::-1])], tmp_path, backed=backed).var.index) == VERSIONED


@pytest.mark.parametrize("join", ["inner", "outer"])
def test_copies_on_the_y_chromosome_are_joined_separately(tmp_path: Path, backed: bool, join: Any) -> None:
    copies = ["ENSG00000002586.{}", "ENSG00000002586.{}_PAR_Y", "ENSG00000182378.{}"]
    first = make_source([*VERSIONED, *[name.format(20) for name in copies]], seed=1)
    second = make_source([*[name.format(18) for name in reversed(copies)], *VERSIONED], seed=2)
    cells = open_cells([first, second], tmp_path, backed=backed, join=join)
    assert set(cells.var.index) == {*HUMAN, "ENSG00000002586", "ENSG00000002586_PAR_Y", "ENSG00000182378"}
    values = read_table(cells)
    for name, copy in zip(["ENSG00000002586", "ENSG00000002586_PAR_Y", "ENSG00000182378"], copies, strict=True):
        np.testing.assert_array_equal(values[name], [*first.to_df()[copy.format(20)], *second.to_df()[copy.format(18)]])


def test_versions_that_distinguish_features_of_a_source_stay() -> None:
    twice = pd.Index([*VERSIONED[:-1], f"{HUMAN[0]}.30"])
    found = harmonize_names([twice, pd.Index(HUMAN)], ["a", "b"], "exact")
    assert list(found[0]) == [VERSIONED[0], *HUMAN[1:-1], f"{HUMAN[0]}.30"]
    assert list(found[1]) == HUMAN


@pytest.mark.parametrize("join", ["inner", "outer"])
def test_n_sources_is_the_number_of_sources_with_a_feature(tmp_path: Path, backed: bool, join: Any) -> None:
    parts = [SYMBOLS[:30], SYMBOLS[10:], SYMBOLS[5:25]]
    n_sources_found = open_cells([make_source(part) for part in parts], tmp_path, backed=backed, join=join).var["n_sources"]
    for name in SYMBOLS:
        n_sources = sum(name in part for part in parts)
        assert n_sources_found.get(name, 0) == (n_sources if n_sources == 3 or join == "outer" else 0)


def test_a_source_that_lacks_most_features_gives_a_warning(tmp_path: Path, backed: bool, caplog: pytest.LogCaptureFixture) -> None:
    open_cells([make_source(SYMBOLS), make_source(SYMBOLS[:19]), make_source(SYMBOLS[20:])], tmp_path, backed=backed, join="outer")
    messages = [message for message in caplog.messages if "lacks" in message]
    assert messages == ["b lacks 52 % of the joined features. They are 0 in its cells; join=inner drops them."]


FEATURES = ["f1", "F2", "g,h", "é", "中", "x y", "-", "10", "nan", "a.b", "TP53", "MT-ND1"]


@st.composite
def draw_sources(draw: st.DrawFn) -> list[AnnData]:
    """Draw sources, each with its own features, in any order, and its own names of cells."""
    sources = []
    for i in range(draw(st.integers(2, 4))):
        features = draw(st.lists(st.sampled_from(FEATURES), min_size=1, unique=True))
        cells = [f"{'abcd'[i]}{j}" for j in range(draw(st.integers(1, 4)))]
        sources.append(make_source(features, cells=cells, seed=draw(st.integers(0, 99))))
    return sources


@settings(deadline=None, max_examples=30, derandomize=True)
@given(sources=draw_sources(), join=st.sampled_from(["inner", "outer"]))
def test_a_join_is_that_of_pandas(tmp_path_factory: pytest.TempPathFactory, sources: list[AnnData], join: Any) -> None:
    expected = pd.concat([one.to_df() for one in sources], join=join).fillna(0)
    folder = tmp_path_factory.mktemp("joined")
    paths = write_files(sources, folder)
    for backed in (False, True):
        if expected.shape[1] == 0:
            with pytest.raises(ValueError, match="share no feature, so an inner join is empty"):
                open_cells(paths, folder, backed=backed, join=join)
            continue
        cells = open_cells(paths, folder, backed=backed, join=join)
        assert sorted(cells.var.index) == sorted(expected.columns)
        found = pd.DataFrame(cells.read(slice(None)).toarray(), index=cells.obs.index, columns=cells.var.index)
        assert_same_table(found[expected.columns], expected, check_names=False, check_dtype=False)
        rows = np.arange(len(found))[::2]
        np.testing.assert_array_equal(cells.read(rows).toarray(), found.iloc[rows])


Peak = tuple[str, int, int]


def merge_by_base(sources: list[list[Peak]]) -> list[list[str]]:
    """Return the region of each peak, from the covered bases and the joints between them: peaks that only touch share no joint."""
    covered: dict[str, set[int]] = {}
    for chromosome, start, end in (peak for peaks in sources for peak in peaks):
        covered.setdefault(chromosome, set()).update(range(2 * start, 2 * end - 1))

    def find_region(chromosome: str, start: int) -> str:
        first = last = 2 * start
        while first - 1 in covered[chromosome]:
            first -= 1
        while last + 1 in covered[chromosome]:
            last += 1
        return f"{chromosome}:{first // 2}-{last // 2 + 1}"

    return [[find_region(chromosome, start) for chromosome, start, _ in peaks] for peaks in sources]


INTERVALS = st.lists(
    st.tuples(st.sampled_from(["chr1", "chrX"]), st.integers(0, 40), st.integers(1, 9)).map(lambda peak: (*peak[:2], peak[1] + peak[2])),
    min_size=1,
    max_size=10,
    unique=True,
)


@settings(deadline=None, max_examples=30, derandomize=True)
@given(sources=st.lists(INTERVALS, min_size=2, max_size=3), join=st.sampled_from(["inner", "outer"]))
# One peak of the second source connects two of the first.
@example(sources=[[("chr1", 0, 5), ("chr1", 8, 12), ("chr1", 12, 14)], [("chr1", 4, 9)]], join="inner")
def test_counts_of_overlapping_peaks_are_added(tmp_path_factory: pytest.TempPathFactory, sources: list[list[Peak]], join: Any) -> None:
    new = merge_by_base(sources)
    assume(set.intersection(*map(set, new)))
    style = ["{}:{}-{}", "{}-{}-{}", "{}_{}_{}"]
    parts = [
        make_source([style[i].format(*peak) for peak in peaks], cells=[f"{'abc'[i]}{j}" for j in range(3)], seed=i)
        for i, peaks in enumerate(sources)
    ]
    added = [one.to_df().set_axis(names, axis=1).T.groupby(level=0).sum().T for one, names in zip(parts, new, strict=True)]
    expected = pd.concat(added, join=join).fillna(0)
    folder = tmp_path_factory.mktemp("united")
    paths = write_files(parts, folder)
    in_memory, stored = (open_cells(paths, folder, backed=backed, join=join, match_peaks="overlap") for backed in (False, True))
    assert_same_table(in_memory.var, stored.var)
    assert stored.read(slice(None)).has_canonical_format
    for cells in (in_memory, stored):
        assert sorted(cells.var.index) == sorted(expected.columns)
        assert_same_table(read_table(cells)[expected.columns], expected.reset_index(drop=True), check_names=False, check_dtype=False)


@pytest.mark.parametrize("join", ["inner", "outer"])
def test_too_few_overlapping_peaks_are_an_error(tmp_path: Path, backed: bool, join: Any) -> None:
    other = [name.replace("chr", "chr1") for name in PEAKS]
    with pytest.raises(
        ValueError,
        match=r"match_peaks='overlap': all sources have peaks in 0 of the 40 regions of the smallest \(a: chr1:0000.*; b: chr11:0000.*\)\. "
        "Their genomes or the names of their chromosomes differ",
    ):
        open_cells([make_source(PEAKS), make_source(other)], tmp_path, backed=backed, join=join, match_peaks="overlap")


def test_match_peaks_needs_peaks_and_a_known_value(tmp_path: Path, backed: bool) -> None:
    with pytest.raises(ValueError, match=r"match_peaks='overlap': 40 features of b are not regions \(ACTB, GAPDH, CD3E\)\. Name each peak"):
        open_cells([make_source(PEAKS), make_source(SYMBOLS)], tmp_path, backed=backed, match_peaks="overlap")
    with pytest.raises(ValueError, match="match_peaks=nearest: one of exact, overlap is needed"):
        AnnDataSource(path=["a.h5ad", "b.h5ad"], match_peaks="nearest")  # type: ignore[arg-type]
