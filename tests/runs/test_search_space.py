from __future__ import annotations

import optuna
import pytest

from scalex.runs.search_space import Choice, Range, Space, read_space


def suggest(space: Space, n: int = 30) -> dict[str, list[object]]:
    """Return the values that `n` trials give each setting."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    trials = [study.ask() for _ in range(n)]
    return {name: [one.suggest(trial, name) for trial in trials] for name, one in space.items()}


def test_ranges_and_choices_are_read_and_drawn() -> None:
    given = {
        "model.lr": {"low": 1e-4, "high": "1e-2", "log": True},
        "model": {"n_latent": {"low": 5, "high": 50}, "kl_weight": {"low": 0, "high": 1}},
        "model.batch_size": {"low": 64, "high": 300.0, "int": True, "step": 64},
        "preprocess": ["rna", "atac"],
        "model.correct_at": [None, [0.5, 0.8]],
        "model.schedule": None,
    }
    space = read_space(given, {"model.n_latent": 30, "model.kl_weight": 0.05})
    assert space == {
        "model.lr": Range(1e-4, 1e-2, log=True),
        "model.n_latent": Range(5, 50, whole=True),
        "model.kl_weight": Range(0, 1),
        "model.batch_size": Range(64, 256, whole=True, step=64),
        "preprocess": Choice(("rna", "atac")),
        "model.correct_at": Choice((None, [0.5, 0.8])),
    }
    drawn = suggest(space)
    assert all(1e-4 <= value <= 1e-2 and value == float(f"{value:.4g}") for value in drawn["model.lr"])  # type: ignore[operator, str-bytes-safe]
    assert min(drawn["model.lr"]) < 4e-4  # type: ignore[type-var, operator]
    assert {type(value) for value in drawn["model.n_latent"]} == {int}
    assert any(isinstance(value, float) and 0 < value < 1 for value in drawn["model.kl_weight"])
    assert set(drawn["model.batch_size"]) == {64, 128, 192, 256}
    assert set(drawn["preprocess"]) == {"rna", "atac"}
    assert None in drawn["model.correct_at"]
    assert [0.5, 0.8] in drawn["model.correct_at"]


def test_present_values_are_encoded_if_the_search_may_try_them() -> None:
    assert Range(1, 3).encode(3) == 3
    assert Range(1, 7, whole=True, step=2).encode(5) == 5
    assert [Range(1, 7, step=2).encode(value) for value in (4, 8, None, "a", True)] == [None] * 5
    choice = Choice((None, True, [0.5], "a"))
    assert [choice.encode(value) for value in (None, True, [0.5], "a", 3)] == ["null", "true", "[0.5]", "a", None]
    assert choice.decode("[0.5]") == [0.5]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"low": 1}, r"tune\.space\.a has no high: a range is \{low: 1, high: 10\}, a choice a list of values"),
        ({}, "tune.space.a has no low and no high"),
        ({"low": 2, "high": 1}, "tune.space.a: low=2 is above high=1. Swap them."),
        ({"low": 0, "high": 1, "log": True}, "tune.space.a: low=0 has no logarithm. log=true needs low above 0."),
        ({"low": 1, "high": 2, "log": True, "step": 1}, "tune.space.a: step and log=true exclude each other."),
        ({"low": 1, "high": 2.5, "int": True}, "tune.space.a: int=true needs whole numbers as low, high and step."),
        ({"low": 1, "hihg": 2}, "tune.space.a.hihg: there is no such part of a range; did you mean high"),
        ({"low": "x", "high": 2}, "tune.space.a.low=x: a number is needed"),
        ({"low": 1, "high": 2, "step": 0}, "tune.space.a.step=0: a number above 0 is needed"),
        ([], r"tune.space.a=\[\]: a list with at least one value is needed"),
        (3, r"tune.space.a=3: a list of values or a range as \{low: 1, high: 10\} is needed"),
    ],
)
def test_what_is_neither_is_an_error(given: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_space({"a": given}, {})
