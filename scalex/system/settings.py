"""Checking of values against the signatures that they are given to: the types and ranges of every setting, in one place.

`Annotated` types name the ranges. pydantic checks the values, for the notebook (`check_call`) and for the command line (`check_values`).
"""

from __future__ import annotations

import difflib
import functools
import inspect
import re
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeAlias, TypeVar, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import ConfigDict, PydanticSchemaGenerationError, SkipValidation, TypeAdapter, ValidationError

__all__ = [
    "Count",
    "Described",
    "Fraction",
    "NonNegative",
    "Number",
    "NumberOfNeighbors",
    "Positive",
    "Seed",
    "SettingError",
    "Share",
    "check_call",
    "check_value",
    "check_values",
    "describe",
    "describe_nearest",
    "read_types",
]

# The ranges of settings.
Count: TypeAlias = Annotated[int, Ge(1)]
Number: TypeAlias = Annotated[int, Ge(0)]
Positive: TypeAlias = Annotated[float, Gt(0)]
NonNegative: TypeAlias = Annotated[float, Ge(0)]
Share: TypeAlias = Annotated[float, Ge(0), Le(1)]
Fraction: TypeAlias = Annotated[float, Gt(0), Le(1)]
# A cell is a neighbour of itself.
NumberOfNeighbors: TypeAlias = Annotated[int, Ge(2)]
# What torch and NumPy take as a seed.
Seed: TypeAlias = Annotated[int, Ge(0), Lt(2**32)]

CONFIG = ConfigDict(arbitrary_types_allowed=True, coerce_numbers_to_str=True, allow_inf_nan=False, hide_input_in_errors=True)
NAMES = {int: "a whole number", float: "a number", str: "text", Path: "a path"}

VARIABLE = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
# What the command line and Python call these values.
YAML: Mapping[Any, str] = {None: "null", True: "true", False: "false"}
PYTHON: Mapping[Any, str] = {None: "None", True: "True", False: "False"}

Target = TypeVar("Target", bound=Callable[..., Any])


class Described(str):
    """What a setting takes, in words, as metadata of an `Annotated` type. It replaces the words made from the type."""

    __slots__ = ()


class SettingError(ValueError):
    """A setting has a value that is not allowed.

    Parameters
    ----------
    name
        Name of the setting, with those of its groups, as in "model.lr".
    value
        The value that was given, as text.
    needed
        What is needed instead.
    hint
        Text at the end, such as a value that was probably meant.
    """

    def __init__(self, name: str, value: str, needed: str, hint: str = "") -> None:
        super().__init__(f"{name}={value}: {needed} is needed{hint or '.'}")


def check_call(target: Target) -> Target:
    """Decorate a function or a class so that its arguments are checked, and converted, against its signature.

    Raises
    ------
    SettingError
        When it is called with a value that is not allowed.
    """
    if inspect.isclass(target):
        target.__init__ = check_call(target.__init__)  # type: ignore[method-assign]
        return target
    signature = inspect.signature(target)

    @functools.wraps(target)
    def call(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        extra = {
            name for name, parameter in signature.parameters.items() if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        }
        given = {name: value for name, value in bound.arguments.items() if name not in extra}
        bound.arguments.update(check_values(target, given, words=PYTHON))
        return target(*bound.args, **bound.kwargs)

    return typing.cast("Target", call)


def check_values(
    target: Callable[..., Any], values: Mapping[str, Any], prefix: str = "", words: Mapping[Any, str] = YAML
) -> dict[str, Any]:
    """Return values for some parameters of a function or class, converted to their types.

    Parameters
    ----------
    target
        The function or class.
    values
        The values by name. Those that are the defaults of the signature are not checked.
    prefix
        Groups of the settings, for messages, as in "model.".
    words
        What None, True and False are called where the values come from.

    Raises
    ------
    SettingError
        If a value has another type or is out of range.
    ValueError
        If there is no parameter of that name. The message names a similar one.
    """
    signature, types = inspect.signature(target), read_types(target)
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in signature.parameters.values())
    checked = {}
    for name, value in values.items():
        if name not in signature.parameters and not takes_any:
            raise ValueError(f"{prefix}{name}: there is no such setting{describe_nearest(name, _list_names(signature))}")
        default = signature.parameters[name].default if name in signature.parameters else inspect.Parameter.empty
        checked[name] = value if value is default or name not in types else check_value(types[name], prefix + name, value, words)
    return checked


def _list_names(signature: inspect.Signature) -> list[str]:
    return [name for name, parameter in signature.parameters.items() if name != "self" and parameter.kind is not parameter.VAR_KEYWORD]


def read_types(target: Callable[..., Any]) -> dict[str, Any]:
    """Return the types of the parameters of a function or class, with their ranges."""
    function = target.__init__ if inspect.isclass(target) else target
    try:
        types = typing.get_type_hints(inspect.unwrap(function), include_extras=True)
    except NameError:
        # The types of a library that imports them only for type checkers.
        return {}
    return {name: kind for name, kind in types.items() if name != "return"}


