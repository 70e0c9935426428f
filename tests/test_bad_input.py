"""What goes wrong at the command line: one sentence, an exit code, and nothing half-written."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from untrained_run import untrained_run

from ovseg_cli import storage
from ovseg_cli.cli import main


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    return untrained_run(tmp_path_factory.mktemp("untrained") / "run")


@pytest.fixture
def run(trained, tmp_path, monkeypatch) -> Path:
    """A run directory of the test's own, and an empty current folder."""
    shutil.copytree(trained, tmp_path / "model")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("OVSEG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "model"


@pytest.fixture
def ovseg(monkeypatch, capsys):
    """Runs the command line in this process: (exit code, stdout, stderr)."""
    handler = signal.getsignal(signal.SIGTERM)

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["ovseg", *map(str, arguments)])
        capsys.readouterr()
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    yield call
    signal.signal(signal.SIGTERM, handler)


def sentence(stderr: str) -> str:
    """The one error line; anything else, a traceback above all, is a failure."""
    (line,) = [line for line in stderr.splitlines() if not line.startswith("note:")]
    assert line.startswith("error: ")
    return line


def files(folder: Path = Path()) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def image(name: str, mode: str = "RGB", size=(40, 30), **options) -> Path:
    Image.new(mode, size).save(name, **options)
    return Path(name)


def cut_off(name: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(name)
    Path(name).write_bytes(Path(name).read_bytes()[:700])


def huge(name: str) -> None:
    image(name, size=(1, 1))
    content = bytearray(Path(name).read_bytes())
    content[16:24] = (60_000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    Path(name).write_bytes(bytes(content))


BAD_INPUTS = {
    "missing file": ("a.jpg", lambda name: None, "a.jpg: no such file"),
    "text named .jpg": (
        "a.jpg",
        lambda name: Path(name).write_text("hello"),
        "a.jpg: not an image that can be read; give one of JPEG",
    ),
    "empty file": ("a.jpg", lambda name: Path(name).touch(), "a.jpg: the file is empty"),
    "cut-off JPEG": ("a.jpg", cut_off, "a.jpg: the image is damaged or cut off"),
    "cut-off PNG": ("a.png", cut_off, "a.png: the image is damaged or cut off"),
    "huge image": ("a.png", huge, "60000 x 60000 pixels are more than 64,000,000"),
    "empty folder": ("images", os.mkdir, "images: no images in this folder"),
    "empty list": ("@list.txt", lambda name: Path(name[1:]).touch(), "list.txt: the file is empty"),
    "web address": (
        "https://example.org/a.jpg",
        lambda name: None,
        "https://example.org/a.jpg: a web address; download it and give the file",
    ),
    "telephone's HEIC": (
        "a.heic",
        lambda name: Path(name).write_bytes(b"\0\0\0\x1cftypheic" + bytes(99)),
        "a.heic: not an image that can be read; give one of JPEG",
    ),
    "damaged video": (
        "a.mp4",
        lambda name: Path(name).write_bytes(b"\0\0\0\x1cftypisom" + bytes(99)),
        "a.mp4: ",
    ),
    "pipe": ("pipe", lambda name: os.mkfifo(name), "pipe: not a regular file"),
    "escape sequence in a name": (
        "a\x1b]0;b\x07\n.jpg",
        lambda name: None,
        "a\\x1b]0;b\\x07\\n.jpg: no such file",
    ),
    "glob without match": ("*.webp", lambda name: None, "*.webp: no file matches"),
}


@pytest.mark.parametrize("case", BAD_INPUTS)
def test_an_input_that_cannot_be_read_is_one_sentence_and_code_2(run, ovseg, case) -> None:
    name, make, message = BAD_INPUTS[case]
    make(name)
    before = files()
    code, out, err = ovseg("predict", name, "--labels", "dog", "--run", run, "-o", "out")
    assert code == 2
    assert message in sentence(err)
    assert out == ""
    assert files() == before


ODD_IMAGES = {
    "palette": ("P", {}),
    "transparent palette": ("P", {"transparency": 0}),
    "grey": ("L", {}),
    "black and white": ("1", {}),
    "alpha": ("RGBA", {}),
    "grey with alpha": ("LA", {}),
    "16 bits": ("I;16", {}),
}


@pytest.mark.parametrize("case", ODD_IMAGES)
def test_odd_images_are_segmented(run, ovseg, case) -> None:
    mode, options = ODD_IMAGES[case]
    image("a.png", mode, **options)
    code, _, err = ovseg("predict", "a.png", "--labels", "dog", "--run", run, "-o", "out")
    assert (code, err) == (0, "")
    assert Image.open("out/panoptic/a.png").size == (40, 30)


def test_cmyk_is_segmented(run, ovseg) -> None:
    image("a.jpg", "CMYK")
    assert ovseg("predict", "a.jpg", "--labels", "dog", "--run", run, "-o", "out")[0] == 0


def test_a_turned_photograph_gives_an_upright_map(run, ovseg) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    image("a.jpg", exif=exif)
    assert ovseg("predict", "a.jpg", "--labels", "dog", "--run", run, "-o", "out")[0] == 0
    assert Image.open("out/panoptic/a.png").size == (30, 40)


def test_a_list_with_anything_in_it_fails_line_by_line_and_writes_in_its_folder_only(
    run, ovseg
) -> None:
    os.mkdir("in")
    image("../outside.png")
    lines = ["../outside.png", "../../../../../etc/passwd", "https://example.org/a.jpg", "/", ".."]
    lines += ["C:\\photos\\a.jpg", "x" * 300, "a.png\\0", "in", " ", "# in/a.png"]
    Path("list.txt").write_text("\n".join(lines))
    before = files(run.parent)
    code, _, err = ovseg("predict", "@list.txt", "--labels", "dog", "--run", run, "-o", "out")
    assert code == 3
    assert "8 of 9 inputs failed" in sentence(err)
    new = {name for name in files(run.parent) - before if not name.startswith("cache")}
    assert new == {f"work/out/{name}" for name in (
        "categories.json", "errors.jsonl", "overlays/outside.png", "panoptic/outside.png",
        "panoptic.json", "report.html",
    )}  # fmt: skip
    errors = [json.loads(line) for line in Path("out/errors.jsonl").read_text().splitlines()]
    assert [error["source"] for error in errors][:2] == [lines[1], "https:/example.org/a.jpg"]


def test_results_are_not_replaced_without_being_asked_to(run, ovseg) -> None:
    image("a.png")
    predict = ("predict", "a.png", "--run", run, "--labels")
    assert ovseg(*predict, "dog", "-o", "out")[0] == 0
    before = {name: Path(name).read_bytes() for name in files(Path())}
    code, _, err = ovseg(*predict, "cat", "-o", "out")
    assert code == 2
    assert "out: the results of an earlier predict are there; --overwrite" in sentence(err)
    assert {name: Path(name).read_bytes() for name in files(Path())} == before
    assert ovseg(*predict, "cat", "-o", "out", "--overwrite")[0] == 0
    assert "cat" in Path("out/categories.json").read_text()


def test_some_bad_inputs_among_many_are_listed_and_code_3(run, ovseg) -> None:
    image("good.png")
    Path("bad.jpg").write_text("hello")
    code, out, err = ovseg(
        "predict", ".", "missing.png", "--labels", "dog", "--run", run, "-o", "out", "--json"
    )
    assert code == 3
    assert "2 of 3 inputs failed, the others are done" in sentence(err)
    records = [json.loads(line) for line in out.splitlines()]
    assert [Path(record["source"]).name for record in records] == [
        "bad.jpg",
        "good.png",
        "missing.png",
    ]
    assert ["error" in record for record in records] == [True, False, True]
    assert len(Path("out/errors.jsonl").read_text().splitlines()) == 2
    assert "out/panoptic.json" in files()


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("", "--labels: no labels"),
        ("dog,,cat", "label 2 of 3: the label is empty"),
        ("dog,Dog", "'Dog' is there already"),
        ("x" * 200, "has 200 characters, at most 100"),
        (" ".join("0123456789" * 4), "longer than the 30 tokens"),
        ("@labels.txt", "labels.txt: no such file of labels"),
        ("coco_81", "did you mean 'coco_80'?"),
    ],
)
def test_labels_that_cannot_be_used_are_one_sentence(run, ovseg, labels, message) -> None:
    image("a.png")
    code, out, err = ovseg("predict", "a.png", "--labels", labels, "--run", run, "-o", "out")
    assert (code, out) == (2, "")
    assert message in sentence(err)
    assert files() == {"a.png"}


