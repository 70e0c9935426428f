import io
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ovseg_cli.errors import InputError
from ovseg_cli.image_sources import image_paths, open_image


def save(path: Path, size=(4, 3), color="red", mode="RGB", **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, color).save(path, **options)
    return path


def pixel(path: Path, row: int = 0, column: int = 0) -> list[int]:
    return open_image(path)[:, row, column].tolist()


# Which images


def test_a_folder_gives_its_images_by_name(tmp_path) -> None:
    for name in ("b.png", "a.JPG", ".hidden.png", "notes.txt", "deep/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [p.name for p in image_paths(str(tmp_path))] == ["a.JPG", "b.png"]
    assert [p.name for p in image_paths(str(tmp_path), recursive=True)] == [
        "a.JPG",
        "b.png",
        "c.png",
    ]


def test_globs_lists_and_stdin_name_files(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("1.png", "2.png", "[3].png"):
        Path(name).touch()
    Path("list.txt").write_text("# two\n2.png\n\nmissing.png\n")
    assert [str(p) for p in image_paths("?.png")] == ["1.png", "2.png"]
    assert [str(p) for p in image_paths("[3].png")] == ["[3].png"]
    assert [str(p) for p in image_paths("@list.txt")] == ["2.png", "missing.png"]
    assert [str(p) for p in image_paths("-", stdin=io.StringIO("1.png\n"))] == ["1.png"]


def test_a_list_is_read_as_it_comes() -> None:
    def lines():
        yield "first.png\n"
        raise AssertionError("read too early")

    assert next(image_paths("-", stdin=lines())) == Path("first.png")


def test_an_empty_list_that_is_handed_in_is_not_stdin() -> None:
    with pytest.raises(InputError, match="stdin: the list of images is empty"):
        list(image_paths("-", stdin=[]))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("empty", "empty: no images in this folder"),
        ("*.png", r"\*.png: no file matches"),
        ("@missing.txt", "missing.txt: no such file"),
        ("@blank.txt", "blank.txt: the list of images is empty"),
        ("@binary.txt", "binary.txt: not a list of paths"),
        ("@latin.txt", "latin.txt: not a list of paths"),
    ],
)
def test_sources_without_images_are_refused(tmp_path, monkeypatch, source, message) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("blank.txt").write_text("\n# nothing\n")
    Path("binary.txt").write_bytes(b"a\0b")
    Path("latin.txt").write_bytes(b"caf\xe9.png\n")
    with pytest.raises(InputError, match=message):
        list(image_paths(source))


# How they are opened


def test_a_plain_image_is_rgb_height_first(tmp_path) -> None:
    image = open_image(save(tmp_path / "a.png", size=(4, 3), color=(10, 20, 30)))
    assert image.dtype == torch.uint8
    assert image.shape == (3, 3, 4)
    assert image.is_contiguous()
    assert image[:, 0, 0].tolist() == [10, 20, 30]


def test_exif_rotation_is_applied(tmp_path) -> None:
    picture = Image.new("RGB", (4, 2), "white")
    picture.putpixel((0, 0), (255, 0, 0))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise by a quarter: the top left goes to the top right
    picture.save(tmp_path / "a.png", exif=exif)
    image = open_image(tmp_path / "a.png")
    assert image.shape == (3, 4, 2)
    assert image[:, 0, 1].tolist() == [255, 0, 0]


def test_the_wrong_suffix_does_not_matter(tmp_path) -> None:
    save(tmp_path / "a.png", color=(1, 2, 3)).rename(tmp_path / "a.jpg")
    assert pixel(tmp_path / "a.jpg") == [1, 2, 3]


def test_palettes_are_looked_up(tmp_path) -> None:
    picture = Image.new("P", (2, 1))
    picture.putpalette([9, 8, 7, 200, 100, 50])
    picture.putpixel((1, 0), 1)
    picture.save(tmp_path / "a.png")
    assert pixel(tmp_path / "a.png", 0, 1) == [200, 100, 50]


def test_a_transparent_palette_colour_becomes_white(tmp_path) -> None:
    picture = Image.new("P", (2, 1))
    picture.putpalette([9, 8, 7, 200, 100, 50])
    picture.save(tmp_path / "a.png", transparency=0)
    assert pixel(tmp_path / "a.png") == [255, 255, 255]


@pytest.mark.parametrize(("mode", "color"), [("RGBA", (0, 0, 0, 51)), ("LA", (0, 51))])
def test_transparency_is_laid_over_white(tmp_path, mode, color) -> None:
    save(tmp_path / "a.png", mode=mode, color=color)
    assert pixel(tmp_path / "a.png") == [204, 204, 204]


def test_grey_and_black_and_white_become_rgb(tmp_path) -> None:
    assert pixel(save(tmp_path / "grey.png", mode="L", color=77)) == [77, 77, 77]
    assert pixel(save(tmp_path / "one.png", mode="1", color=1)) == [255, 255, 255]


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_sixteen_bits_are_scaled_not_clipped(tmp_path, suffix) -> None:
    values = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / f"a.{suffix}")
    assert open_image(tmp_path / f"a.{suffix}")[0, 0].tolist() == [0, 1, 128, 255]


@pytest.mark.parametrize(
    ("values", "expected"),
    [([0.0, 0.5, 1.0], [0, 128, 255]), ([0.0, 100.0, 255.0], [0, 100, 255]),
     ([-1.0, 0.0, 1.0], [0, 128, 255]), ([float("nan"), 0.0, 1.0], [0, 0, 255]),
     ([-5.0, -5.0, -5.0], [0, 0, 0])],
)  # fmt: skip
def test_float_images_are_scaled_from_their_range(tmp_path, values, expected) -> None:
    Image.fromarray(np.array([values], dtype=np.float32)).save(tmp_path / "a.tif")
    assert open_image(tmp_path / "a.tif")[0, 0].tolist() == expected