def describe(kind: Any, words: Mapping[Any, str] = YAML) -> str:
    """Return in words what a type takes, as in "a whole number of at least 1 or null"."""
    if get_origin(kind) is Annotated:
        base, *ranges = get_args(kind)
        text = next((one for one in ranges if isinstance(one, Described)), None)
        return str(text) if text is not None else f"{describe(base, words)}{_describe_range(ranges)}"
    if get_origin(kind) is Literal:
        return f"one of {', '.join(dict.fromkeys(map(str, get_args(kind))))}"
    if get_origin(kind) in (Union, UnionType):
        choices = tuple(dict.fromkeys(choice for one in get_args(kind) if get_origin(one) is Literal for choice in get_args(one)))
        others = [one for one in get_args(kind) if get_origin(one) is not Literal]
        return " or ".join(dict.fromkeys(describe(one, words) for one in [*([Literal[choices]] if choices else []), *others]))
    if isinstance(get_origin(kind), type) and issubclass(get_origin(kind), Mapping):
        return "a mapping"
    if isinstance(get_origin(kind), type) and issubclass(get_origin(kind), Iterable):
        one = describe(get_args(kind)[0], words) if get_args(kind) else "values"
        return "a list of " + re.sub("^a (whole )?number", r"\1numbers", one)
    if kind is bool:
        return f"{words[True]} or {words[False]}"
    if kind is NoneType:
        return words[None]
    return NAMES.get(kind, getattr(kind, "__name__", str(kind)))


def describe_nearest(name: str, known: Iterable[str]) -> str:
    """Return text that suggests the known name most similar to a given one, and lists those there are if none is similar."""
    known = [str(one) for one in known]
    longer = [one for one in known if len(name) > 2 and (one.startswith(name) or name.startswith(one))]
    nearest = longer or difflib.get_close_matches(name, known, 1)
    return f"; did you mean {nearest[0]}?" if nearest else f". There are: {', '.join(known)}."


def check_value(kind: Any, name: str, value: Any, words: Mapping[Any, str] = YAML) -> Any:
    """Return a value converted to a type with its range. The other parameters are those of `check_values`.

    Raises
    ------
    SettingError
        If it has another type or is out of range.
    """
    if getattr(value, "ndim", 2) <= 1 and hasattr(value, "tolist"):
        # Numbers and lists of NumPy and pandas.
        value = value.tolist()
    adapter = _make_adapter(kind)
    if adapter is None:
        return value
    if getattr(value, "ndim", 0) > 1:
        # A matrix of one value would pass as a number.
        raise SettingError(name, type(value).__name__, describe(kind, words))
    if isinstance(value, bool) and not _takes_bool(kind):
        raise SettingError(name, _show(value, words), describe(kind, words))
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        raise SettingError(name, _show(value, words), describe(kind, words), _suggest(kind, value)) from error


def _make_adapter(kind: Any) -> TypeAdapter[Any] | None:
    """Return the check of a type; None for a type that cannot be checked."""
    if _has_objects(kind) or _is_skipped(kind):
        return None
    try:
        return TypeAdapter(kind, config=CONFIG)
    except PydanticSchemaGenerationError:
        return None


def _has_objects(kind: Any) -> bool:
    """Return whether a type contains an interface, which cannot be checked, or a dataclass, which pydantic would copy."""
    return bool(getattr(kind, "_is_protocol", False)) or is_dataclass(kind) or any(map(_has_objects, _list_parts(kind)))


def _is_skipped(kind: Any) -> bool:
    return get_origin(kind) is Annotated and SkipValidation in map(type, get_args(kind)[1:])


def _takes_bool(kind: Any) -> bool:
    if kind is Any or kind is bool or get_origin(kind) is Literal:
        return True
    return any(map(_takes_bool, _list_parts(kind)))


def _suggest(kind: Any, value: Any) -> str:
    nearest = difflib.get_close_matches(value, _list_choices(kind), 1) if isinstance(value, str) else []
    return f"; did you mean {nearest[0]}?" if nearest else ""


def _list_choices(kind: Any) -> list[str]:
    if get_origin(kind) is Literal:
        return [choice for choice in get_args(kind) if isinstance(choice, str)]
    return [choice for one in _list_parts(kind) for choice in _list_choices(one)]


def _list_parts(kind: Any) -> tuple[Any, ...]:
    """Return the types within a type, without the metadata of `Annotated`."""
    return get_args(kind)[:1] if get_origin(kind) is Annotated else get_args(kind)


def _describe_range(ranges: Sequence[Any]) -> str:
    bounds = {type(one): getattr(one, type(one).__name__.lower()) for one in ranges if isinstance(one, Ge | Gt | Le | Lt)}
    if bounds.keys() == {Ge, Le}:
        return f" from {bounds[Ge]} to {bounds[Le]}"
    words = {Ge: "of at least", Gt: "above", Le: "at most", Lt: "below"}
    return "".join(f"{' and' if i else ''} {words[kind]} {bound:,}" for i, (kind, bound) in enumerate(bounds.items()))


def _show(value: Any, words: Mapping[Any, str]) -> str:
    text = words[value] if isinstance(value, bool | NoneType) else str(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
