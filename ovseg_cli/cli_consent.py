"""Who agrees to a download: --yes, or the user at a terminal."""

import sys
from collections.abc import Callable

import typer


def consent(yes: bool) -> Callable[[str], bool | None]:
    """Answers questions: yes if --yes was given, what the user types, or None without a terminal.

    Args:
        yes: whether --yes was given.
    """

    def answer(question: str) -> bool | None:
        if yes:
            return True
        if not (sys.stdin.isatty() and sys.stderr.isatty()):
            return None
        return typer.confirm(question, err=True)

    return answer
