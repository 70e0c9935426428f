import os
import struct
import sys
import tracemalloc
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ovseg_cli.errors import InputError
from ovseg_cli.rendering.film import film
from ovseg_cli.video_frames import video_frames, video_kind

av = pytest.importorskip("av", reason='videos need PyAV: pip install "ovseg[video]"')
LIMIT = 1_000_000


def scene(number: int) -> np.ndarray:
    """Noise that an encoder cannot shrink, and a red block in the upper left corner."""
    pixels = np.random.default_rng(number).integers(0, 120, (48, 64, 3), dtype=np.uint8)
    pixels[:24, :32] = (250, 0, 0)
    return pixels


def save(path: Path, codec: str = "mpeg4", count: int = 50, **options: str) -> Path:
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt, stream.gop_size = 64, 48, "yuv420p", 10
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(scene(number), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def shorten(path: Path, share: float = 0.6) -> Path:
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    return path


KINDS = {
    "a.mp4": ("mpeg4", {}),
    "faststart.mp4": ("libx264", {"movflags": "faststart"}),
    "a.mov": ("mpeg4", {}),
    "a.mkv": ("mpeg4", {}),
    "a.webm": ("libvpx", {}),
    "a.avi": ("mpeg4", {}),
    "a.flv": ("flv", {}),
    "a.wmv": ("wmv2", {}),
    "a.mpg": ("mpeg2video", {}),
    "a.ts": ("mpeg4", {}),
}


@pytest.mark.parametrize("name", KINDS)
def test_all_frames_come_in_order_whatever_the_file_is_called(tmp_path, name) -> None:
    codec, options = KINDS[name]
    path = save(tmp_path / name, codec, **options).rename(tmp_path / "video.jpg")
    assert video_kind(path)
    frames = list(video_frames(path, max_pixels=LIMIT))
    assert [frame.index for frame in frames] == list(range(50))
    assert {frame.rate for frame in frames} == {Fraction(25)}
    assert np.diff([frame.seconds for frame in frames]).min() > 0
    assert frames[25].seconds == pytest.approx(1, abs=0.1)
    red, green, _ = frames[7].image[:, :20, :28].float().mean((1, 2)).tolist()
    assert red > 200
    assert green < 40


def test_each_so_many_frames_are_taken(tmp_path) -> None:
    path = save(tmp_path / "a.mp4", count=20)
    frames = list(video_frames(path, every=6, max_pixels=LIMIT))
    assert [frame.index for frame in frames] == [0, 6, 12, 18]
    assert [round(frame.seconds, 2) for frame in frames] == [0, 0.24, 0.48, 0.72]


def test_memory_does_not_grow_with_the_frames(tmp_path) -> None:
    path = save(tmp_path / "a.mp4", count=200)
    tracemalloc.start()
    for _ in video_frames(path, max_pixels=LIMIT):
        pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20 * 64 * 48 * 3


def turned(path: Path, a: int, b: int, c: int, d: int) -> None:
    """Writes the matrix of a telephone that was turned into the file's track header."""

    def matrix(a: int, b: int, c: int, d: int) -> bytes:
        return struct.pack(">9i", a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)

    content = path.read_bytes()
    place = content.index(matrix(1, 0, 0, 1), content.index(b"tkhd"))
    path.write_bytes(content[:place] + matrix(a, b, c, d) + content[place + 36 :])


@pytest.mark.parametrize(
    ("matrix", "corner"),
    [
        ((0, 1, -1, 0), "upper right"),
        ((-1, 0, 0, -1), "lower right"),
        ((0, -1, 1, 0), "lower left"),
    ],
)
def test_videos_of_turned_telephones_are_upright(tmp_path, matrix, corner) -> None:
    path = save(tmp_path / "a.mp4", count=2)
    turned(path, *matrix)
    image = next(video_frames(path, max_pixels=LIMIT)).image[0].float()
    top, bottom = image.chunk(2)
    corners = {}
    for name, half in (("upper", top), ("lower", bottom)):
        left, right = half.chunk(2, dim=1)
        corners |= {f"{name} left": left.mean(), f"{name} right": right.mean()}
    assert max(corners, key=corners.get) == corner


@pytest.mark.parametrize("name", [name for name in KINDS if name != "a.ts"])
def test_a_video_cut_off_gives_the_frames_before_and_then_says_so(tmp_path, name) -> None:
    codec, options = KINDS[name]
    path = shorten(save(tmp_path / name, codec, **options))
    count = 0
    with pytest.raises(InputError, match=rf"{name}: the video is damaged or cut off") as error:
        for count, _ in enumerate(video_frames(path, max_pixels=LIMIT), start=1):  # noqa: B007
            pass
    index_at_the_end = name in ("a.mp4", "a.mov")
    assert count == 0 if index_at_the_end else 5 < count < 50
    assert (f"after {count} frames" in str(error.value)) == (count > 0)


def test_a_damaged_place_ends_the_video(tmp_path) -> None:
    path = save(tmp_path / "a.avi")
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 300] = bytes(300)
    path.write_bytes(bytes(content))
    with pytest.raises(InputError, match=r"damaged or cut off after \d+ frames"):
        list(video_frames(path, max_pixels=LIMIT))


def test_large_frames_are_refused_before_they_are_decoded(tmp_path) -> None:
    path = save(tmp_path / "a.mp4", count=2)
    with pytest.raises(InputError, match="frames of 64 x 48 pixels are more than 3,071"):
        list(video_frames(path, max_pixels=3071))


def test_sound_alone_is_no_video(tmp_path) -> None:
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(InputError, match=r"a.mp4: no video in this file"):
        list(video_frames(tmp_path / "a.mp4", max_pixels=LIMIT))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1/secret\n",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
        b"\x00\x00\x00\x20ftypavif" + bytes(200),
        b"\x00\x00\x00\x20ftypheic" + bytes(200),
        b"\x89PNG\r\n\x1a\n" + bytes(200),
        b"GIF89a" + bytes(200),
    ],
)
def test_playlists_and_pictures_are_no_videos(tmp_path, content) -> None:
    (tmp_path / "a.mp4").write_bytes(content)
    assert video_kind(tmp_path / "a.mp4") is None


def test_what_cannot_be_opened_is_no_video(tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, tmp_path / "missing", Path("nul\0")):
        assert video_kind(path) is None


def test_without_pyav_the_extra_is_named(tmp_path, monkeypatch) -> None:
    path = save(tmp_path / "a.mp4", count=2)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(InputError, match=r'a.mp4: a video; to read it: pip install "ovseg\[video'):
        list(video_frames(path, max_pixels=LIMIT))


@pytest.mark.parametrize("missing", ["nothing", "libx264"])
def test_drawings_become_a_video_of_the_first_ones_size(tmp_path, monkeypatch, missing) -> None:
    monkeypatch.setattr(av, "codecs_available", av.codecs_available - {missing})
    path = tmp_path / "deep" / "a.mp4"
    with film(path, Fraction(10)) as drawings:
        for size in ((63, 49), (63, 49), (80, 20)):
            drawings.add(Image.new("RGB", size, (0, 0, 250)))
    frames = list(video_frames(path, max_pixels=LIMIT))
    assert [frame.image.shape for frame in frames] == [(3, 48, 62)] * 3
    assert frames[2].seconds == pytest.approx(0.2)
    assert frames[2].image[2].float().mean() > 230


def test_a_film_that_is_broken_off_leaves_nothing(tmp_path) -> None:
    def fail() -> None:
        with film(tmp_path / "a.mp4", Fraction(10)) as made:
            made.add(Image.new("RGB", (8, 8)))
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert os.listdir(tmp_path) == []
