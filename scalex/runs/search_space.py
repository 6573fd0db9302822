"""The values that a search tries for a setting: a range of numbers, or a choice of values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from scalex.system.overrides import format_value
from scalex.system.settings import Positive, SettingError, check_value, describe_nearest

if TYPE_CHECKING:
    from optuna.trial import Trial

__all__ = ["Choice", "Range", "Space", "read_space"]

PREFIX = "tune.space."
# What a range is made of.
PARTS: Mapping[str, Any] = {"low": float, "high": float, "log": bool, "int": bool, "step": Positive}


@dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`.

    Attributes
    ----------
    low, high
        The ends, which belong to the range.
    log
        Draw the logarithm evenly.
    whole
        Draw whole numbers.
    step
        Draw only `low` and what is whole steps above it.
    """

    low: float
    high: float
    log: bool = False
    whole: bool = False
    step: float | None = None

    @property
    def examples(self) -> tuple[Any, ...]:
        """The ends, which are checked before a search."""
        return (int(self.low), int(self.high)) if self.whole else (self.low, self.high)

    def suggest(self, trial: Trial, name: str) -> Any:
        """Return the value that a trial gives a setting."""
        if self.whole:
            return trial.suggest_int(name, int(self.low), int(self.high), log=self.log, step=int(self.step or 1))
        return self.decode(trial.suggest_float(name, self.low, self.high, log=self.log, step=self.step))

    def encode(self, value: Any) -> Any:
        """Return what Optuna stores for a value, or None for a value that the search does not try."""
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.low <= value <= self.high:
            return None
        return value if self.step is None or (value - self.low) % self.step == 0 else None

    def decode(self, stored: Any) -> Any:
        """Return the value that Optuna has stored as `stored`, with four digits: commands that people type need no more."""
        return stored if self.whole else min(max(float(f"{stored:.4g}"), self.low), self.high)


@dataclass(frozen=True)
class Choice:
    """Some values.

    Attributes
    ----------
    values
        Numbers, text, true, false, null, or lists of them.
    """

    values: tuple[Any, ...]

    @property
    def examples(self) -> tuple[Any, ...]:
        """The values, which are checked before a search."""
        return self.values

    def suggest(self, trial: Trial, name: str) -> Any:
        """Return the value that a trial gives a setting."""
        return self.decode(trial.suggest_categorical(name, [_label(value) for value in self.values]))

    def encode(self, value: Any) -> Any:
        """Return what Optuna stores for a value, or None for a value that the search does not try."""
        return _label(value) if _label(value) in map(_label, self.values) else None

    def decode(self, stored: Any) -> Any:
        """Return the value that Optuna has stored as `stored`."""
        return next(value for value in self.values if _label(value) == stored)


Space: TypeAlias = Mapping[str, Range | Choice]


def _label(value: Any) -> Any:
    """Return a value as Optuna takes it: it knows numbers and text."""
    return value if isinstance(value, str | int | float) and not isinstance(value, bool) else format_value(value)


def read_space(space: Mapping[str, Any], present: Mapping[str, Any]) -> Space:
    """Return the ranges and choices of ``tune.space``.

    Parameters
    ----------
    space
        For each setting a list of values, or a mapping with ``low`` and ``high``, and with ``log``, ``int`` and ``step`` if wanted. A
        setting that is null is left out. Groups may be nested: ``{"model": {"lr": ...}}`` is ``{"model.lr": ...}``.
    present
        The present values of settings by name. Without ``int``, a range with whole ends has whole numbers unless the present value is a
        fraction.

    Raises
    ------
    ValueError
        If a range or a choice is not one. The message names it.
    """
    return {name: _read_one(name, given, present.get(name)) for name, given in _list_settings(space)}


def _list_settings(space: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, given in space.items():
        if isinstance(given, Mapping) and given and all(isinstance(one, Mapping | list | tuple) for one in given.values()):
            yield from _list_settings(given, f"{prefix}{name}.")
        elif given is not None:
            yield f"{prefix}{name}", given


def _read_one(name: str, given: Any, present: Any) -> Range | Choice:
    if isinstance(given, list | tuple):
        if not given:
            raise SettingError(PREFIX + name, "[]", "a list with at least one value")
        return Choice(tuple(given))
    if not isinstance(given, Mapping):
        raise SettingError(PREFIX + name, format_value(given), "a list of values or a range as {low: 1, high: 10}")
    for part in given:
        if part not in PARTS:
            raise ValueError(f"{PREFIX}{name}.{part}: there is no such part of a range{describe_nearest(str(part), PARTS)}")
    missing = [end for end in ("low", "high") if given.get(end) is None]
    if missing:
        raise ValueError(f"{PREFIX}{name} has no {' and no '.join(missing)}: a range is {{low: 1, high: 10}}, a choice a list of values.")
    parts = {part: check_value(PARTS[part], f"{PREFIX}{name}.{part}", one) for part, one in given.items() if one is not None}
    _check_range(name, parts)
    ends = given["low"], given["high"]
    whole = parts.get("int", all(isinstance(end, int) for end in ends) and not isinstance(present, float))
    if whole and any(parts[part] % 1 for part in ("low", "high", "step") if part in parts):
        raise ValueError(f"{PREFIX}{name}: int=true needs whole numbers as low, high and step.")
    step = parts.get("step")
    # Optuna warns of an end that no step reaches.
    high = parts["high"] if step is None else parts["low"] + (parts["high"] - parts["low"]) // step * step
    return Range(parts["low"], high, parts.get("log", False), whole, step)


def _check_range(name: str, parts: Mapping[str, Any]) -> None:
    if parts["low"] > parts["high"]:
        raise ValueError(f"{PREFIX}{name}: low={parts['low']:g} is above high={parts['high']:g}. Swap them.")
    if parts.get("log") and parts["low"] <= 0:
        raise ValueError(f"{PREFIX}{name}: low={parts['low']:g} has no logarithm. log=true needs low above 0.")
    if parts.get("log") and "step" in parts:
        raise ValueError(f"{PREFIX}{name}: step and log=true exclude each other. Leave one out.")
