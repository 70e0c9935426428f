"""`ovseg models list` and `show`: the catalogue, and what of it is on this machine."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from huggingface_hub import constants, try_to_load_from_cache

from ovseg_cli.checkpoints.catalogue import (
    TINY,
    TINY_NAME,
    CatalogueEntry,
    catalogue,
    catalogue_entry,
)
from ovseg_cli.mining.tagger_data import tagger_folder
from ovseg_cli.recipe import load_recipe
from ovseg_cli.storage import cache_folder

HUB_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")


def model_folder(name: str) -> Path:
    """Where a model of the catalogue is as a run directory, once it is imported.

    Args:
        name: its entry's.
    """
    return cache_folder() / "models" / name


def is_run_directory(folder: Path) -> bool:
    """True if stages have kept a recipe there."""
    return (folder / "recipe.yaml").is_file()


def place_of(entry: CatalogueEntry) -> Path | None:
    """Where an entry is on this machine; None where it is not.

    Args:
        entry: a CLIP of open_clip is looked for in the hub's cache, NLTK's data where NLTK does.
    """
    if entry.hub is not None:
        found = (try_to_load_from_cache(entry.hub, name) for name in HUB_FILES)
        return next((Path(path) for path in found if isinstance(path, str)), None)
    if entry.kind == "data":
        return tagger_folder()
    folder = TINY if entry.name == TINY_NAME else model_folder(entry.name)
    return folder if is_run_directory(folder) else None


def missing_parts(entry: CatalogueEntry) -> list[CatalogueEntry]:
    """The entry and the CLIP that it works with, as far as they are not here.

    Of a model that is here its recipe says which CLIP that is; a whole one came with its file.

    Raises:
        RecipeError: the recipe of a model that is here cannot be read.
    """
    clip = entry.clip if entry.clip is None or place_of(entry) is None else _clip_of(entry.name)
    parts = [entry, *([catalogue_entry(clip)] if clip else [])]
    return [part for part in parts if place_of(part) is None]


def _clip_of(name: str) -> str | None:
    """The entry of the CLIP that an imported model takes from open_clip; None for its own."""
    section = load_recipe(str(model_folder(name) / "recipe.yaml")).section("clip")
    clip = f"{section.get('architecture')}:{section.get('pretrained')}"
    return clip if clip in catalogue() else None


def hub_is_offline() -> bool:
    """True where HF_HUB_OFFLINE says to leave the network alone."""
    return bool(constants.HF_HUB_OFFLINE)


def how_to_get(entry: CatalogueEntry) -> str:
    """What to do to have an entry here, in one line."""
    if entry.name == TINY_NAME:
        return "it ships with ovseg"
    if entry.page is None:
        return f"ovseg models pull {entry.name}"
    file = entry.file or "FILE"
    return (
        f"download {file} from {entry.page} in a browser, then: ovseg models import {file} "
        f"--name {entry.name}"
    )


def how_to_use(entry: CatalogueEntry) -> str:
    """What to do with an entry that is here, in one line."""
    if entry.kind == "data":
        return "ovseg mine-captions takes it by itself"
    if entry.hub is not None:
        architecture, _, pretrained = entry.name.partition(":")
        return f"--set clip.architecture={architecture} --set clip.pretrained={pretrained}"
    if entry.kind == "clip":
        return f"a CLIP for stages: --run {model_folder(entry.name)}"
    return f'ovseg predict IMAGE --labels "beer,wine" --model {entry.name}'


def model_record(name: str) -> dict[str, Any]:
    """All that is known of an entry, for programs and for people.

    Args:
        name: of the entry.

    Raises:
        UsageError: there is none of that name.
    """
    entry = catalogue_entry(name)
    place = place_of(entry)
    return {
        **asdict(entry),
        "here": place is not None,
        "place": None if place is None else str(place),
        "get": how_to_get(entry),
        "use": how_to_use(entry),
    }


def model_records() -> list[dict[str, Any]]:
    """`model_record` of every entry, in the order of the catalogue."""
    return [model_record(name) for name in catalogue()]
