"""The recipe of each profile. A new one is a file beside this, a line here and a file of ``conf/preprocess``."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from scalex.preprocess.adt import AdtRecipe
from scalex.preprocess.as_is import AsIsRecipe
from scalex.preprocess.atac import AtacRecipe
from scalex.preprocess.recipe import Recipe
from scalex.preprocess.rna import RnaRecipe

__all__ = ["DEFAULT_MIN_FEATURES", "PROFILES", "check_profile", "make_recipe"]

# The profile as the interface names it, in lower case as the command line does.
PROFILES: dict[str, type[Recipe]] = {"RNA": RnaRecipe, "ATAC": AtacRecipe, "ADT": AdtRecipe, "none": AsIsRecipe}


class DefaultNumber(int):
    """A number that stands in a signature, and can be told from the same number where it is given."""


# The number that the interface names as the default of all profiles; where it is not given, each profile has its own.
DEFAULT_MIN_FEATURES = DefaultNumber(600)


def check_profile(profile: str) -> None:
    """See that there is a profile of that name.

    Raises
    ------
    ValueError
        If there is none.
    """
    names = [name for name in PROFILES if name != "none"]
    if profile not in names:
        raise ValueError(f"profile={profile!r}: allowed are {', '.join(names)}; for values that are ready use processed=True.")


def make_recipe(profile: str, **options: Any) -> Recipe:
    """Make the recipe of a profile.

    Parameters
    ----------
    profile
        A name in `PROFILES`.
    options
        Options of recipes. None and `DEFAULT_MIN_FEATURES` stand for the default of the profile. Options of other profiles do not count,
        but `n_top_features`, which is refused where all features are used.

    Raises
    ------
    ValueError
        If the profile uses all features and some are asked for.
    """
    recipe: Any = PROFILES[profile]
    known = {field.name for field in fields(recipe)}
    given = {name: value for name, value in options.items() if value is not None and value is not DEFAULT_MIN_FEATURES}
    if profile != "none" and "n_top_features" in given.keys() - known:
        raise ValueError(f"n_top_features={given['n_top_features']}: with profile={profile!r} all proteins are used. Leave it out.")
    made: Recipe = recipe(**{name: value for name, value in given.items() if name in known})
    return made
