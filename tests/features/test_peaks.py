from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from scalex.features.peaks import are_peaks, match_by_overlap, merge_overlapping, parse_regions

GENES = ["HLA-DRB1", "RP11-34P13.7", "gene-1-2", "MT-ND1", "AC012345.1", "chr-1-2", "chr1", "chr1:5", "X", "7SK", "NKX2-1", "1-2", "H1-10"]


@pytest.mark.parametrize(
    ("name", "chromosome"),
    [
        ("chr1:10-25", "chr1"),
        ("chr1-10-25", "chr1"),
        ("chr1_10_25", "chr1"),
        ("chr1:10_25", "chr1"),
        ("1:10-25", "chr1"),
        ("22-10-25", "chr22"),
        ("X:10-25", "chrX"),
        ("chrY-10-25", "chrY"),
        ("MT:10-25", "chrM"),
        ("M-10-25", "chrM"),
        ("chr2L:10-25", "chr2L"),
        ("GL000194.1:10-25", "GL000194.1"),
        ("KI270728.1-10-25", "KI270728.1"),
        ("NC_000001.11_10_25", "NC_000001.11"),
        ("chrUn_KI270742v1:10-25", "chrUn_KI270742v1"),
        ("chr1_KI270706v1_random_10_25", "chr1_KI270706v1_random"),
        ("chr1_GL456221_random-10-25", "chr1_GL456221_random"),
    ],
)
def test_regions_are_parsed_in_each_format(name: str, chromosome: str) -> None:
    found = parse_regions(pd.Index([name])).loc[name]
    assert tuple(found[["chromosome", "start", "end"]]) == (chromosome, 10, 25)
    assert are_peaks(pd.Index([name]))


@pytest.mark.parametrize(
    "name", [*GENES, "", "chr1:10-25(+)", "chr1:a-b", "chr1:1,000-2,000", "chr1:-5-20", "chr1:5-6-7", "ENSG00000141510"]
)
def test_other_names_are_not_regions(name: str) -> None:
    assert parse_regions(pd.Index([name])).isna().all(axis=None)
    assert not are_peaks(pd.Index([name]))


def test_regions_keep_order_and_repeats_of_names() -> None:
    names = pd.Index(["chr2:5-9", "ACTB", "1:3-4", "chr2:5-9"])
    found = parse_regions(names)
    assert list(found.index) == list(names)
    assert found["chromosome"].fillna("none").tolist() == ["chr2", "none", "chr1", "chr2"]
    np.testing.assert_array_equal(found["start"], [5, np.nan, 3, 5])
    np.testing.assert_array_equal(found["end"], [9, np.nan, 4, 9])


@pytest.mark.parametrize(("n_genes", "expected"), [(0, True), (2, True), (3, False), (20, False)])
def test_names_are_peaks_if_nine_in_ten_are(n_genes: int, expected: bool) -> None:
    names = [f"gene{i}" if i < n_genes else f"chr1:{i}00-{i}50" for i in range(20)]
    assert are_peaks(pd.Index(names)) == expected


def test_no_names_and_genes_are_not_peaks() -> None:
    assert not are_peaks(pd.Index([], dtype=object))
    assert not are_peaks(pd.Index(GENES))


Peak = tuple[str, int, int]


def merge_by_pairs(sources: list[list[Peak]]) -> list[list[str]]:
    """Return the region of each peak, from a comparison of all pairs."""
    peaks = [peak for source in sources for peak in source]
    root = list(range(len(peaks)))

    def root_of(i: int) -> int:
        while root[i] != i:
            i = root[i]
        return i

    for i, (chromosome, start, end) in enumerate(peaks):
        for j, other in enumerate(peaks[:i]):
            if chromosome == other[0] and start < other[2] and other[1] < end:
                root[root_of(i)] = root_of(j)
    names = []
    for i, (chromosome, _, _) in enumerate(peaks):
        members = [peak for j, peak in enumerate(peaks) if root_of(j) == root_of(i)]
        names.append(f"{chromosome}:{min(start for _, start, _ in members)}-{max(end for _, _, end in members)}")
    remaining = iter(names)
    return [[next(remaining) for _ in source] for source in sources]


PEAKS = st.lists(
    st.tuples(st.sampled_from(["chr1", "chr2", "chrX", "GL000194.1", "chrUn_KI270742v1"]), st.integers(0, 40), st.integers(1, 9)).map(
        lambda peak: (peak[0], peak[1], peak[1] + peak[2])
    ),
    max_size=12,
)


@settings(deadline=None, max_examples=100, derandomize=True)
@given(sources=st.lists(PEAKS, min_size=1, max_size=4), styles=st.lists(st.sampled_from(["{}:{}-{}", "{}-{}-{}", "{}_{}_{}"]), min_size=4))
# A peak within another and one that touches; a chain; a peak that ends beyond the start of one on the next chromosome; an empty source.
@example(sources=[[("chr1", 0, 30), ("chr1", 2, 5)], [("chr1", 30, 31), ("chr1", 6, 9)]], styles=["{}:{}-{}"] * 4)
@example(sources=[[("chr1", 0, 5), ("chr1", 8, 12)], [("chr1", 4, 9)]], styles=["{}:{}-{}"] * 4)
@example(sources=[[("chr1", 5, 40)], [("chr2", 6, 7), ("chr2", 39, 41)]], styles=["{}:{}-{}"] * 4)
@example(sources=[[], [("chr1", 5, 40)]], styles=["{}:{}-{}"] * 4)
def test_overlapping_peaks_become_one_region(sources: list[list[Peak]], styles: list[str]) -> None:
    names = [pd.Index([style.format(*peak) for peak in source], dtype=object) for source, style in zip(sources, styles, strict=False)]
    found = merge_overlapping(names, [str(i) for i in range(len(names))])
    assert [list(own) for own in found] == merge_by_pairs(sources)


def test_the_prefix_chr_does_not_matter() -> None:
    found = merge_overlapping([pd.Index(["chr1:5-9", "chrM:1-3"]), pd.Index(["1-7-12", "MT_2_5"])], ["a", "b"])
    assert [list(own) for own in found] == [["chr1:5-12", "chrM:1-5"]] * 2


@pytest.mark.parametrize("name", ["ACTB", "chr1:9-9", "chr1:9-5"])
def test_the_error_for_a_wrong_region_names_it_and_its_source(name: str) -> None:
    with pytest.raises(
        ValueError, match=rf"match_peaks='overlap': 1 features of two are not regions \({name}\)\. Name each peak like chr1:100-200, with"
    ):
        merge_overlapping([pd.Index(["chr1:5-9"]), pd.Index(["chr1:7-9", name])], ["one", "two"])


@settings(deadline=None, max_examples=100, derandomize=True)
@given(known=PEAKS, queried=PEAKS)
def test_a_peak_is_matched_to_the_one_it_overlaps_most(known: list[Peak], queried: list[Peak]) -> None:
    """Among equal overlaps, the peak that starts first counts."""
    found = match_by_overlap(*(pd.Index([f"{c}:{s}-{e}" for c, s, e in peaks], dtype=object) for peaks in (known, queried)))
    for (chromosome, start, end), position in zip(queried, found, strict=True):
        overlaps = [min(end, other[2]) - max(start, other[1]) if other[0] == chromosome else 0 for other in known]
        largest = max(overlaps, default=0)
        if largest <= 0:
            assert position == -1
        else:
            assert overlaps[position] == largest
            assert known[position][1] == min(other[1] for other, overlap in zip(known, overlaps, strict=True) if overlap == largest)
