"""What a look at one thing found."""

from dataclasses import dataclass
from typing import Any, Literal

Status = Literal["ok", "warning", "problem"]


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: what.
        found: what is there, in a few words.
        mend: what to do about it; None where nothing needs to be done.
        status: `ok`; `warning`, where only some commands miss it; `problem`, where many fail.
    """

    name: str
    found: str
    mend: str | None = None
    status: Status = "ok"

    def as_json(self) -> dict[str, Any]:
        """The finding as `--json` has it."""
        return dict(self.__dict__)


def warning(name: str, found: str, mend: str) -> Finding:
    """Something that only some commands need."""
    return Finding(name, found, mend, "warning")


def problem(name: str, found: str, mend: str) -> Finding:
    """Something without which much fails."""
    return Finding(name, found, mend, "problem")
