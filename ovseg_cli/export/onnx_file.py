"""Writing an ONNX file, and running it beside what it was made from."""

import json
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from ovseg_cli.errors import UsageError
from ovseg_cli.export.comparison import Agreement, Outputs, agreement
from ovseg_cli.export.module import WordedSegmenter
from ovseg_cli.storage import writing

INPUT = "image"
OUTPUTS = ("mask_logits", "class_probabilities")
METADATA_KEY = "ovseg"
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
MOST_BYTES = 2_000_000_000  # a protocol buffer ends at 2 GiB


def missing_packages() -> tuple[str, ...]:
    """What of the extra `export` is not installed."""
    return tuple(name for name in PACKAGES if find_spec(name) is None)


def write_onnx(
    module: WordedSegmenter,
    path: Path,
    images: Sequence[UInt8[Tensor, "3 H W"]],
    about: dict[str, Any],
    *,
    on_step: Callable[[str], None] | None = None,
) -> Agreement:
    """Writes the module as one ONNX file, which stays only if it does what the module does.

    Args:
        module: on the CPU.
        path: gets the file, whole or not at all.
        images: at least one, of the module's size; both go over them.
        about: is written into the file as JSON, the agreement with it as `check`.
        on_step: is told what is being done.

    Raises:
        UsageError: the weights are too many for one file; PyTorch cannot write a part as ONNX; the
            file does something else than the module.
        StorageError: no space left, or the folder cannot be written.
    """
    say = on_step or (lambda step: None)
    with writing(path) as temporary, torch.no_grad():
        say("writing the networks as ONNX, which takes minutes for large ones")
        ours = [module(image[None]) for image in images]
        program = _program(module, images[0])
        _check_bytes(program)
        program.save(temporary, external_data=False)
        say(f"comparing the file with the segmenter on {len(images)} images")
        found = agreement(ours, run_onnx(temporary, images))
        if found.problem is not None:
            raise UsageError(f"{path}: not written, {found.problem}")
        program.model.metadata_props[METADATA_KEY] = json.dumps({**about, "check": found.as_json()})
        program.save(temporary, external_data=False)
    return found


def run_onnx(path: Path, images: Sequence[UInt8[Tensor, "3 H W"]]) -> list[Outputs]:
    """What a file finds in images.

    Args:
        path: from `write_onnx`.
        images: of the size that it is for.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    found = (session.run(list(OUTPUTS), {INPUT: image[None].numpy()}) for image in images)
    return [(torch.from_numpy(masks), torch.from_numpy(classes)) for masks, classes in found]


def _program(module: WordedSegmenter, image: Tensor) -> Any:
    try:
        with _quiet():
            return torch.onnx.export(
                module,
                (image[None],),
                input_names=[INPUT],
                output_names=list(OUTPUTS),
                dynamo=True,
                verbose=False,
            )
    except torch.onnx.OnnxExporterError as error:
        cause = error.__cause__ or error
        lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
        names = " and ".join(type(part).__name__ for part in module.parts)
        raise UsageError(
            f"{names}: PyTorch cannot write them as ONNX ({(lines or ['no reason given'])[0]}); "
            "export another proposer or mask encoder"
        ) from error


def _check_bytes(program: Any) -> None:
    weights = program.model.graph.initializers.values()
    size = sum(weight.const_value.nbytes for weight in weights)
    if size > MOST_BYTES:
        raise UsageError(
            f"{size / 1e9:.1f} GB of weights: one ONNX file holds {MOST_BYTES / 1e9:.0f} GB; "
            "export a run directory with a smaller CLIP"
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what the exporter's libraries say of their own work."""
    loggers = [logging.getLogger(name) for name in ("onnxscript", "onnx_ir", "torch.onnx")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