def test_cmyk_becomes_rgb(tmp_path) -> None:
    path = save(tmp_path / "a.tif", mode="CMYK", color=(0, 255, 255, 0))
    red, green, blue = pixel(path)
    assert red > 200
    assert green < 60
    assert blue < 60


def test_of_an_animation_the_first_frame_is_taken(tmp_path) -> None:
    frames = [Image.new("RGB", (2, 2), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert pixel(tmp_path / "a.gif") == [255, 0, 0]


def test_broken_metadata_turns_nothing(tmp_path) -> None:
    Image.new("RGB", (4, 2)).save(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert open_image(tmp_path / "a.jpg").shape == (3, 2, 4)


def test_pillows_own_limit_is_as_before_afterwards(tmp_path) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    open_image(save(tmp_path / "a.png"))
    assert limit == Image.MAX_IMAGE_PIXELS


# What cannot be opened


def bomb(path: Path) -> Path:
    """A PNG of 40000 x 40000 pixels in a few kilobytes; only its header is ever looked at."""
    save(path, size=(1, 1))
    content = bytearray(path.read_bytes())
    content[16:24] = (40_000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    path.write_bytes(bytes(content))
    return path


def test_huge_images_are_refused_by_their_header(tmp_path) -> None:
    with pytest.raises(InputError, match=r"40000 x 40000 pixels .* raise --max-pixels"):
        open_image(bomb(tmp_path / "a.png"))


def test_the_limit_is_an_option(tmp_path) -> None:
    path = save(tmp_path / "a.png", size=(10, 10))
    assert open_image(path, max_pixels=100).shape == (3, 10, 10)
    with pytest.raises(InputError, match="more than 99"):
        open_image(path, max_pixels=99)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "gif", "bmp", "tif"])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_images_cut_off_are_refused(tmp_path, suffix, share) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(noise).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(InputError, match=rf"a.{suffix}: (the image is damaged|not an image)"):
        open_image(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"just text\n", "not an image that can be read"),
        (b"<html>404</html>", "not an image that can be read"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image that can be read"),
        (b"\x89PNG\r\n\x1a\n", "not an image|damaged"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF", "not an image|damaged"),
    ],
)
def test_files_that_are_no_images_are_refused(tmp_path, content, message) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(content)
    with pytest.raises(InputError, match=f"a.jpg: .*({message})") as error:
        open_image(path)
    assert "\n" not in str(error.value)


def test_missing_files_folders_and_odd_names_are_refused(tmp_path) -> None:
    with pytest.raises(InputError, match="no such file"):
        open_image(tmp_path / "missing.jpg")
    with pytest.raises(InputError, match="a folder, where an image file is needed"):
        open_image(tmp_path)
    with pytest.raises(InputError, match=r"not a usable file name|no such file"):
        open_image(Path("nul\0.jpg"))
    with pytest.raises(InputError, match=r"not a usable file name|no such file"):
        open_image(tmp_path / ("x" * 5000))


@pytest.mark.parametrize(
    "start", ["https://", "http://", "s3://", "rtsp://", "file:///", "HTTPS://"]
)
def test_web_addresses_are_to_be_downloaded_first(start) -> None:
    address = f"{start}example.org/a.jpg?size=[1]"
    (path,) = image_paths(address)
    with pytest.raises(InputError, match="a web address; download it and give the file") as error:
        open_image(path)
    assert "example.org/a.jpg?size=[1]: a web" in str(error.value)
    with pytest.raises(InputError, match=r"https://example\.org/list\.txt: a web address"):
        list(image_paths("@https://example.org/list.txt"))


def test_files_that_are_named_like_addresses_can_be_opened(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "http:" / "a.png", color=(1, 2, 3))
    assert pixel(Path("http://a.png")) == [1, 2, 3]


@pytest.mark.parametrize(
    "content",
    [
        b"\x00\x00\x00\x1cftypheic\x00\x00\x00\x00mif1heic" + bytes(100),
        b"\x00\x00\x00\x1cftypavif\x00\x00\x00\x00avifmif1" + bytes(100),
        b"\x00\x00\x00\x0cJXL \r\n\x87\n" + bytes(100),
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%PDF-1.7\n" + bytes(100),
        b"8BPS\x00\x01" + bytes(100),
    ],
    ids=["HEIC", "AVIF", "JPEG XL", "SVG", "PDF", "PSD"],
)
def test_kinds_of_images_that_are_not_read_are_refused_with_those_that_are(
    tmp_path, content
) -> None:
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(InputError, match=r"not an image that can be read; give one of JPEG, PNG"):
        open_image(tmp_path / "a.jpg")


@pytest.mark.parametrize(("suffix", "kind"), [("webp", "WEBP"), ("png", "PNG"), ("tif", "TIFF")])
def test_of_every_animation_the_first_frame_is_taken(tmp_path, suffix, kind) -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    path = tmp_path / f"a.{suffix}"
    options = {"lossless": True} if kind == "WEBP" else {}
    frames[0].save(path, kind, save_all=True, append_images=frames[1:], **options)
    assert pixel(path) == [255, 0, 0]


def test_pipes_are_refused(tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(InputError, match="not a regular file"):
        open_image(tmp_path / "pipe.jpg")
