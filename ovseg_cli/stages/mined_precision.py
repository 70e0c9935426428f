"""Mined pairs beside the annotated masks of the same images: how often a noun's mask is right."""

from collections.abc import Callable, Container
from itertools import groupby
from pathlib import Path

import torch

from ovseg_cli.datasets.caption_records import CaptionSource
from ovseg_cli.datasets.coco import CocoDataset
from ovseg_cli.datasets.mined_pairs import MinedPairs
from ovseg_cli.errors import RecipeError
from ovseg_cli.metrics.mining_precision import MiningPrecision
from ovseg_cli.progress import progress
from ovseg_cli.stages.session import Settings, dataset_options
from ovseg_cli.vocabulary.singular import singular


def check_annotated(settings: Settings, root: Path, source: CaptionSource) -> None:
    """Makes sure that captioned images have annotated masks to compare with.

    Args:
        settings: whose recipe says of which kind the annotations are.
        root: the dataset's folder.
        source: the captioned images.

    Raises:
        RecipeError: there is no such annotation file.
    """
    kind = dataset_options(settings).annotations
    path = root / "annotations" / f"{kind}_{source.split}.json"
    if not source.split or not path.is_file():
        raise RecipeError(
            "[mine_captions] precision: there are no annotated masks to compare with "
            f"({path}); set it to false"
        )


def precision_of(
    pairs: MinedPairs, dataset: CocoDataset, *, check: Callable[[], None] = lambda: None
) -> dict[str, int | float]:
    """What `MiningPrecision` says of all pairs, those of an image at a time.

    Args:
        pairs: finished.
        dataset: the annotated masks; an image that it does not have counts as not annotated.
        check: called before each image; may raise to stop.

    Raises:
        InputError: a pair, an image or its annotations cannot be read.
    """
    index_of = {record.image_id: index for index, record in enumerate(dataset.records)}
    metric = MiningPrecision.of(dataset.vocabulary)
    shown = progress(pairs, title="precision", unit="pair", total=len(pairs))
    for image_id, group in groupby(shown, key=lambda pair: pair.image_id):
        check()
        of_image = list(group)
        nouns = [_known(pair.noun, metric.class_of) for pair in of_image]
        masks = torch.stack([pair.mask() for pair in of_image])
        index = index_of.get(image_id)
        metric.update(nouns, masks, None if index is None else dataset[index])
    return metric.compute()


def _known(noun: str, words: Container[str]) -> str:
    """The noun as the vocabulary has it: as it stands, or else in the singular."""
    return noun if noun in words else singular(noun)
