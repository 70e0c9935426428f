"""The page of a prediction, from its records."""

from pathlib import Path

import torch
from PIL import Image
from report_page import ReportPage
from untrained_run import untrained_run

from ovseg_cli.stages.predict import PredictOptions, predict, predict_command
from ovseg_cli.stages.prediction_report import MOST_DRAWINGS, PredictionPage
from ovseg_cli.structures import Segment, Segmentation
from ovseg_cli.vocabulary import parse_labels

WORDS = parse_labels("dog,sky,unicorn")


def halves(image: torch.Tensor, name: str) -> Segmentation:
    """The left half is a dog, the right half is sky: a segmenter without a model."""
    _, height, width = image.shape
    numbers = torch.ones(height, width, dtype=torch.int32)
    numbers[:, width // 2 :] = 2
    segments = (Segment(1, 0, True, 0.9, 12), Segment(2, 1, False, 0.8, 12))
    return Segmentation(panoptic=numbers, segments=segments)


def images_in(folder: Path, names: list[str]) -> list[str]:
    folder.mkdir(parents=True)
    for name in names:
        Image.new("RGB", (6, 4), "grey").save(folder / name)
    return [str(folder / name) for name in names]


def page_of(folder: Path, sources: list[str], *, overlays: bool = True) -> ReportPage | None:
    page = PredictionPage(folder, WORDS.names)
    predict(
        sources, WORDS, halves, folder, options=PredictOptions(overlays=overlays),
        on_record=page.add,
    )  # fmt: skip
    page.write({"model": "none"})
    path = folder / "report.html"
    return ReportPage(path.read_text(encoding="utf-8")) if path.exists() else None


def test_images_words_and_failures_are_shown(tmp_path: Path) -> None:
    sources = images_in(tmp_path / "in", ["a.png", "<b>&.png"])
    page = page_of(tmp_path / "out", [*sources, str(tmp_path / "gone.png")])
    assert page is not None
    assert "2 images, 3 words, 1 input failed" in page.text()
    assert page.links == ["./overlays/a.png", "./overlays/%3Cb%3E%26.png"]
    assert all((tmp_path / "out" / name).is_file() for name in ("overlays/a.png", "panoptic.json"))
    assert "<b>&.png · dog, sky" in page.text()
    assert ["dog", "2", "50.0"] in page.rows
    assert "1 word without a find" in page.text()
    assert [row[0] for row in page.rows if "no such" in row[-1]] == [str(tmp_path / "gone.png")]


def test_there_is_no_page_where_nothing_was_segmented(tmp_path: Path) -> None:
    assert page_of(tmp_path / "out", [str(tmp_path / "gone.png")]) is None


def test_without_overlays_there_are_words_and_no_pictures(tmp_path: Path) -> None:
    sources = images_in(tmp_path / "in", ["a.png"])
    page = page_of(tmp_path / "out", sources, overlays=False)
    assert page is not None
    assert not page.pictures
    assert ["sky", "1", "50.0"] in page.rows


def test_of_many_images_the_first_are_drawn(tmp_path: Path) -> None:
    """The same records again, as if of other images."""
    (source,) = images_in(tmp_path / "in", ["a.png"])
    page = PredictionPage(tmp_path / "out", WORDS.names)
    records: list[dict] = []
    predict([source], WORDS, halves, tmp_path / "out", on_record=records.append)
    for frame in range(MOST_DRAWINGS + 5):
        page.add({**records[0], "frame": frame})
    page.write({})
    path = tmp_path / "out" / "report.html"
    read = ReportPage(path.read_text(encoding="utf-8"))
    assert len(read.pictures) == MOST_DRAWINGS
    assert "And 5 images more, in the folder overlays." in read.text()
    assert "a.png, frame 47 · dog, sky" in read.text()
    assert path.stat().st_size < 3_000_000


def test_predict_writes_its_page_unless_told_not_to(tmp_path: Path) -> None:
    run = untrained_run(tmp_path / "run")
    (source,) = images_in(tmp_path / "in", ["a.png"])
    for report in (True, False):
        predict_command([source], "dog,sky", run=run, report=report)
        path = run / "predictions" / "report.html"
        assert path.exists() == report
        if report:
            assert str(run) in ReportPage(path.read_text(encoding="utf-8")).text()
