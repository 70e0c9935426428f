"""What a recipe and a command line say of mining."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import NonNegativeFloat, PositiveInt

from ovseg_cli.datasets.caption_records import CaptionSource, coco_captions, splits_with_captions
from ovseg_cli.errors import UsageError
from ovseg_cli.mining.nouns import NounOptions
from ovseg_cli.mining.pairing import Cosine, PairingOptions
from ovseg_cli.mining.taggers import TaggerChoice
from ovseg_cli.recipe import Recipe

CROPS = {"name": "masked_crops", "region": "box", "fill": "mean"}
OF_TUNING = ("tuned", "prompts")
DECIDING_NOTHING = ("export_tsv", "precision", "workers", "worker_gpus")
COCO_TRAIN = "train2017"


@dataclass(frozen=True)
class MineCaptionsOptions:
    """The recipe's section `mine_captions`; the defaults are OVSeg's where these are known.

    Attributes:
        captions: how many captions of an image to read, or `all`; OVSeg compares 1 and 5.
        floor: the least cosine of noun and masked crop; None for no floor.
        pairs_per_noun: masks that a noun of an image gets, the best first.
        compounds: whether nouns side by side are one.
        fold_plurals: whether nouns are put into the singular.
        stop_words: nouns to leave out beside those of `mining/words.py`.
        tagger: `perceptron` (NLTK's), `rules`, or `auto`: the perceptron where its data are.
        batch_size: masked crops at a time.
        shard_images: captioned images of a shard; a killed run loses what it has of one.
        export_tsv: whether to write crops and a list for OVSeg's own trainer, too.
        precision: whether to compare the pairs with the split's annotated masks afterwards, where
            these are in the recipe's `dataset.annotations` form; reads all of them into memory.
        workers: of `--engine ray`, one core each; None for as many as the cluster has room for.
        worker_gpus: GPUs of a worker, such as 0.5 for two on each; None for one where the command
            itself is told to use a GPU.
    """

    captions: PositiveInt | Literal["all"] = 1
    floor: Cosine | None = None
    pairs_per_noun: PositiveInt = 1
    compounds: bool = True
    fold_plurals: bool = False
    stop_words: tuple[str, ...] = ()
    tagger: TaggerChoice = "auto"
    batch_size: PositiveInt = 32
    shard_images: PositiveInt = 200
    export_tsv: bool = False
    precision: bool = False
    workers: PositiveInt | None = None
    worker_gpus: NonNegativeFloat | None = None

    @property
    def nouns(self) -> NounOptions:
        """What counts as one noun."""
        return NounOptions(self.compounds, self.fold_plurals, self.stop_words)

    @property
    def pairing(self) -> PairingOptions:
        """Which masks a noun gets."""
        return PairingOptions(self.floor, self.pairs_per_noun)

    def deciding(self) -> dict[str, Any]:
        """The options that decide the pairs, for a fingerprint."""
        return {key: value for key, value in self.__dict__.items() if key not in DECIDING_NOTHING}


def mining_recipe(recipe: Recipe, options: MineCaptionsOptions) -> Recipe:
    """The recipe with masked crops of the CLIP that is not tuned yet, and no other classifier.

    Args:
        recipe: whose `mask_encoder` says how to crop, if it crops.
        options: of mining.
    """
    section = recipe.section("mask_encoder")
    crops = section if section.get("name") == CROPS["name"] else CROPS
    crops = {key: value for key, value in crops.items() if key not in OF_TUNING}
    encoder = {**crops, "batch_size": options.batch_size}
    artifacts = {key: v for key, v in recipe.section("artifacts").items() if key != "tuned"}
    others = {
        "in_vocabulary": {},
        "classification": {},
        "mask_encoder": encoder,
        "artifacts": artifacts,
    }
    return replace(recipe, sections={**recipe.sections, **others})


def caption_source(
    root: Path, *, split: str | None, captions: Path | None, wanted: str
) -> CaptionSource:
    """The captioned images that a command names.

    Args:
        root: a dataset in COCO's layout, or with `captions` a folder of images.
        split: whose captions.
        captions: a file of captions.
        wanted: the split to take if it has captions and no other is named.

    Raises:
        UsageError: nothing says which of several splits, or a split is named beside a file.
        InputError: a folder or file is missing.
    """
    if not root.is_dir():
        raise UsageError(f"{root}: no such folder; give a dataset in COCO's layout or your images")
    if captions is not None:
        if split is not None:
            raise UsageError(f"--split {split}: --captions names the captions already; give one")
        return CaptionSource(root, captions)
    there = splits_with_captions(root)
    choices = [name for name in (wanted, COCO_TRAIN) if name in there]
    if split is None and not choices and len(there) > 1:
        raise UsageError(f"{root}: has captions of {', '.join(there)}; choose one with --split")
    if split is None and not there:
        raise UsageError(
            f"{root}: no annotations/captions_*.json there; for a folder of images name a list of "
            "captions with --captions FILE"
        )
    return coco_captions(root, split or (choices or list(there))[0])
