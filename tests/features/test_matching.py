from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from scalex.features.matching import FeatureMatch, match_features

P53, GAPDH, MOUSE = "ENSG00000141510", "ENSG00000111640", "ENSMUSG00000059552"


def match(known: list[str], query: list[str]) -> FeatureMatch:
    """Return the match of lists of names."""
    return match_features(pd.Index(known), pd.Index(query))


def test_names_are_matched_in_any_order() -> None:
    rng = np.random.default_rng(0)
    known = [f"gene{i}" for i in range(200)]
    query = [str(name) for name in rng.permutation([*known[20:150], *(f"new{i}" for i in range(40))])]
    found = match(known, query)
    assert list(found.position) == [known.index(name) if name in known else -1 for name in query]
    assert list(found.found) == [name in query for name in known]
    assert found.position.dtype == np.int64
    assert found[2:] == (0, 0, [])


@pytest.mark.parametrize(
    ("known", "query"),
    [(P53, f"{P53}.18"), (f"{P53}.18", P53), (f"{P53}.17", f"{P53}.18"), (f"{MOUSE}.13", f"{MOUSE}.7"), (f"{P53}.18_PAR_Y", P53)],
)
def test_versions_of_ensembl_identifiers_do_not_matter(known: str, query: str) -> None:
    found = match(["a", known, "b"], ["b", query, "c"])
    assert list(found.position) == [2, 1, -1]
    assert list(found.found) == [False, True, True]
    assert (found.n_without_version, found.n_repeated) == (1, 0)


def test_equal_names_match_before_names_without_versions() -> None:
    found = match([f"{P53}.18", P53], [P53, f"{P53}.18"])
    assert list(found.position) == [1, 0]
    assert found.n_without_version == 0
    # The equal name matches the second version, so that the plain name matches the first one.
    assert list(match([f"{P53}.17", f"{P53}.18"], [P53, f"{P53}.18"]).position) == [0, 1]


@pytest.mark.parametrize("name", ["AC012345.1", "RP11-34P13.7", "NM_001126112.3", "ENSG001.2", "Y_RNA.1"])
def test_only_ensembl_identifiers_have_versions(name: str) -> None:
    plain = name.rpartition(".")[0]
    for known, query in ((name, plain), (plain, name)):
        found = match([known], [query])
        assert list(found.position) == [-1]
        assert not found.found.any()


def test_pseudoautosomal_copies_are_one_gene() -> None:
    """The first copy counts for both, unless each is known by its name."""
    x, y = "ENSG00000002586.20", "ENSG00000002586.20_PAR_Y"
    found = match(["ENSG00000002586"], [x, y])
    assert list(found.position) == [0, -1]
    assert (found.n_without_version, found.n_repeated) == (1, 1)
    assert list(match([x, y], [y, x]).position) == [1, 0]


def test_a_repeated_name_counts_once() -> None:
    found = match(["a", "b"], ["b", "a", "b", "b"])
    assert list(found.position) == [1, 0, -1, -1]
    assert found.n_repeated == 2
    versions = match([P53, GAPDH], [f"{P53}.1", f"{P53}.2", f"{GAPDH}.1"])
    assert list(versions.position) == [0, -1, 1]
    assert (versions.n_without_version, versions.n_repeated) == (2, 1)


def test_another_version_beside_the_equal_name_is_a_repeat() -> None:
    found = match([f"{P53}.18", GAPDH], [f"{P53}.18", f"{P53}.17", GAPDH])
    assert list(found.position) == [0, -1, 1]
    assert found.n_repeated == 1


def test_names_that_differ_only_in_case_are_reported_but_not_matched() -> None:
    found = match(["Actb", "Gapdh", "Trp53", "same"], ["ACTB", "gapdh", "TP53", "same"])
    assert list(found.position) == [-1, -1, -1, 3]
    assert found.case_only == [("Actb", "ACTB"), ("Gapdh", "gapdh")]
    # A name with an equal is not reported.
    assert match(["MTOR"], ["MTOR", "Mtor"]).case_only == []


def test_unknown_names_match_nothing() -> None:
    found = match(["a", "b"], ["x"])
    assert list(found.position) == [-1]
    assert list(found.found) == [False, False]


def test_many_names_match_as_in_a_dictionary() -> None:
    rng = np.random.default_rng(1)
    known = [f"ENSG{i:011d}" + (f".{i % 9}" if i % 2 else "") for i in range(3000)]
    numbers = rng.permutation(4000)
    query = [f"ENSG{i:011d}" + (f".{i % 5}" if i % 3 else "") for i in numbers]
    found = match(known, query)
    position = {i: i for i in range(3000)}
    assert list(found.position) == [position.get(int(i), -1) for i in numbers]
    assert found.found.all()
    assert found.n_without_version == sum(name not in query for name in known)
