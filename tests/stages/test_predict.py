import errno
import gc
import io
import json
import os
import tracemalloc
import weakref
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools import mask as coco_mask
from untrained_run import untrained_run

from ovseg_cli import storage
from ovseg_cli.errors import (
    InputError,
    OvsegError,
    RunError,
    SomeInputsFailedError,
    StorageError,
    UsageError,
)
from ovseg_cli.stages import model_choice, prediction_files
from ovseg_cli.stages.model_choice import choose_model
from ovseg_cli.stages.pictures import ReadOptions
from ovseg_cli.stages.predict import PredictOptions, predict, predict_command
from ovseg_cli.structures import Instances, Segment, Segmentation
from ovseg_cli.video_frames import video_frames
from ovseg_cli.vocabulary import parse_labels
from ovseg_cli.vocabulary.text_embeddings import text_cache_folder

WORDS = parse_labels("dog,sky")


def halves(image, name: str = "") -> Segmentation:
    """The left half is a dog, the right half is sky: a segmenter without a model."""
    _, height, width = image.shape
    left = torch.zeros(height, width, dtype=torch.bool)
    left[:, : width // 2] = True
    area = int(left.sum())
    segments = (Segment(1, 0, True, 0.9, area), Segment(2, 1, False, 0.8, left.numel() - area))
    return Segmentation(
        torch.where(left, 1, 2).int(),
        segments,
        (~left).long(),
        Instances(left[None], torch.tensor([0]), torch.tensor([0.9])),
    )


def picture(path: Path, size=(6, 4)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, "grey").save(path)
    return path


def files_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_an_image_gives_an_overlay_a_map_and_cocos_json(tmp_path) -> None:
    source = picture(tmp_path / "a.png")
    result = predict([str(source)], WORDS, halves, tmp_path / "out")
    assert files_in(tmp_path / "out") == {
        "overlays/a.png",
        "panoptic/a.png",
        "panoptic.json",
        "categories.json",
    }
    assert result.images == 1
    assert result.found == {"dog": 1, "sky": 1}
    assert result.error() is None
    content = json.loads((tmp_path / "out" / "panoptic.json").read_text())
    (image,), (annotation,) = content["images"], content["annotations"]
    assert image == {"id": 1, "file_name": str(source), "height": 4, "width": 6}
    rgb = np.asarray(Image.open(tmp_path / "out" / "panoptic" / annotation["file_name"]))
    for segment in annotation["segments_info"]:
        assert (rgb[..., 0] == segment["id"]).sum() == segment["area"]
    assert [entry["name"] for entry in content["categories"]] == ["dog", "sky"]


def test_all_tasks_have_their_files(tmp_path) -> None:
    picture(tmp_path / "in" / "a.png")
    options = PredictOptions(tasks=("instance", "semantic"), overlays=False)
    predict([str(tmp_path / "in")], WORDS, halves, tmp_path / "out", options=options)
    assert files_in(tmp_path / "out") == {"semantic/a.png", "instances.jsonl", "categories.json"}
    semantic = np.asarray(Image.open(tmp_path / "out" / "semantic" / "a.png"))
    assert semantic.tolist() == [[0, 0, 0, 1, 1, 1]] * 4
    (line,) = (tmp_path / "out" / "instances.jsonl").read_text().splitlines()
    record = json.loads(line)
    assert record["category"] == "dog"
    assert (coco_mask.decode(record["segmentation"]) == (semantic == 0)).all()


def test_records_come_image_by_image(tmp_path) -> None:
    for name in ("a.png", "b.png"):
        picture(tmp_path / "in" / name)
    seen: list[tuple[str, int]] = []

    def segment(image, name):
        seen.append(("segment", 0))
        return halves(image)

    def on_record(record):
        seen.append(("record", record["image_id"]))
        assert json.loads(json.dumps(record)) == record
        assert Path(record["files"]["overlay"]).is_file()
        assert record["segments"][0] == {
            "label": "dog", "is_thing": True, "area": 12, "score": 0.9,
        }  # fmt: skip

    predict([str(tmp_path / "in")], WORDS, segment, tmp_path / "out", on_record=on_record)
    assert seen == [("segment", 0), ("record", 1), ("segment", 0), ("record", 2)]


def test_inputs_of_equal_names_do_not_overwrite_one_another(tmp_path) -> None:
    sources = [str(picture(tmp_path / folder / "a.png")) for folder in ("one", "two")]
    sources.append(str(picture(tmp_path / "one" / "a.bmp")))
    predict(sources, WORDS, halves, tmp_path / "out")
    assert {"panoptic/a.png", "panoptic/a-2.png", "panoptic/a-3.png"} < files_in(tmp_path / "out")
    content = json.loads((tmp_path / "out" / "panoptic.json").read_text())
    assert [image["file_name"] for image in content["images"]] == sources


def test_a_bad_input_among_others_is_listed_and_the_rest_goes_on(tmp_path) -> None:
    good = picture(tmp_path / "good.png")
    bad = tmp_path / "bad.jpg"
    bad.write_text("no image")
    records = []
    sources = [str(bad), str(tmp_path / "missing.png"), str(good), str(tmp_path / "*.webp")]
    result = predict(sources, WORDS, halves, tmp_path / "out", on_record=records.append)
    assert result.images == 1
    error = result.error()
    assert isinstance(error, SomeInputsFailedError)
    assert error.exit_code == 3
    assert "3 of 4 inputs failed" in str(error)
    lines = (tmp_path / "out" / "errors.jsonl").read_text().splitlines()
    assert [json.loads(line)["source"] for line in lines] == [sources[0], sources[1], sources[3]]
    assert sum("error" in record for record in records) == 3


def test_an_old_list_of_errors_goes(tmp_path) -> None:
    good = str(picture(tmp_path / "good.png"))
    predict([good, "missing.png"], WORDS, halves, tmp_path / "out")
    assert (tmp_path / "out" / "errors.jsonl").exists()
    predict([good], WORDS, halves, tmp_path / "out", options=PredictOptions(overwrite=True))
    assert not (tmp_path / "out" / "errors.jsonl").exists()


@pytest.mark.parametrize("count", [1, 2])
def test_where_nothing_was_segmented_nothing_is_written(tmp_path, count) -> None:
    result = predict(["missing.png"] * count, WORDS, halves, tmp_path / "out")
    error = result.error()
    assert isinstance(error, InputError)
    assert error.exit_code == 2
    assert "missing.png: no such file" in str(error)
    assert not (tmp_path / "out").exists()


def test_no_source_is_refused(tmp_path) -> None:
    with pytest.raises(InputError, match="give a file"):
        predict([], WORDS, halves, tmp_path)


def test_our_own_results_are_no_input(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    picture(tmp_path / "a.png")
    options = PredictOptions(read=ReadOptions(recursive=True), overwrite=True)
    for _ in range(2):
        assert predict(["."], WORDS, halves, Path("out"), options=options).images == 1
    with pytest.raises(InputError, match="nothing there but results of out"):
        predict(["out/overlays"], WORDS, halves, Path("out"), options=options)
    named = predict(["out/overlays/a.png"], WORDS, halves, Path("out"), options=options)
    assert "a result of out; give another --output" in str(named.error())
    assert Path("out/overlays/a.png").exists()
    assert predict(["out/overlays/a.png"], WORDS, halves, Path("other")).images == 1


def test_results_of_an_earlier_time_are_not_mixed_with_new_ones(tmp_path) -> None:
    old, new = (str(picture(tmp_path / f"{name}.png")) for name in ("old", "new"))
    out = tmp_path / "out"
    options = PredictOptions(tasks=("panoptic", "semantic", "instance"))
    predict([old], WORDS, halves, out, options=options)
    (out / "notes.txt").write_text("mine")
    (out / "overlays" / "notes.txt").write_text("mine")
    before = files_in(out)
    with pytest.raises(UsageError, match="--overwrite replaces them, --output takes another"):
        predict([new], WORDS, halves, out)
    failed = predict(["missing.png"], WORDS, halves, out, options=PredictOptions(overwrite=True))
    assert failed.images == 0
    assert files_in(out) == before
    predict([new], WORDS, halves, out, options=PredictOptions(overwrite=True))
    assert files_in(out) == {
        "overlays/new.png", "overlays/notes.txt", "notes.txt",
        "panoptic/new.png", "panoptic.json", "categories.json",
    }  # fmt: skip


@pytest.mark.parametrize("name", ["overlays/holiday.png", "panoptic.json"])
def test_files_of_others_are_never_overwritten(tmp_path, name) -> None:
    source = str(picture(tmp_path / "a.png"))
    picture(tmp_path / "out" / "x.png").rename(tmp_path / "out" / "x")
    (tmp_path / "out" / name).parent.mkdir(exist_ok=True)
    (tmp_path / "out" / name).write_text("mine")
    before = files_in(tmp_path / "out")
    with pytest.raises(UsageError, match="not written by predict; choose another folder"):
        predict([source], WORDS, halves, tmp_path / "out", options=PredictOptions(overwrite=True))
    assert files_in(tmp_path / "out") == before


@pytest.mark.parametrize("output", ["a.png", "a.png/deep/er"])
def test_a_file_in_the_place_of_the_folder_is_told_before_any_image_is_read(
    tmp_path, output
) -> None:
    picture(tmp_path / "a.png")
    with pytest.raises(StorageError, match=r"a\.png: a file stands where a folder is needed"):
        predict(["missing.png"], WORDS, halves, tmp_path / output)


def video(path: Path, count: int = 6, share: float = 1) -> Path:
    av = pytest.importorskip("av", reason='videos need PyAV: pip install "ovseg[video]"')
    noise = np.random.default_rng(0)
    with av.open(str(path), "w", format="avi") as container:
        stream = container.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p"
        for _ in range(count):
            pixels = noise.integers(0, 255, (48, 64, 3), dtype=np.uint8)
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    return path


def test_a_video_gives_results_frame_by_frame_and_a_video_of_overlays(tmp_path) -> None:
    source = video(tmp_path / "my.clip.avi")
    records, names = [], []

    def segment(image, name):
        names.append(Path(name).name)
        return halves(image)

    options = PredictOptions(("panoptic", "instance"), read=ReadOptions(every=3))
    sources = [str(source), str(source), str(picture(tmp_path / "a.png"))]
    result = predict(
        sources, WORDS, segment, tmp_path / "out", options=options, on_record=records.append
    )
    assert result.images == 5
    assert names == ["my.clip-000000", "my.clip-000003"] * 2 + ["a.png"]
    assert [record.get("frame") for record in records] == [0, 3, 0, 3, None]
    assert [record.get("seconds") for record in records] == [0, 0.3, 0, 0.3, None]
    assert {record["source"] for record in records[:4]} == {str(source)}
    assert {name for name in files_in(tmp_path / "out") if "overlays" in name} == {
        "overlays/my.clip-000000.png", "overlays/my.clip-000003.png", "overlays/my.clip.mp4",
        "overlays/my.clip-000000-2.png", "overlays/my.clip-000003-2.png", "overlays/my.clip-2.mp4",
        "overlays/a.png",
    }  # fmt: skip
    content = json.loads((tmp_path / "out" / "panoptic.json").read_text())
    second = content["images"][1]
    assert second == {
        "id": 2, "file_name": str(tmp_path / "my.clip-000003"), "height": 48, "width": 64,
        "source": str(source), "frame": 3, "seconds": 0.3,
    }  # fmt: skip
    line = (tmp_path / "out" / "instances.jsonl").read_text().splitlines()[1]
    assert json.loads(line)["file_name"] == second["file_name"]
    (drawn, _) = video_frames(tmp_path / "out" / "overlays" / "my.clip.mp4", max_pixels=10**6)
    assert drawn.image.shape == (3, 384, 512)
    assert drawn.rate == Fraction(10, 3)


def test_of_a_video_cut_off_the_frames_before_are_kept(tmp_path) -> None:
    source = video(tmp_path / "cut.avi", share=0.6)
    result = predict([str(source)], WORDS, halves, tmp_path / "out")
    assert 1 <= result.images < 6
    error = result.error()
    assert isinstance(error, SomeInputsFailedError)
    assert "cut.avi: the video is damaged or cut off after" in str(error)
    (line,) = (tmp_path / "out" / "errors.jsonl").read_text().splitlines()
    assert json.loads(line)["source"] == str(source)
    drawn = list(video_frames(tmp_path / "out" / "overlays" / "cut.mp4", max_pixels=10**6))
    assert len(drawn) == result.images


def test_a_frame_that_fails_says_which(tmp_path) -> None:
    source = video(tmp_path / "a.avi", 2)
    records = []

    def segment(image, name):
        if name.endswith("1"):
            raise MemoryError
        return halves(image)

    predict([str(source)], WORDS, segment, tmp_path / "out", on_record=records.append)
    assert (records[1]["source"], records[1]["frame"]) == (str(source), 1)
    assert "a-000001: not enough memory for 64 x 48 pixels" in records[1]["error"]


def test_a_folder_gives_its_images_only(tmp_path) -> None:
    video(tmp_path / "in" / picture(tmp_path / "in" / "a.png").with_suffix(".avi").name)
    assert predict([str(tmp_path / "in")], WORDS, halves, tmp_path / "out").images == 1


def test_nothing_grows_with_the_inputs(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(storage, "_sync", lambda path: None)
    monkeypatch.setattr(prediction_files, "_IN_MEMORY", 1000)
    source, missing = str(picture(tmp_path / "a.png")), str(tmp_path / "missing.png")
    options = PredictOptions(tasks=("panoptic", "semantic", "instance"), overlays=False)
    alive: weakref.WeakSet[Segmentation] = weakref.WeakSet()
    held: dict[int, int] = {}

    def record(entry) -> None:
        if entry.get("image_id") in (80, 200):
            gc.collect()
            held[entry["image_id"]] = tracemalloc.get_traced_memory()[0]
            assert len(alive) <= 1

    def segment(image, name):
        alive.add(result := halves(image))
        return result

    lines = (f"{missing}\n" if number % 2 else f"{source}\n" for number in range(400))
    tracemalloc.start()
    result = predict(
        ["-"], WORDS, segment, tmp_path / "out", options=options, stdin=lines, on_record=record
    )
    tracemalloc.stop()
    assert (result.images, result.failed, len(result.failures)) == (200, 200, 20)
    assert held[200] - held[80] < 120 * 500  # an image's records alone have five times as much
    assert len(json.loads((tmp_path / "out" / "panoptic.json").read_text())["images"]) == 200
    assert len((tmp_path / "out" / "errors.jsonl").read_text().splitlines()) == 200


def test_a_link_to_itself_is_one_input_that_failed(tmp_path) -> None:
    picture(tmp_path / "in" / "b.png")
    (tmp_path / "in" / "a.png").symlink_to("a.png")
    result = predict([str(tmp_path / "in")], WORDS, halves, tmp_path / "out")
    assert result.images == len(result.failures) == 1


def test_lists_on_stdin_are_segmented(tmp_path) -> None:
    source = picture(tmp_path / "a.png")
    result = predict(["-"], WORDS, halves, tmp_path / "out", stdin=io.StringIO(f"{source}\n"))
    assert result.images == 1


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried ..."),
        RuntimeError("MPS backend out of memory"),
    ],
    ids=["cuda", "python", "cpu", "mps"],
)
def test_too_little_memory_for_one_image_fails_that_image_alone(tmp_path, error) -> None:
    sources = [str(picture(tmp_path / "large.png", (90, 90))), str(picture(tmp_path / "a.png"))]

    def segment(image, name):
        if image.shape[1] == 90:
            raise error
        return halves(image)

    result = predict(sources, WORDS, segment, tmp_path / "out")
    assert result.images == 1
    assert "not enough memory for 90 x 90 pixels" in str(result.failures[0].error)


def test_any_other_error_of_the_model_is_a_bug_and_not_hidden(tmp_path) -> None:
    def segment(image, name):
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes do not fit"):
        predict([str(picture(tmp_path / "a.png"))], WORDS, segment, tmp_path / "out")


def test_a_full_disk_stops_with_one_sentence_and_whole_files(tmp_path, monkeypatch) -> None:
    sources = [str(picture(tmp_path / name)) for name in ("a.png", "b.png")]
    save = Image.Image.save

    def full(self, path, *arguments, **options):
        if "b" in Path(path).name:
            Path(path).write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        return save(self, path, *arguments, **options)

    monkeypatch.setattr(Image.Image, "save", full)
    with pytest.raises(StorageError, match=r"b.png: no space left") as error:
        predict(sources, WORDS, halves, tmp_path / "out")
    assert error.value.exit_code == 1
    assert files_in(tmp_path / "out") == {"overlays/a.png", "panoptic/a.png", "categories.json"}


def test_a_crash_leaves_no_half_json(tmp_path) -> None:
    sources = [str(picture(tmp_path / name)) for name in ("a.png", "b.png")]
    calls = iter([halves, None])

    def segment(image, name):
        return next(calls)(image)

    with pytest.raises(TypeError):
        predict(sources, WORDS, segment, tmp_path / "out")
    assert "panoptic.json" not in files_in(tmp_path / "out")
    assert not [name for name in os.listdir(tmp_path / "out") if "tmp" in name]


def test_the_model_is_the_named_one_then_the_run_then_the_one_in_the_box(
    tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    tiny, run = Path("tiny"), Path("run")
    for folder in (tiny, run):
        folder.mkdir()
    monkeypatch.setattr(model_choice, "TINY", tiny)
    (tiny / "recipe.yaml").touch()
    assert choose_model("tiny", run).is_tiny
    assert choose_model(None, run).is_tiny
    (run / "recipe.yaml").touch()
    assert choose_model("run", Path("other")).run.path == run
    assert choose_model(None, run).run.path == run
    assert not choose_model(None, run).is_tiny


def test_a_model_that_is_none_is_told(tmp_path) -> None:
    with pytest.raises(UsageError, match="--model huge: no such model"):
        choose_model("huge", tmp_path)
    with pytest.raises(RunError, match=r"no run directory, there is no recipe.yaml in it"):
        choose_model(str(tmp_path), tmp_path)
    with pytest.raises(RunError, match="mistyped: no run directory"):
        choose_model(None, Path("mistyped"))


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return untrained_run(tmp_path_factory.mktemp("untrained") / "run")


def test_a_run_directory_segments_with_the_users_words(tmp_path, run) -> None:
    picture(tmp_path / "in" / "a.png", (60, 40))
    result = predict_command([str(tmp_path / "in")], "dog/puppy,sky", run=run, folder=tmp_path)
    assert result.images == 1
    content = json.loads((tmp_path / "panoptic.json").read_text())
    assert [entry["name"] for entry in content["categories"]] == ["dog", "sky"]
    assert content["images"][0]["width"] == 60


def test_the_model_in_the_box_says_what_it_knows(tmp_path, run, monkeypatch) -> None:
    monkeypatch.setattr(model_choice, "TINY", run)
    monkeypatch.chdir(tmp_path)
    notices = []
    source = str(picture(tmp_path / "a.png"))
    result = predict_command([source], None, on_notice=notices.append)
    assert result.folder == Path("run/predictions")
    assert len(notices) == 1
    assert "drawn shapes" in notices[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": None}, "no --labels"),
        ({"labels": "dog,dog"}, "'dog' is there already"),
        ({"labels": " ".join("0123456789" * 4)}, "longer than the 30 tokens"),
        ({"tasks": ["panoptic", "depth"]}, "--task depth: give panoptic, semantic, instance"),
        ({"model": "huge"}, "--model huge: no such model"),
    ],
)
def test_what_cannot_be_done_is_said_before_any_image_is_read(
    tmp_path, run, options, message
) -> None:
    arguments = {"labels": "dog", "run": run, "folder": tmp_path / "out", **options}
    with pytest.raises(OvsegError, match=message):
        predict_command(["missing.png"], arguments.pop("labels"), **arguments)
    assert not (tmp_path / "out").exists()


def test_texts_are_cached_where_the_user_wants(tmp_path, run, monkeypatch) -> None:
    monkeypatch.setenv("OVSEG_CACHE", str(tmp_path / "cache"))
    predict_command([str(picture(tmp_path / "a.png"))], "dog", run=run, folder=tmp_path / "out")
    assert len(list((tmp_path / "cache" / "texts").iterdir())) == 1
    monkeypatch.delenv("OVSEG_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert text_cache_folder() == Path("/somewhere/ovseg/texts")
