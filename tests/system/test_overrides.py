from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import example, given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from scalex.system.overrides import format_for_shell, format_override, format_value

PARSER = OverridesParser.create()
# What Hydra, OmegaConf, YAML and shells take for something else.
PIECES = [
    "=",
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    "${",
    "$",
    "\\",
    "'",
    '"',
    "#",
    ",",
    " ",
    "\t",
    "\n",
    ":",
    "é",
    "雪",
    "a",
    "1",
    ".",
    "/",
    "~",
    "!",
    "*",
    "-",
]
NASTY = [
    "",
    "a=b (c) [d] {e} #f, g",
    "it's",
    'say "so"',
    "both ' and \"",
    "true",
    "NULL",
    "1e5",
    "1_000",
    "nan",
    "-1",
    ".5",
    "é",
    "a${b}",
    "\\${b}",
]


def read(override: str) -> object:
    """The value that a setting has in the end."""
    (parsed,) = PARSER.parse_overrides([override])
    assert not parsed.is_sweep_override()
    return OmegaConf.create({parsed.key_or_group: parsed.value()})[parsed.key_or_group]


@given(st.one_of(st.text(st.characters(codec="utf-8")), st.lists(st.sampled_from(PIECES)).map("".join)).filter(lambda text: text != "???"))
@example("\\")
@example('\\"\\')
@example("\\\\'\"\\\\")
def test_any_text_is_read_as_it_was_given(text: str) -> None:
    assert read(format_override("resume", text)) == text
    assert shlex.split(format_for_shell("resume", text)) == [format_override("resume", text)]


@pytest.mark.parametrize("text", NASTY)
def test_texts_that_look_like_something_else(text: str) -> None:
    found = read(format_override("resume", text))
    assert found == text
    assert isinstance(found, str)


@pytest.mark.parametrize("text", ["run", "outputs/2026-01-31_12-00-00", "/data/run.1", "../run", "./a-b"])
def test_plain_paths_are_not_quoted(text: str) -> None:
    assert format_for_shell("resume", Path(text)) == f"resume={Path(text)}"


def test_a_shell_passes_them_on() -> None:
    command = shlex.join([sys.executable, "-c", "import sys; print(sys.argv[1:], end='')"])
    typed = " ".join(format_for_shell("resume", text) for text in NASTY)
    done = subprocess.run(["/bin/sh", "-c", f"{command} {typed}"], capture_output=True, text=True, check=True)
    assert done.stdout == str([format_override("resume", text) for text in NASTY])


PLAIN_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text("ab1,:[]{}'\"\\ $=", max_size=5),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.sampled_from(["a", "b_c", "model.lr"]), values, max_size=2),
    max_leaves=5,
)


@given(value=PLAIN_VALUES)
@example(value=[None, True, 1e-05, -3, "null", "1", "a b", ["x"], {"model.lr": {"low": 1e-4, "log": True}}])
def test_hydra_reads_a_plain_value_as_it_was(value: object) -> None:
    read = PARSER.parse_override(f"name={format_value(value)}").value()
    if isinstance(value, str):
        read = OmegaConf.create({"name": read}).name
    elif isinstance(value, dict | list):
        read = OmegaConf.to_container(OmegaConf.create(read), resolve=True)  # type: ignore[arg-type]
    assert read == value
    assert type(read) is type(value)
