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
def test_a_missing_option_is_the_default_of_the_profile(profile: str) -> None:
    recipe = make_recipe(profile, min_features=DEFAULT_MIN_FEATURES, target_sum=None, n_top_features=None, keep_mt=False)
    assert recipe == PROFILES[profile]()


def test_a_given_option_replaces_the_default_of_the_profile() -> None:
    assert make_recipe("ATAC", min_features=600, keep_mt=True) == PROFILES["ATAC"](min_features=600)


def test_an_unknown_profile_is_an_error() -> None:
    for name in ("DNA", "none"):
        with pytest.raises(ValueError, match=f"profile='{name}': allowed are RNA, ATAC, ADT; for values that are ready use processed"):
            check_profile(name)


def test_the_profile_adt_refuses_a_choice_of_features() -> None:
    with pytest.raises(ValueError, match=r"n_top_features=10: with profile='ADT' all proteins are used\. Leave it out"):
        make_recipe("ADT", n_top_features=10)
