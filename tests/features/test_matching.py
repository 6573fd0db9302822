from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from scalex.features.matching import FeatureMatch, match_features

P53, GAPDH, MOUSE = "ENSG00000141510", "ENSG00000111640", "ENSMUSG00000059552"


def matched(known: list[str], given: list[str]) -> FeatureMatch:
    return match_features(pd.Index(known), pd.Index(given))


def test_names_are_matched_in_any_order() -> None:
    rng = np.random.default_rng(0)
    known = [f"gene{i}" for i in range(200)]
    given = [str(name) for name in rng.permutation([*known[20:150], *(f"new{i}" for i in range(40))])]
    match = matched(known, given)
    assert list(match.position) == [known.index(name) if name in known else -1 for name in given]
    assert list(match.found) == [name in given for name in known]
    assert match.position.dtype == np.int64
    assert match[2:] == (0, 0, [])


@pytest.mark.parametrize(
    ("known", "given"),
    [(P53, f"{P53}.18"), (f"{P53}.18", P53), (f"{P53}.17", f"{P53}.18"), (f"{MOUSE}.13", f"{MOUSE}.7"), (f"{P53}.18_PAR_Y", P53)],
)
def test_ensembl_versions_do_not_matter_on_either_side(known: str, given: str) -> None:
    match = matched(["a", known, "b"], ["b", given, "c"])
    assert list(match.position) == [2, 1, -1]
    assert list(match.found) == [False, True, True]
    assert (match.n_without_version, match.n_repeated) == (1, 0)


def test_equal_names_come_before_names_equal_without_version() -> None:
    match = matched([f"{P53}.18", P53], [P53, f"{P53}.18"])
    assert list(match.position) == [1, 0]
    assert match.n_without_version == 0
    # The other version is taken by its equal, so the plain name stands for the known one that is left.
    assert list(matched([f"{P53}.17", f"{P53}.18"], [P53, f"{P53}.18"]).position) == [0, 1]


@pytest.mark.parametrize("name", ["AC012345.1", "RP11-34P13.7", "NM_001126112.3", "ENSG001.2", "Y_RNA.1"])
def test_only_ensembl_identifiers_have_versions(name: str) -> None:
    plain = name.rpartition(".")[0]
    for known, given in ((name, plain), (plain, name)):
        match = matched([known], [given])
        assert list(match.position) == [-1]
        assert not match.found.any()


def test_pseudoautosomal_copies_are_one_gene() -> None:
    """Both copies are there by the same identifier; the first counts, unless both are known by name."""
    x, y = "ENSG00000002586.20", "ENSG00000002586.20_PAR_Y"
    match = matched(["ENSG00000002586"], [x, y])
    assert list(match.position) == [0, -1]
    assert (match.n_without_version, match.n_repeated) == (1, 1)
    assert list(matched([x, y], [y, x]).position) == [1, 0]


def test_a_name_that_occurs_again_counts_once() -> None:
    match = matched(["a", "b"], ["b", "a", "b", "b"])
    assert list(match.position) == [1, 0, -1, -1]
    assert match.n_repeated == 2
    versions = matched([P53, GAPDH], [f"{P53}.1", f"{P53}.2", f"{GAPDH}.1"])
    assert list(versions.position) == [0, -1, 1]
    assert (versions.n_without_version, versions.n_repeated) == (2, 1)


def test_a_version_beside_the_equal_name_is_a_repeat() -> None:
    match = matched([f"{P53}.18", GAPDH], [f"{P53}.18", f"{P53}.17", GAPDH])
    assert list(match.position) == [0, -1, 1]
    assert match.n_repeated == 1


def test_names_that_differ_in_case_alone_are_said_and_not_matched() -> None:
    match = matched(["Actb", "Gapdh", "Trp53", "same"], ["ACTB", "gapdh", "TP53", "same"])
    assert list(match.position) == [-1, -1, -1, 3]
    assert match.case_only == [("Actb", "ACTB"), ("Gapdh", "gapdh")]
    # A name that is found is not also a matter of case.
    assert matched(["MTOR"], ["MTOR", "Mtor"]).case_only == []


def test_nothing_in_common_is_found_nowhere() -> None:
    match = matched(["a", "b"], ["x"])
    assert list(match.position) == [-1]
    assert list(match.found) == [False, False]


def test_real_size_matches_as_a_dictionary_does() -> None:
    rng = np.random.default_rng(1)
    known = [f"ENSG{i:011d}" + (f".{i % 9}" if i % 2 else "") for i in range(3000)]
    numbers = rng.permutation(4000)
    given = [f"ENSG{i:011d}" + (f".{i % 5}" if i % 3 else "") for i in numbers]
    match = matched(known, given)
    position = {i: i for i in range(3000)}
    assert list(match.position) == [position.get(int(i), -1) for i in numbers]
    assert match.found.all()
    assert match.n_without_version == sum(name not in given for name in known)
