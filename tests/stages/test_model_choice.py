"""What predict uses: what is named, ./run, the pretrained default, the model in the box."""

import pytest
from huggingface_hub import constants
from PIL import Image
from small_catalogue import MODEL, small_catalogue
from untrained_run import untrained_run

from ovseg_cli.errors import InputError, UsageError, VocabularyError
from ovseg_cli.stages.model_choice import DEFAULT_RUN, choose_model
from ovseg_cli.stages.models_here import model_folder
from ovseg_cli.stages.predict import predict_command
from ovseg_cli.stages.pull_model import pull_model


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with small_catalogue(tmp_path) as running:
        yield running


def yes(question):
    return True


def test_a_run_directory_with_a_segmenter_comes_first(server):
    untrained_run(DEFAULT_RUN)
    choice = choose_model(None, DEFAULT_RUN, consent=yes)
    assert (choice.run.path, choice.notice) == (DEFAULT_RUN, None)
    assert server.asked == []


def test_a_run_directory_without_proposals_gives_way_and_is_named(server):
    untrained_run(DEFAULT_RUN)
    for path in (DEFAULT_RUN / "proposals").iterdir():
        path.unlink()
    choice = choose_model(None, DEFAULT_RUN)
    assert choice.is_tiny
    assert "run has no proposals yet" in choice.notice
    assert choose_model(str(DEFAULT_RUN), DEFAULT_RUN).run.path == DEFAULT_RUN


def test_the_default_is_fetched_with_consent_and_found_without(server):
    choice = choose_model(None, DEFAULT_RUN, consent=yes)
    assert choice.run.path == model_folder(MODEL)
    assert f"using {MODEL}" in choice.notice
    assert choose_model(None, DEFAULT_RUN).run.path == model_folder(MODEL)
    assert len(server.asked) == 1


@pytest.mark.parametrize("answer", [None, False])
def test_without_consent_the_box_answers_and_says_how_to_have_the_default(server, answer):
    choice = choose_model(None, DEFAULT_RUN, consent=lambda question: answer)
    assert choice.is_tiny
    assert "drawn shapes" in choice.notice
    assert f"'ovseg models pull {MODEL}' or --yes downloads about 2.0 MB" in choice.notice
    assert server.asked == []


def test_offline_the_box_answers_without_a_connection(server, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    choice = choose_model(None, DEFAULT_RUN, consent=yes)
    assert choice.is_tiny
    assert "HF_HUB_OFFLINE is set" in choice.notice
    assert server.asked == []


def test_where_the_default_cannot_be_had_the_box_answers_and_says_why(server):
    server.code = 503
    choice = choose_model(None, DEFAULT_RUN, consent=yes)
    assert choice.is_tiny
    assert "HTTP 503" in choice.notice


def test_without_words_the_box_looks_for_its_own(server):
    assert choose_model(None, DEFAULT_RUN, consent=yes, has_words=False).is_tiny
    assert server.asked == []


def test_a_name_of_the_catalogue_is_a_model(server):
    with pytest.raises(UsageError, match="add --yes"):
        choose_model(MODEL, DEFAULT_RUN)
    assert choose_model(MODEL, DEFAULT_RUN, consent=yes).run.path == model_folder(MODEL)
    pull_model(MODEL)
    assert choose_model(MODEL, DEFAULT_RUN).run.path == model_folder(MODEL)


def test_what_was_imported_by_hand_answers_to_its_name(server):
    with pytest.raises(InputError, match="in a browser"):
        choose_model("by-hand", DEFAULT_RUN, consent=yes)
    untrained_run(model_folder("by-hand"))
    assert choose_model("by-hand", DEFAULT_RUN).run.path == model_folder("by-hand")


def test_a_clip_alone_is_no_model(server):
    with pytest.raises(UsageError, match="a clip alone finds no masks"):
        choose_model("RN50-quickgelu:openai", DEFAULT_RUN, consent=yes)


def test_predict_needs_nothing_but_a_photograph_words_and_consent(server, tmp_path):
    Image.effect_noise((60, 40), 80).convert("RGB").save(tmp_path / "photo.png")
    notices, words = [], "beer,wine"
    for consent in (yes, lambda question: None):
        result = predict_command(
            ["photo.png"], words, consent=consent, on_notice=notices.append, folder=None
        )
        assert result.images == 1
        assert (result.folder / "overlays" / "photo.png").is_file()
    assert f"using {MODEL}" in notices[0]
    assert len(server.asked) == 1


def test_words_that_cannot_be_used_are_told_before_anything_is_fetched(server):
    with pytest.raises(VocabularyError, match="'beer' is there already"):
        predict_command(["photo.png"], "beer,beer", consent=yes)
    assert server.asked == []
