"""The datasets that papers score on: what they hold, where to get them, where their parts lie."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from ovseg_cli.errors import UsageError

DATA = Path(__file__).parent / "known_datasets.json"
ARCHIVES = (".zip", ".tar", ".tar.gz")
LAYOUT = ("annotations", "classes", "values")

Annotations = Literal["panoptic", "instances", "semantic", "captions"]
State = Literal["here", "not prepared", "not here"]


@dataclass(frozen=True)
class KnownDataset:
    """A published dataset.

    Attributes:
        name: what commands call it.
        title: one line about it.
        tasks: what can be scored, possibly nothing.
        annotations: what its files are.
        classes: the built-in vocabulary with its category ids; None for the names in its files.
        values: what a pixel of its label maps is, see `pixel_values`.
        root: its folder below OVSEG_DATA.
        splits: by name, the paths below its folder: `images`, `file` and `maps`, where there are
            such.
        official: files or folders below OVSEG_DATA of which one is there after the download;
            archives lie there or in its folder.
        source: where to get it, and the names of the files.
        licence: in a word.
    """

    name: str
    title: str
    tasks: tuple[str, ...]
    annotations: Annotations
    classes: str | None
    values: str
    root: str
    splits: dict[str, dict[str, str]]
    official: tuple[str, ...]
    source: str
    licence: str

    def layout(self, split: str) -> dict[str, Any]:
        """What a recipe's target says of a split, beside `root`.

        Raises:
            UsageError: there is no such split.
        """
        if split not in self.splits:
            raise UsageError(f"{self.name}: no split {split!r}; it has {', '.join(self.splits)}")
        said = {key: getattr(self, key) for key in LAYOUT}
        return {"split": split, **said, **self.splits[split]}

    def splits_here(self, data: Path) -> tuple[str, ...]:
        """The splits whose images and annotations are below a folder."""
        return tuple(split for split in self.splits if self._is_here(data / self.root, split))

    def state(self, data: Path) -> State:
        """Whether it can be read, as far as can be told without reading it.

        Args:
            data: the folder that holds the datasets, OVSEG_DATA.
        """
        if self.splits_here(data):
            return "here"
        archives = [Path(path).name for path in self.official if path.endswith(ARCHIVES)]
        places = [data / path for path in self.official]
        places += [folder / name for folder in (data, data / self.root) for name in archives]
        return "not prepared" if any(place.exists() for place in places) else "not here"

    def _is_here(self, root: Path, split: str) -> bool:
        paths = dict(self.splits[split])
        if self.annotations == "panoptic" and "maps" not in paths:
            beside = root / paths["file"].removesuffix(".json")
            if not beside.is_dir() and not (root / beside.name).is_dir():
                return False
        return all((root / path).exists() for path in paths.values())


@cache
def known_datasets() -> tuple[KnownDataset, ...]:
    """All of them, in the order in which they are shown."""
    entries = json.loads(DATA.read_text(encoding="utf-8"))
    return tuple(_dataset(entry) for entry in entries)


def known_dataset(name: str) -> KnownDataset:
    """A dataset by its name, in any case and with dashes or underscores.

    Raises:
        UsageError: there is none of that name.
    """
    found = {dataset.name: dataset for dataset in known_datasets()}
    key = name.strip().lower().replace("-", "_")
    if key not in found:
        raise UsageError(f"no dataset {name!r}; there are {', '.join(found)}")
    return found[key]


def _dataset(entry: dict[str, Any]) -> KnownDataset:
    lists = {key: tuple(entry[key]) for key in ("tasks", "official")}
    return KnownDataset(**{"values": "index", **entry, **lists})
