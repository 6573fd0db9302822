"""Through which domain cells are decoded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from scalex.preprocess import Preprocessor

__all__ = ["check_known", "decoded_domain", "units"]


def decoded_domain(impute: bool | str | None, known: Sequence[str]) -> int | None:
    """Code of the domain that `impute` names; -1: each cell's own; None: nothing is decoded.

    Raises
    ------
    ValueError
        If the name is not among the `known` ones; the message lists them.
    """
    if impute is None or impute is False:
        return None
    if impute is True:
        return -1
    # A domain may be called 1, which the command line reads as a number.
    check_known([str(impute)], known)
    return list(known).index(str(impute))


def check_known(domains: Iterable[str], known: Sequence[str]) -> None:
    """See that cells of some domains can be decoded.

    Raises
    ------
    ValueError
        If the model does not know one of them; the message lists those it knows.
    """
    new = [domain for domain in domains if domain not in known]
    if new:
        raise ValueError(
            f"The model does not know the domain(s) {', '.join(new)}, so it cannot decode through them. It knows: {', '.join(known)}. Name "
            "one of these with impute=."
        )


def units(preprocessor: Preprocessor) -> str:
    """What the decoded values are, as a sentence."""
    if preprocessor.normalization == "none":
        return "layers['impute'] is in the units of the training data's values"
    if preprocessor.normalization == "clr":
        return "layers['impute'] are centred log-ratios, log(1 + x / geometric mean of 1 + x)"
    if preprocessor.normalization == "tfidf":
        return f"layers['impute'] is log1p of TF-IDF x {preprocessor.target_sum:,.0f}"
    return f"layers['impute'] is log1p of counts per {preprocessor.target_sum:,.0f}"
