"""Who is asked, and what the answers do."""

import sys

import pytest
import typer

from ovseg_cli.cli_consent import consent


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)


def test_yes_is_not_asked_and_without_a_terminal_nobody_is(monkeypatch):
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
    assert consent(True)("download?") is True
    assert consent(False)("download?") is None


@pytest.mark.parametrize("answer", [True, False])
def test_a_terminal_answers(terminal, monkeypatch, answer):
    monkeypatch.setattr(typer, "confirm", lambda question, err: answer)
    assert consent(False)("download?") is answer


def test_ctrl_c_at_the_question_is_no_answer(terminal, monkeypatch):
    def stopped(question, err):
        raise typer.Abort

    monkeypatch.setattr(typer, "confirm", stopped)
    with pytest.raises(KeyboardInterrupt):
        consent(False)("download?")
