"""What the names of features tell."""

from __future__ import annotations

import pandas as pd
import pytest

from scalex.features.species import describe_names, find_species_codes, guess_species


def name_genes(start: str, end: str = "") -> list[str]:
    return [f"{start}{n:011d}{end}" for n in range(1, 9)]


@pytest.mark.parametrize(
    ("names", "species"),
    [
        (name_genes("ENSG"), "human (Homo sapiens)"),
        (name_genes("ENSMUSG", ".12"), "mouse (Mus musculus)"),
        # The letter before the number is the kind: T of a transcript.
        (name_genes("ENSMUST"), "mouse (Mus musculus)"),
        (name_genes("ENSG") + name_genes("ENSMUSG"), None),
        (name_genes("ENSXETG"), None),
        # Symbols of many mammals are alike.
        (["ACTB", "GAPDH", "MALAT1"], None),
        (["Actb", "Gapdh", "Malat1"], None),
        ([], None),
    ],
)
def test_the_species_is_known_from_ensembl_identifiers_alone(names: list[str], species: str | None) -> None:
    assert guess_species(pd.Index(names, dtype=object)) == species


def test_codes_of_several_species_are_found() -> None:
    assert find_species_codes(pd.Index(name_genes("ENSG") + name_genes("ENSMUSG"))) == {"ENS", "ENSMUS"}


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (name_genes("ENSG"), "Ensembl identifiers (ENSG00000000001, ENSG00000000002, ENSG00000000003, ...)"),
        (["chr1:10-20", "chr2:30-40"], "peaks (chr1:10-20, chr2:30-40)"),
        (["CD3", "CD4"], "symbols or other names (CD3, CD4)"),
    ],
)
def test_names_are_described_with_the_first(names: list[str], text: str) -> None:
    assert describe_names(pd.Index(names)) == text
