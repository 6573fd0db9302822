from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from scalex.runs.log import log_to


def test_the_log_is_appended_to_a_file(tmp_path: Path) -> None:
    for line in ("one", "two"):
        with log_to(tmp_path / "log.txt"):
            logging.getLogger("scalex.runs").info(line)
    assert [line.split("INFO ")[1] for line in (tmp_path / "log.txt").read_text().splitlines()] == ["one", "two"]


def test_an_error_is_logged_with_its_traceback(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="wrong"), log_to(tmp_path / "log.txt"):
        raise ValueError("wrong")
    text = (tmp_path / "log.txt").read_text()
    assert "Stopped by ValueError: wrong" in text
    assert "Traceback" in text


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "log.txt").symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match=r"Cannot write to the log .*log\.txt \(it is a link; remove it\)\."), log_to(tmp_path / "log.txt"):
        pass
    assert (tmp_path / "precious").read_text() == "mine"


def test_a_log_that_cannot_be_written_is_an_error_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    message = r"Cannot write to the log .*log\.txt \(No space left on device\)\."
    with monkeypatch.context() as full:
        full.setattr(os, "write", refuse)
        with pytest.raises(OSError, match=message), log_to(tmp_path / "log.txt"):
            logging.getLogger("scalex").info("a line")
        # The error of the run is shown, not that of its log.
        with pytest.raises(ValueError, match="wrong"), log_to(tmp_path / "log.txt"):
            raise ValueError("wrong")
    assert capsys.readouterr().err == ""
