"""Where imported weights came from, and under which licence."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Licence:
    """The terms under which weights are released.

    Attributes:
        name: such as `Apache-2.0`.
        commercial: whether they allow commercial use.
        note: what else to know, a sentence; empty for nothing.
    """

    name: str
    commercial: bool
    note: str = ""

    def sentence(self) -> str:
        """The licence for people."""
        use = "commercial use is allowed" if self.commercial else "NOT for commercial use"
        return f"{self.name}, {use}" + (f"; {self.note}" if self.note else "")


@dataclass(frozen=True)
class Origin:
    """What is known of a released file beside its bytes.

    Attributes:
        url: where it was fetched; None for a file that was there.
        sha256: 64 hex digits that it must have; None where nobody knows.
        entry: its name in the catalogue; None where it came from elsewhere.
        licence: where it is another than that of the files of its layout.
    """

    url: str | None = None
    sha256: str | None = None
    entry: str | None = None
    licence: Licence | None = None
