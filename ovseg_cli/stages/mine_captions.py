"""`ovseg mine-captions`: mask-noun pairs out of captioned images, for tuning CLIP.

OVSeg (Liang et al., CVPR 2023), section 3.2; its code for this was not released. Three passes, each
of which goes on where it was killed: the nouns of all captions, their embeddings, and for each
image its proposals and the ones that its nouns like best. The last can be done by many machines.
"""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ovseg_cli.checkpoints.run_parts import artifacts_of
from ovseg_cli.datasets.caption_records import CaptionSource
from ovseg_cli.datasets.mined_pairs import MinedPairs
from ovseg_cli.errors import InputError
from ovseg_cli.mining.batches import (
    all_figures,
    count_nouns,
    find_nouns,
    nouns_of_batch,
)
from ovseg_cli.mining.figures import noun_lines
from ovseg_cli.mining.noun_embeddings import NounEmbeddings
from ovseg_cli.mining.nouns import Tagger
from ovseg_cli.mining.openclip_export import export_pairs
from ovseg_cli.mining.pairing import Pairing
from ovseg_cli.mining.shards import PairFiles
from ovseg_cli.mining.taggers import FALLBACK_NOTICE, chosen_tagger
from ovseg_cli.recipe import build
from ovseg_cli.run import file_hash, fingerprint_of
from ovseg_cli.stages.mined_precision import check_annotated, precision_of
from ovseg_cli.stages.mining_engines import check_engine, miner_of, segmenter_on
from ovseg_cli.stages.mining_options import (
    MineCaptionsOptions,
    caption_source,
    mining_recipe,
)
from ovseg_cli.stages.session import (
    Outcome,
    Settings,
    artifact_hashes,
    dataset_of,
    dataset_root,
    run_stage,
    train_split,
)
from ovseg_cli.storage import write_json
from ovseg_cli.training.signals import Interrupted, StopRequest, stop_requests
from ovseg_cli.vocabulary.templates import TEMPLATES
from ovseg_cli.writers import json_lines

STAGE = "mine-captions"
SECTION = "mine_captions"
SECTIONS = ("clip", "proposer", "mask_encoder", "framing", "vocabulary", "artifacts")


@dataclass(frozen=True)
class Mining:
    """What is mined, from what, and how.

    Attributes:
        settings: the recipe is that of `mining_recipe`.
        options: of mining.
        source: the captioned images.
        root: the dataset's folder.
        tagger: reads captions.
        inputs: what decides the pairs beside the recipe, with hashes.
        files: get the pairs.
        engine: who mines the pairs, this process or a Ray cluster; the pairs are the same.
    """

    settings: Settings
    options: MineCaptionsOptions
    source: CaptionSource
    root: Path
    tagger: Tagger
    inputs: dict[str, str]
    files: PairFiles
    engine: str

    @property
    def fingerprint(self) -> str:
        """Of all that decides the pairs."""
        recipe = self.settings.recipe
        sections = [recipe.section(name) for name in SECTIONS]
        deciding = self.options.deciding()
        return fingerprint_of(sections, deciding, self.inputs, self.settings.precision, recipe.seed)


def mine_captions(
    settings: Settings,
    *,
    folder: Path | None = None,
    split: str | None = None,
    captions: Path | None = None,
    engine: str = "single",
    on_notice: Callable[[str], None] = lambda text: None,
) -> Outcome:
    """Mines the pairs of captioned images into the run directory's `pairs/`.

    Args:
        settings: run directory, recipe, device, precision.
        folder: a dataset in COCO's layout, or with `captions` a folder of images; None for the
            recipe's dataset.
        split: whose captions; None for the recipe's, train2017, or the only one there is.
        captions: a file of captions, see `datasets.caption_records`.
        engine: `single`, this process, or `ray`, see `mining.ray_engine`.
        on_notice: is told what a user should know.

    Raises:
        RecipeError: an option that cannot be used.
        UsageError: the dataset has captions of several splits and none is named; Ray is asked for
            and cannot be used.
        RunError: the run directory lacks proposals or a CLIP.
        InputError: captions that are missing or damaged.
        Interrupted: SIGINT or SIGTERM came; what was finished is kept.
    """
    options = build(SECTION, settings.recipe.section(SECTION), MineCaptionsOptions)
    check_engine(engine)
    root = folder or dataset_root(settings)
    source = caption_source(root, split=split, captions=captions, wanted=train_split(settings))
    if options.precision:
        check_annotated(settings, root, source)
    tagger = chosen_tagger(options.tagger)
    if options.tagger == "auto" and tagger.name == "rules":
        on_notice(FALLBACK_NOTICE)
    own = replace(settings, recipe=mining_recipe(settings.recipe, options))
    files = PairFiles(settings.run.path.resolve() / "pairs")
    inputs = _inputs(own, source, tagger)
    mining = Mining(own, options, source, root, tagger, inputs, files, engine)

    def work(_: str) -> dict[str, Any]:
        files.begin(mining.fingerprint, restart=settings.restart)
        return _mined(mining)

    again = settings.restart or not files.statistics.is_file()
    return run_stage(
        replace(settings, restart=again),
        STAGE,
        work,
        artifact=None,
        sections=(*SECTIONS, SECTION),
        inputs={**mining.inputs, "pairs": mining.fingerprint},
    )


