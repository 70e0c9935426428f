"""The catalogue: what it says fits open_clip, the recipes and the importer."""

import re
from urllib.parse import urlsplit

import pytest

import ovseg_cli.torchvision_ops  # noqa: F401  (open_clip needs it)
from ovseg_cli.checkpoints.catalogue import DEFAULT_MODEL, catalogue, catalogue_entry
from ovseg_cli.checkpoints.released_systems import SYSTEMS
from ovseg_cli.errors import UsageError
from ovseg_cli.recipe import load_recipe, shipped_recipes

ENTRIES = list(catalogue().values())


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_an_entry_can_be_had_in_exactly_one_way(entry):
    ways = [entry.url, entry.page, entry.hub, entry.name == "tiny" or None]
    assert sum(way is not None for way in ways) == 1
    assert entry.size or not (entry.url or entry.hub)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_addresses_are_https_and_names_can_be_folders(entry):
    for address in filter(None, (entry.url, entry.page)):
        assert urlsplit(address).scheme == "https"
    assert re.fullmatch(r"[\w.-]+(:[\w.-]+)?", entry.name)
    assert (":" in entry.name) == (entry.hub is not None)


@pytest.mark.parametrize("entry", [e for e in ENTRIES if e.hub], ids=lambda entry: entry.name)
def test_open_clip_takes_a_clip_from_the_same_repository(entry):
    import open_clip

    architecture, _, pretrained = entry.name.partition(":")
    tag = open_clip.pretrained.get_pretrained_cfg(architecture, pretrained)
    assert tag["hf_hub"].rstrip("/") == entry.hub
    quick = open_clip.get_model_config(architecture).get("quick_gelu", False)
    assert tag.get("quick_gelu", False) == quick


def test_what_an_entry_works_with_is_in_the_catalogue():
    for entry in ENTRIES:
        assert entry.clip is None or catalogue_entry(entry.clip).hub


def test_every_clip_of_a_shipped_recipe_is_in_the_catalogue():
    sections = [load_recipe(name).section("clip") for name in shipped_recipes()]
    published = [clip for clip in sections if clip.get("name") == "open_clip"]
    assert published
    for clip in published:
        assert catalogue_entry(f"{clip['architecture']}:{clip['pretrained']}").hub


def test_the_default_can_be_fetched_and_used_by_anybody():
    default = catalogue_entry(DEFAULT_MODEL)
    clip = catalogue_entry(default.clip)
    assert default.url
    assert default.commercial
    assert clip.commercial


@pytest.mark.parametrize("system", ["masqclip", "maskclip", "maft", "ovseg"])
def test_what_is_not_for_commercial_use_says_so(system):
    found = [e for e in ENTRIES if e.system == system and e.name != "tiny"]
    assert found
    assert all("NOT for commercial use" in entry.terms for entry in found)


def test_the_importer_knows_every_layout_and_the_same_licence():
    files = [entry for entry in ENTRIES if entry.page or entry.system == "mask2former"]
    for entry in files:
        licence = SYSTEMS[entry.system].licence
        same = (entry.licence, entry.commercial) == (licence.name, licence.commercial)
        assert same or entry.name == "maskclip-proposals"  # of Mask2Former's layout


def test_a_name_that_is_none_is_told_with_a_near_one():
    with pytest.raises(UsageError, match="did you mean 'mask2former-r50'"):
        catalogue_entry("mask2former-r5")
