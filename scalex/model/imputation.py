"""The domain through which cells are decoded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, TypeAlias

from pydantic import BeforeValidator

from scalex.preprocess import Preprocessor

__all__ = ["Impute", "check_domains", "describe_units", "get_domain_code"]


def _read_name(given: Any) -> Any:
    """Return a number as text: the command line reads the domain name 1 as a number."""
    return str(given) if isinstance(given, int | float) and not isinstance(given, bool) else given


# True: each cell is decoded through its own domain. Text: through the domain of this name.
Impute: TypeAlias = Annotated[bool | str | None, BeforeValidator(_read_name)]


def get_domain_code(impute: Impute, known: Sequence[str]) -> int | None:
    """Return the code of the domain that `impute` names, -1 for each cell's own, or None if nothing is decoded.

    Raises
    ------
    ValueError
        If the name is not among the `known` ones; the message lists them.
    """
    if impute is None or impute is False:
        return None
    if impute is True:
        return -1
    check_domains([impute], known)
    return list(known).index(impute)


def check_domains(domains: Iterable[str], known: Sequence[str]) -> None:
    """Check that the decoder knows the domains.

    Raises
    ------
    ValueError
        If it does not know one; the message lists those it knows.
    """
    new = [domain for domain in domains if domain not in known]
    if new:
        raise ValueError(
            f"The model does not know the domain(s) {', '.join(new)}, so it cannot decode through them. It knows: {', '.join(known)}. Name "
            "one of these with impute=."
        )


def describe_units(preprocessor: Preprocessor) -> str:
    """Say in which units the decoded values are."""
    if preprocessor.normalization == "none":
        return "layers['impute'] is in the units of the training data's values"
    if preprocessor.normalization == "clr":
        return "layers['impute'] holds centred log-ratios, log(1 + x / geometric mean of 1 + x)"
    if preprocessor.normalization == "tfidf":
        return f"layers['impute'] is log1p of TF-IDF x {preprocessor.target_sum:,.0f}"
    return f"layers['impute'] is log1p of counts per {preprocessor.target_sum:,.0f}"
