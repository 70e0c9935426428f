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
        try:
            return typer.confirm(question, err=True)
        except typer.Abort as error:
            raise KeyboardInterrupt from error  # as anywhere else: Typer's own would end with 1

    return answer
