"""`ovseg datasets list`: the known datasets, and which of them are here."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ovseg_cli.datasets.known import KnownDataset, known_dataset, known_datasets
from ovseg_cli.errors import UsageError

HEAD = ("name", "what", "scored", "state")


def list_datasets(data: Path, names: Sequence[str] = ()) -> list[dict[str, Any]]:
    """The known datasets, one entry each.

    Args:
        data: the folder that holds them, OVSEG_DATA.
        names: of those to list; none for all.

    Returns:
        What is known of each, its `state` (here, not prepared or not here), `here`, the splits that
        are, and `mend`, what to do about those that are not.

    Raises:
        UsageError: there is no such folder or dataset.
    """
    if not data.is_dir():
        raise UsageError(f"--data {data}: no such folder; name the one that holds the datasets")
    chosen = [known_dataset(name) for name in names] or known_datasets()
    return [_entry(dataset, data) for dataset in chosen]


def row_of(entry: dict[str, Any]) -> tuple[str, ...]:
    """An entry of `list_datasets` under `HEAD`."""
    here = f": {', '.join(entry['here'])}" if entry["here"] else ""
    scored = ", ".join(entry["tasks"]) or "nothing"
    return entry["name"], entry["title"], scored, f"{entry['state']}{here}"


def details_of(entry: dict[str, Any]) -> dict[str, str]:
    """An entry of `list_datasets` for people, with where to get it and what it may be used for."""
    name, what, scored, state = row_of(entry)
    found = {"what": what, "scored": scored, "splits": ", ".join(entry["splits"]), "state": state}
    where = {"folder": entry["folder"], "from": entry["source"], "licence": entry["licence"]}
    return {"name": name, **found, **where, "do": entry["mend"] or ""}


def _entry(dataset: KnownDataset, data: Path) -> dict[str, Any]:
    state = dataset.state(data)
    prepare = f"ovseg datasets prepare {dataset.name}"
    mends = {
        "here": None,
        "not prepared": prepare,
        "not here": f"put its archives, as they are, into {data / dataset.root}, then {prepare}",
    }
    return {
        **asdict(dataset),
        "folder": str(data / dataset.root),
        "state": state,
        "here": list(dataset.splits_here(data)),
        "mend": mends[state],
    }
