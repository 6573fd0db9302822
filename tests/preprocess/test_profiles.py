from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from scalex.preprocess.profiles import DEFAULT_MIN_FEATURES, PROFILES, check_profile, make_recipe

CONF = Path(__file__).parents[2] / "conf" / "preprocess"


def test_the_command_line_has_the_same_profiles() -> None:
    targets = {path.stem: yaml.safe_load(path.read_text())["_target_"] for path in CONF.glob("*.yaml")}
    assert targets == {name.lower(): f"scalex.{recipe.__name__}" for name, recipe in PROFILES.items()}


@pytest.mark.parametrize("profile", PROFILES)
def test_what_is_not_given_is_the_default_of_the_profile(profile: str) -> None:
    made = make_recipe(profile, min_features=DEFAULT_MIN_FEATURES, target_sum=None, n_top_features=None, keep_mt=False)
    assert made == PROFILES[profile]()


def test_what_is_given_counts() -> None:
    assert make_recipe("ATAC", min_features=600, keep_mt=True) == PROFILES["ATAC"](min_features=600)


def test_a_profile_that_is_not_there() -> None:
    for name in ("DNA", "none"):
        with pytest.raises(ValueError, match=f"profile='{name}': allowed are RNA, ATAC, ADT; for values that are ready use processed"):
            check_profile(name)


def test_all_proteins_are_used() -> None:
    with pytest.raises(ValueError, match=r"n_top_features=10: with profile='ADT' all proteins are used\. Leave it out"):
        make_recipe("ADT", n_top_features=10)
