"""A catalogue of a few entries whose files a server on this machine has."""

from contextlib import contextmanager
from functools import partial
from importlib import import_module

import pytest
import torch
import yaml
from local_server import LocalServer
from released_mask2former import SIZES, released_mask2former, zoo_pickle
from tiny_architectures import tiny_vit

from ovseg_cli.checkpoints import catalogue
from ovseg_cli.proposers import Mask2Former
from ovseg_cli.stages import import_entry

MODEL = catalogue.DEFAULT_MODEL
TERMS = {"licence": "MIT", "commercial": True}


def zoo_file(folder):
    """A file of the zoo's layout with random weights: a path."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        sizes = {**SIZES, "backbone": "resnet50", "backbone_width": 8, "classes": 7, "heads": 8}
        model = Mask2Former(**sizes)
    return zoo_pickle(folder / "model_final.pkl", released_mask2former(model))


def entries(url):
    return [
        {"name": "tiny", "kind": "segmenter", "about": "in the box", **TERMS},
        {"name": MODEL, "kind": "proposals", "about": "a zoo's", **TERMS, "size": 2_000_000,
         "system": "mask2former", "url": url},
        {"name": "by-hand", "kind": "segmenter", "about": "a drive's", "system": "masqclip",
         "licence": "CC BY-NC 4.0", "commercial": False, "file": "weights.pth",
         "page": "https://drive.example/1"},
        {"name": "RN50-quickgelu:openai", "kind": "clip", "about": "a CLIP", **TERMS,
         "size": 1000, "hub": "timm/resnet50_clip.openai"},
    ]  # fmt: skip


def use(content, folder, patch):
    """Makes these entries the catalogue."""
    path = folder / "catalogue.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    patch.setattr(catalogue, "CATALOGUE", path)
    catalogue.catalogue.cache_clear()


@contextmanager
def small_catalogue(folder):
    """The server of the entries' files; caches are in the folder, imports take a tiny CLIP."""
    server = LocalServer(zoo_file(folder).read_bytes())
    options = [f"clip.architecture={tiny_vit(folder)}", "clip.pretrained=null"]
    options += ["framing.short_side=64"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OVSEG_CACHE", str(folder / "cache"))
        patch.setattr(import_module("huggingface_hub.constants"), "HF_HUB_CACHE", str(folder))
        small = partial(import_entry.import_entry, overrides=options)
        patch.setattr(import_entry, "import_entry", small)
        use(entries(server.url), folder, patch)
        yield server
    catalogue.catalogue.cache_clear()
    server.close()
