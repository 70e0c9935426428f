"""`export`: a run directory's segmenter and some words as one ONNX file."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image
from torch import Tensor

from ovseg_cli.errors import RunError, UsageError
from ovseg_cli.export import Agreement, WordedSegmenter, missing_packages, write_onnx
from ovseg_cli.image_sources import open_image
from ovseg_cli.run import Run
from ovseg_cli.segmenter import Segmenter
from ovseg_cli.vocabulary.labels import parse_labels

from .demo import SAMPLES
from .import_model import ORIGIN
from .model_choice import DEFAULT_RUN, choose_model
from .pull_model import Consent, nobody

VERSION = 1
CHECKED_IMAGES = 2


@dataclass(frozen=True)
class Exported:
    """The file, its size in megabytes, what it says of itself, and how it was checked."""

    file: Path
    megabytes: float
    about: dict[str, Any]
    agreement: Agreement


def export(
    file: Path,
    labels: str,
    *,
    run: Path = DEFAULT_RUN,
    model: str | None = None,
    size: tuple[int, int] | None = None,
    images: Sequence[Path] = (),
    overwrite: bool = False,
    consent: Consent = nobody,
    on_notice: Callable[[str], None] | None = None,
) -> Exported:
    """Writes one ONNX file that needs neither this package nor PyTorch.

    Args:
        file: new, its name ends in .onnx.
        labels: the words that are baked in, see `parse_labels`.
        run: the run directory.
        model: see `choose_model`.
        size: height and width in pixels of the images that the file takes; None for squares of the
            recipe's short side, or of CLIP's own size where it has none.
        images: on which the file is compared with the segmenter; those in the box if none.
        overwrite: replace a file that is there.
        consent: is asked before a model is downloaded.
        on_notice: is told what a user should know, and what is being done.

    Raises:
        UsageError: a package is missing; the file is there; a size or a part that cannot be; the
            file does something else than the segmenter.
        OvsegError: another of its kinds, for what else the user can mend.
    """
    _check_file(file, overwrite=overwrite)
    vocabulary = parse_labels(labels)
    choice = choose_model(model, run, consent=consent)
    if choice.notice and on_notice:
        on_notice(choice.notice)
    segmenter = Segmenter.from_run(choice.run, device=torch.device("cpu"))
    size = size or _usual_size(segmenter)
    module = WordedSegmenter(segmenter, vocabulary, size)
    checked = images or sorted(SAMPLES.glob("*.png"))[:CHECKED_IMAGES]
    about = _about(choice.run, segmenter, module)
    pixels = [resized(open_image(path), size) for path in checked]
    found = write_onnx(module, file, pixels, about, on_step=on_notice)
    return Exported(file, file.stat().st_size / 1e6, about, found)


def resized(image: UInt8[Tensor, "3 H W"], size: tuple[int, int]) -> UInt8[Tensor, "3 h w"]:
    """The image by Pillow's bilinear filter, as the segmenter resizes images.

    Args:
        image: RGB.
        size: height and width in pixels.
    """
    picture = Image.fromarray(np.ascontiguousarray(image.permute(1, 2, 0).numpy()))
    pixels = picture.resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1).contiguous()


def _check_file(file: Path, *, overwrite: bool) -> None:
    if missing := missing_packages():
        raise UsageError(
            f'{", ".join(missing)} not installed; to write ONNX: pip install "ovseg[export]"'
        )
    if file.suffix != ".onnx":
        raise UsageError(f"{file}: the file's name must end in .onnx")
    if file.exists() and not overwrite:
        raise UsageError(f"{file}: exists; give another name, or --overwrite to replace it")


def _usual_size(segmenter: Segmenter) -> tuple[int, int]:
    framing = segmenter.framing
    side = framing.short_side or segmenter.clip.resolution
    side = max(1, round(side / framing.size_divisor)) * framing.size_divisor
    return side, side


def _about(run: Run, segmenter: Segmenter, module: WordedSegmenter) -> dict[str, Any]:
    """What whoever runs the file has to know."""
    return {
        "version": VERSION,
        "names": list(module.vocabulary.names),
        "is_thing": list(module.vocabulary.is_thing),
        "size": list(module.size),
        "input": "RGB, uint8, (1, 3, height, width), the whole image resized to size",
        "mask_logits": "(N, h, w) over the whole image, above 0 inside",
        "align_corners": segmenter.framing.align_corners,
        "class_probabilities": "(N, K), object score included where the system has one",
        "inference": asdict(segmenter.inference),
        "origin": _origin(run.path / ORIGIN),
    }


def _origin(file: Path) -> Any:
    """Where imported weights came from and their licence; None where nothing was imported."""
    if not file.is_file():
        return None
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise RunError(f"{file}: damaged ({error}); import the weights again") from error
