"""What is known of released weights: where they are, how large, under which licence."""

import difflib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import yaml
from pydantic import PositiveInt

from ovseg_cli.errors import UsageError
from ovseg_cli.recipe import build

CATALOGUE = Path(__file__).with_suffix(".yaml")
DEFAULT_MODEL = "mask2former-r50"
TINY_NAME = "tiny"
TINY = Path(__file__).parents[1] / "assets" / TINY_NAME  # the model in the box


@dataclass(frozen=True)
class CatalogueEntry:
    """Weights or data that somebody has published, or that ship with ovseg.

    Attributes:
        name: what `ovseg models` and `--model` call it; of open_clip's CLIPs it is
            ARCHITECTURE:PRETRAINED.
        kind: a whole segmenter, proposals alone, a CLIP alone, or data.
        about: a sentence for people.
        licence: its name.
        commercial: whether the licence allows commercial use; None where nobody says.
        system: what `models import --system` calls the file's layout.
        size: about so many bytes.
        url: where a program can fetch it.
        page: where a person can.
        file: its published name.
        hub: the repository on Hugging Face's hub that open_clip takes it from.
        sha256: of the file, 64 hex digits.
        md5: the first hex digits of the file's MD5.
        clip: the entry of the CLIP that it works with.
    """

    name: str
    kind: Literal["segmenter", "proposals", "clip", "data"]
    about: str
    licence: str
    commercial: bool | None
    system: str | None = None
    size: PositiveInt | None = None
    url: str | None = None
    page: str | None = None
    file: str | None = None
    hub: str | None = None
    sha256: str | None = None
    md5: str | None = None
    clip: str | None = None

    @property
    def terms(self) -> str:
        """The licence, and whether it allows commercial use."""
        return self.licence + (", NOT for commercial use" if self.commercial is False else "")


@cache
def catalogue() -> dict[str, CatalogueEntry]:
    """All entries by name, in the order of the list."""
    content = yaml.safe_load(CATALOGUE.read_text(encoding="utf-8"))
    entries = [build("catalogue", dict(entry), CatalogueEntry) for entry in content]
    return {entry.name: entry for entry in entries}


def catalogue_entry(name: str) -> CatalogueEntry:
    """The entry of a name.

    Raises:
        UsageError: there is none.
    """
    found = catalogue().get(name)
    if found is None:
        close = difflib.get_close_matches(name, catalogue(), n=1, cutoff=0.5)
        mend = f"did you mean {close[0]!r}? " if close else ""
        raise UsageError(f"{name}: not in the catalogue; {mend}see 'ovseg models list'")
    return found
