"""The page of a prediction, from the records of its images as they come."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ovseg_cli.report.page import circumstances
from ovseg_cli.report.pictures import picture_of
from ovseg_cli.report.prediction import Drawing, PredictionReport, prediction_page
from ovseg_cli.run import versions
from ovseg_cli.storage import write_text

FILE = "report.html"
MOST_DRAWINGS = 48
MOST_FAILURES = 100
LONGEST_SIDE = 480
MOST_BYTES = 36_000  # of a drawing: 48 of them are 2.3 MB of text


class PredictionPage:
    """Counts what is found, and keeps the first drawings small; the rest is in the other files."""

    def __init__(self, folder: Path, words: Sequence[str]) -> None:
        """Starts empty.

        Args:
            folder: of the results.
            words: the vocabulary.
        """
        self._folder, self._words = folder, words
        self._found: Counter[str] = Counter()
        self._images = self._failed = 0
        self._drawings: list[Drawing] = []
        self._failures: list[tuple[str, str]] = []

    def add(self, record: Mapping[str, Any]) -> None:
        """Counts an image or a failure.

        Args:
            record: see `predict`; the files that it names are there.
        """
        if "error" in record:
            self._failed += 1
            if self._failed <= MOST_FAILURES:
                self._failures.append((_name(record), record["error"]))
            return
        self._images += 1
        found = Counter(segment["label"] for segment in record["segments"])
        self._found.update(found)
        drawing = record["files"].get("overlay")
        if drawing is not None and len(self._drawings) < MOST_DRAWINGS:
            self._drawings.append(self._drawn(record, found, Path(drawing)))

    def write(self, facts: Mapping[str, str]) -> None:
        """Writes report.html where an image was segmented.

        Args:
            facts: how the result was made, beside command, time and versions.

        Raises:
            StorageError: no space left, or the folder cannot be written.
        """
        if not self._images:
            return
        packages = ", ".join(f"{name} {version}" for name, version in versions().items())
        report = PredictionReport(
            images=self._images,
            words=self._words,
            found=self._found,
            drawings=self._drawings,
            failures=self._failures,
            failed=self._failed,
            circumstances={**circumstances(), **facts, "versions": packages},
        )
        write_text(self._folder / FILE, prediction_page(report))

    def _drawn(self, record: Mapping[str, Any], found: Counter[str], file: Path) -> Drawing:
        with Image.open(file) as drawing:
            small = picture_of(drawing, longest_side=LONGEST_SIDE, most_bytes=MOST_BYTES)
        return Drawing(
            name=_name({**record, "source": Path(record["source"]).name}),
            found=dict(found.most_common()),
            picture=small,
            file=file.relative_to(self._folder).as_posix(),
        )


def _name(record: Mapping[str, Any]) -> str:
    frame = record.get("frame")
    return record["source"] if frame is None else f"{record['source']}, frame {frame}"
