from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, Literal, Protocol

import numpy as np
import pandas as pd
import pytest
from pydantic import SkipValidation

from scalex.system.settings import (
    Count,
    Described,
    Fraction,
    NonNegative,
    Number,
    Positive,
    Seed,
    SettingError,
    Share,
    check_call,
    check_value,
    check_values,
    describe,
    describe_nearest,
)


class Reader(Protocol):
    def read(self) -> None: ...


@check_call
@dataclass(frozen=True, kw_only=True)
class Options:
    n: Count = 3
    flag: bool = False
    kind: Literal["global", "domain"] = "global"
    rate: Positive | None = None
    shares: Sequence[Share] | None = None
    given: SkipValidation[object] = None


@check_call
def run(reader: Reader, options: Options, *more: int, n: Count = 1, path: str | Path | None = None, **others: Any) -> tuple[Any, ...]:
    return reader, options, more, n, path, others


@pytest.mark.parametrize(
    ("kind", "given", "expected"),
    [
        (Count, "3", 3),
        (Count, 3.0, 3),
        (Count, np.int64(3), 3),
        (Positive, "1e-3", 0.001),
        (Positive, np.float32(0.5), 0.5),
        (Positive | None, None, None),
        (bool, "no", False),
        (bool, "off", False),
        (bool, "yes", True),
        (bool, "on", True),
        (bool, np.bool_(True), True),
        (str, 3, "3"),
        (str | None, None, None),
        (str | Path, Path("a"), Path("a")),
        (bool | str | None, True, True),
        (bool | str | None, "domain1", "domain1"),
        (Sequence[Share] | None, [0.5, 1], [0.5, 1.0]),
        (Sequence[str], np.array(["a", "b"]), ["a", "b"]),
        (Sequence[str], pd.Index(["a", "b"]), ["a", "b"]),
        (Reader, "anything", "anything"),
    ],
)
def test_values_are_converted_to_their_types(kind: Any, given: Any, expected: Any) -> None:
    found = check_value(kind, "name", given)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("kind", "given", "message"),
    [
        (Count, "abc", r"name=abc: a whole number of at least 1 is needed\."),
        (Count, 1.5, r"name=1\.5: a whole number of at least 1 is needed"),
        (Count, 0, "name=0: a whole number of at least 1"),
        (Count, True, "name=true: a whole number of at least 1"),
        (Count, None, "name=null: a whole number of at least 1"),
        (Number, -1, "name=-1: a whole number of at least 0"),
        (Positive, 0, "name=0: a number above 0"),
        (Positive, float("nan"), "name=nan: a number above 0"),
        (Positive, float("inf"), "name=inf: a number above 0"),
        (NonNegative, -1, "name=-1: a number of at least 0"),
        (Share, 2, "name=2: a number from 0 to 1 is"),
        (Fraction, 0, "name=0: a number above 0 and at most 1 is"),
        (Seed, -1, "name=-1: a whole number of at least 0 and below 4,294,967,296 is"),
        (Seed | None, "x", "name=x: a whole number of at least 0 and below 4,294,967,296 or null is"),
        (bool, "maybe", "name=maybe: true or false is needed"),
        (bool, 2, "name=2: true or false"),
        (str, None, "name=null: text is"),
        (str | Path, [1], r"name=\[1\]: text or a path is"),
        (Literal["global", "domain"], "domein", r"name=domein: one of global, domain is needed; did you mean domain\?$"),
        (Literal["global", "domain"], "x", r"name=x: one of global, domain is needed\.$"),
        (Sequence[Share], 0.5, r"name=0\.5: a list of numbers from 0 to 1 is"),
        (Sequence[Share], [2], r"name=\[2\]: a list of numbers from 0 to 1"),
        (Annotated[Count | str, Described("a number or a name")], [], r"name=\[\]: a number or a name is"),
        (Positive, np.ones((1, 1)), "name=ndarray: a number above 0"),
        (Count, "x" * 100, r"name=x{60}\.\.\.: a whole"),
    ],
)
def test_other_values_are_refused_in_one_line(kind: Any, given: Any, message: str) -> None:
    with pytest.raises(SettingError, match=message) as error:
        check_value(kind, "name", given)
    assert "\n" not in str(error.value)


def test_the_words_are_those_of_the_door() -> None:
    with pytest.raises(SettingError, match=r"model\.flag=maybe: true or false is needed"):
        check_values(Options, {"flag": "maybe"}, "model.")
    with pytest.raises(SettingError, match=r"^flag=None: True or False is needed"):
        Options(flag=None)  # type: ignore[arg-type]
    with pytest.raises(SettingError, match=r"^rate=-1: a number above 0 or None is needed"):
        Options(rate=-1)


def test_a_misspelt_name_is_refused_with_a_similar_one() -> None:
    with pytest.raises(ValueError, match=r"^model\.knd: there is no such setting; did you mean kind\?$"):
        check_values(Options, {"knd": "global"}, "model.")
    with pytest.raises(ValueError, match=r"^zzz: there is no such setting\. There are: n, flag, kind, rate, shares, given\.$"):
        check_values(Options, {"zzz": 1})
    assert describe_nearest("umap", ["scores", "umap_plot"]) == "; did you mean umap_plot?"


def test_a_checked_class_is_the_class_with_converted_values() -> None:
    options = Options(n="4", flag="yes", shares=(0, 1))  # type: ignore[arg-type]
    assert options == Options(n=4, flag=True, shares=(0.0, 1.0))
    assert [field.name for field in fields(Options)] == ["n", "flag", "kind", "rate", "shares", "given"]
    marker = object()
    assert Options(given=marker).given is marker


def test_a_checked_function_gets_its_objects_unchanged() -> None:
    options = Options()
    assert run("reader", options, 1, 2, n="3", path=Path("a"), other=4) == ("reader", options, (1, 2), 3, Path("a"), {"other": 4})  # type: ignore[arg-type]
    assert run("reader", options)[1] is options  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="missing a required argument: 'options'"):
        run("reader")  # type: ignore[call-arg, arg-type]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Count | None, "a whole number of at least 1 or null"),
        (bool, "true or false"),
        (Sequence[str] | None, "a list of text or null"),
        (dict[str, int], "a mapping"),
        (Callable[[], None], "Callable"),
        (Reader, "Reader"),
    ],
)
def test_types_are_described_in_words(kind: Any, words: str) -> None:
    assert describe(kind) == words