def test_an_unknown_recipe_key_is_one_sentence(run, ovseg) -> None:
    image("a.png")
    recipe = run / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("overlap_threshold", "overlap_treshold"))
    code, _, err = ovseg("predict", "a.png", "--labels", "dog", "--run", run, "-o", "out")
    assert code == 2
    assert "did you mean 'overlap_threshold'?" in sentence(err)
    assert files() == {"a.png"}


def test_an_unknown_recipe_section_is_one_sentence(ovseg, run) -> None:
    Path("mine.yaml").write_text("segmentation:\n  x: 1\n")
    code, _, err = ovseg("train-clip", "--recipe", "mine.yaml", "--run", "new")
    assert code == 2
    assert "segmentation" in sentence(err)
    assert files() == {"mine.yaml"}


@pytest.mark.parametrize(
    ("artifact", "command"),
    [("clip/base", "ovseg train-clip"), ("proposals/teacher", "ovseg train-proposals")],
)
def test_a_missing_artifact_names_the_command_that_makes_it(run, ovseg, artifact, command) -> None:
    image("a.png")
    (run / f"{artifact}.safetensors").unlink()
    code, _, err = ovseg("predict", "a.png", "--labels", "dog", "--run", run, "-o", "out")
    assert code == 2
    assert artifact in sentence(err)
    assert command in sentence(err)
    assert files() == {"a.png"}