def _inputs(settings: Settings, source: CaptionSource, tagger: Tagger) -> dict[str, str]:
    artifacts = artifacts_of(settings.run, settings.recipe)
    hashes = artifact_hashes(settings, *artifacts)
    if source.file.is_file():
        hashes[f"captions/{source.file.name}"] = file_hash(source.file)
    return {**hashes, "images": str(source.images.resolve()), "tagger": tagger.name}


def _mined(mining: Mining) -> dict[str, Any]:
    start = time.monotonic()
    with stop_requests() as request:
        check = partial(_stop, request)
        if not mining.files.statistics.is_file():
            _mine(mining, check)
        results = _summary(mining.files)
        if mining.options.precision:
            results["precision"] = _precision(mining, check)
        if mining.options.export_tsv:
            pairs = MinedPairs(mining.files.folder)
            results["exported"] = str(export_pairs(pairs, mining.files.export, check=check))
    return {**results, "seconds": round(time.monotonic() - start, 1)}


def _mine(mining: Mining, check: Callable[[], None]) -> None:
    """The three passes, and what they counted."""
    files, options, settings = mining.files, mining.options, mining.settings
    segmenter = segmenter_on(settings, settings.device)
    read = partial(
        nouns_of_batch, tagger=mining.tagger, options=options.nouns, captions=options.captions
    )
    start = time.monotonic()
    find_nouns(mining.source, files, read, batch_images=options.shard_images, check=check)
    nouns = count_nouns(files)
    if not nouns:
        raise InputError(f"{mining.source.file}: no noun in any caption; are they in English?")
    read_at = time.monotonic()
    embeddings = NounEmbeddings(files.work, nouns)
    templates = TEMPLATES[segmenter.vocabulary_options.templates]
    embeddings.make(segmenter.clip.encode_text, templates=templates, on_chunk=check)
    spent = {"captions": read_at - start, "embeddings": time.monotonic() - read_at}
    pairing = Pairing(segmenter, embeddings, options.pairing, mining.source.images)
    mine = miner_of(mining.engine, settings, options, pairing, files)
    del segmenter, pairing  # whoever mines keeps what it needs
    mine(check)
    figures = all_figures(files)
    figures.spend(spent)
    with json_lines(files.noun_counts) as lines:
        for line in noun_lines(nouns, figures.paired):
            lines.add(line)
    write_json(files.manifest, _manifest(mining))
    write_json(files.statistics, figures.statistics(nouns))


def _manifest(mining: Mining) -> dict[str, Any]:
    source = mining.source
    return {
        "version": 1,
        "dataset": str(mining.root.resolve()),
        "split": source.split or None,
        "images": str(source.images.resolve()),
        "captions": str(source.file.resolve()),
        "inputs": mining.inputs,
        "tagger": mining.tagger.name.partition(" ")[0],
        "options": mining.options.deciding(),
        "recipe": {name: mining.settings.recipe.section(name) for name in SECTIONS},
        "seed": mining.settings.recipe.seed,
        "fingerprint": mining.fingerprint,
    }


def _summary(files: PairFiles) -> dict[str, Any]:
    """The figures of the statistics that fit on a screen."""
    found = json.loads(files.statistics.read_text(encoding="utf-8"))
    figures = {key: value for key, value in found.items() if isinstance(value, int)}
    return {**figures, "seconds_by_part": found["seconds"]}


def _precision(mining: Mining, check: Callable[[], None]) -> dict[str, int | float]:
    """How often the nouns' masks are right, added to the statistics."""
    dataset = dataset_of(mining.settings, mining.source.split, root=mining.root)
    found = precision_of(MinedPairs(mining.files.folder), dataset, check=check)
    statistics = json.loads(mining.files.statistics.read_text(encoding="utf-8"))
    write_json(mining.files.statistics, {**statistics, "precision": found})
    return found


def _stop(request: StopRequest) -> None:
    if request.signal_number:
        raise Interrupted(
            request.signal_number,
            "mine-captions stopped; finished shards are kept, and the same command goes on",
        )
