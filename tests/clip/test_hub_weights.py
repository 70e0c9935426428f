"""open_clip's weights from a hub on this machine, into the hub's own cache."""

import hashlib

import pytest
from huggingface_hub import constants
from local_server import LocalServer

import ovseg_cli.clip  # noqa: F401  (it makes torchvision importable)
from ovseg_cli.checkpoints.catalogue import catalogue_entry
from ovseg_cli.clip.hub_weights import fetch_open_clip
from ovseg_cli.errors import InputError
from ovseg_cli.stages.models_here import place_of

CLIP = "ViT-B-16-quickgelu:openai"
CONTENT = b"weights" * 1000


@pytest.fixture
def hub(tmp_path, monkeypatch):
    server = LocalServer(CONTENT)
    server.etag = f'"{hashlib.sha256(CONTENT).hexdigest()}"'
    server.headers = {"X-Repo-Commit": "0" * 40}
    template = f"{server.address}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", server.address)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    yield server
    server.close()


def test_a_clip_goes_into_the_hubs_cache_and_is_found_there(hub, tmp_path):
    entry = catalogue_entry(CLIP)
    assert place_of(entry) is None
    path = fetch_open_clip(*CLIP.split(":"))
    assert path.read_bytes() == CONTENT
    assert path.is_relative_to(tmp_path / "hub")
    assert place_of(entry) == path
    asked = len(hub.asked)
    assert fetch_open_clip(*CLIP.split(":")) == path
    assert len(hub.asked) == asked + 1  # whether it is still the same, not the file


def test_a_hub_without_the_file_is_one_sentence(hub):
    hub.code = 404
    with pytest.raises(InputError, match="cannot be fetched from Hugging Face's hub"):
        fetch_open_clip(*CLIP.split(":"))


def test_an_unknown_clip_is_told():
    with pytest.raises(InputError, match="open_clip has no such weights"):
        fetch_open_clip("ViT-B-16-quickgelu", "openal")