def test_a_folder_that_is_no_run_directory_is_told(run, ovseg) -> None:
    image("a.png")
    code, _, err = ovseg("predict", "a.png", "--labels", "dog", "--run", "mistyped")
    assert code == 2
    assert "mistyped: no run directory" in sentence(err)


def other_shape(path: Path) -> None:
    tensors = load_file(path)
    name = next(name for name, tensor in tensors.items() if tensor.ndim > 1)
    save_file({**tensors, name: torch.zeros(3, 5)}, path)


def other_names(path: Path) -> None:
    save_file({f"other.{name}": tensor for name, tensor in load_file(path).items()}, path)


def damaged(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:100])


def a_web_page(path: Path) -> None:
    path.write_text("<html>404</html>")


@pytest.mark.parametrize("spoil", [other_shape, other_names, damaged, a_web_page])
@pytest.mark.parametrize("artifact", ["clip/base", "proposals/teacher"])
def test_a_checkpoint_of_another_model_is_one_sentence(run, ovseg, artifact, spoil) -> None:
    image("a.png")
    spoil(run / f"{artifact}.safetensors")
    code, _, err = ovseg("predict", "a.png", "--labels", "dog", "--run", run, "-o", "out")
    assert code == 2
    assert f"{artifact}.safetensors" in sentence(err)
    assert files() == {"a.png"}


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_no_disk_space_is_one_sentence_and_code_1(run, ovseg, monkeypatch, number) -> None:
    image("a.png")

    def full(path: Path) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(storage, "_sync", full)
    code, _, err = ovseg("predict", "a.png", "--labels", "dog", "--run", run, "-o", "out")
    assert code == 1
    expected = "no space left" if number == errno.ENOSPC else "cannot be written"
    assert re.search(rf"out/\S+: {expected}", sentence(err))
    assert files() == {"a.png"}


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 64 kB, where the machine lets us mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a small disk cannot be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_really_full_has_whole_files_only(run, ovseg, small_disk) -> None:
    noise = np.random.default_rng(0)
    os.mkdir("in")
    for number in range(4):
        pixels = noise.integers(0, 256, (90, 90, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(f"in/{number}.png")
    code, _, err = ovseg("predict", "in", "--labels", "dog", "--run", run, "-o", small_disk)
    assert code == 1
    assert "no space left on the disk" in sentence(err)
    for path in small_disk.rglob("*.png"):
        Image.open(path).load()
    assert not [name for name in files(small_disk) if "tmp" in name]
    assert "panoptic.json" not in files(small_disk)


def test_a_dataset_that_does_not_fit_on_the_disk_is_one_sentence(run, ovseg, small_disk) -> None:
    sizes = [f"shapes.{split}=0" for split in ("val", "pairs_easy", "pairs_crop", "pairs_window")]
    options = [part for size in ["shapes.train=20", *sizes] for part in ("--set", size)]
    code, _, err = ovseg("datasets", "make", "shapes", small_disk / "shapes", *options)
    assert code == 1
    assert "no space left" in sentence(err.splitlines()[-1])


def test_a_file_where_the_output_folder_should_be_is_code_1(run, ovseg) -> None:
    image("a.png")
    Path("out").write_text("mine")
    code, _, err = ovseg("predict", "a.png", "--labels", "dog", "--run", run, "-o", "out")
    assert code == 1
    assert "choose another folder" in sentence(err)
    assert Path("out").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "depth"], "--task depth: give panoptic, semantic, instance"),
        (["--model", "huge"], "--model huge: no such model"),
        (["--device", "tpu"], "--device tpu"),
        (["--precision", "fp8"], "--precision fp8"),
    ],
)
def test_options_that_cannot_be_used_are_one_sentence(run, ovseg, arguments, message) -> None:
    image("a.png")
    code, out, err = ovseg("predict", "a.png", "--labels", "dog", "--run", run, *arguments)
    assert (code, out) == (2, "")
    assert message in sentence(err)
    assert files() == {"a.png"}


def test_stdout_is_json_alone_in_a_process_of_its_own(run) -> None:
    image("a.png")
    command = [sys.executable, "-m", "ovseg_cli", "predict", "-", "missing.png", "--json"]
    done = subprocess.run(
        [*command, "--labels", "dog/puppy,sky", "--run", str(run), "-o", "out"],
        input="a.png\n", capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 3
    first, second = (json.loads(line) for line in done.stdout.splitlines())
    assert first["files"]["overlay"] == "out/overlays/a.png"
    assert second == {"version": 1, "source": "missing.png", "error": "missing.png: no such file"}
    assert "1 of 2 inputs failed" in sentence(done.stderr)


def test_kill_leaves_whole_files_and_code_143(run) -> None:
    image("a.png")
    command = [sys.executable, "-m", "ovseg_cli", "predict", "-", "--labels", "dog", "--json"]
    with subprocess.Popen(
        [*command, "--run", str(run), "-o", "out"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        process.stdin.write("a.png\n")
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["source"] == "a.png"
        process.terminate()
        _, err = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "Traceback" not in err
    assert files() == {"a.png", "out/categories.json", "out/overlays/a.png", "out/panoptic/a.png"}
