"""What an evaluation scores: the segmenter of a run directory, and what the result is called."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ovseg_cli.checkpoints.proposer_parts import ArtifactOptions
from ovseg_cli.checkpoints.run_parts import artifacts_of
from ovseg_cli.errors import RecipeError
from ovseg_cli.recipe import build
from ovseg_cli.run import file_hash
from ovseg_cli.segmenter import Segmenter
from ovseg_cli.stages.evaluate_options import EvaluateOptions
from ovseg_cli.stages.given_masks import GivenMasks, given_masks
from ovseg_cli.stages.oracle_classes import OracleClasses
from ovseg_cli.stages.scoring import refines
from ovseg_cli.stages.session import Settings
from ovseg_cli.structures import Vocabulary
from ovseg_cli.vocabulary.labels import parse_labels
from ovseg_cli.vocabulary.seen_classes import with_seen
from ovseg_cli.vocabulary.text_embeddings import text_cache_folder


@dataclass(frozen=True)
class ScoredSegmenter:
    """A segmenter, and what it was built from.

    Attributes:
        segmenter: with another run directory's masks where these are asked for.
        name: of the results' folder, see `default_name`.
        inputs: hashes by artifact.
    """

    segmenter: Segmenter
    name: str
    inputs: dict[str, str]

    def vocabulary(self, classes: Vocabulary) -> Vocabulary:
        """Classes in the recipe's words, and whether each is seen in training where that is known.

        Args:
            classes: the dataset's.

        Raises:
            RecipeError: the recipe has more or fewer labels than there are classes.
            VocabularyError: its labels cannot be used.
        """
        named = scored_vocabulary(classes, self.segmenter.vocabulary_options.labels)
        training = self.segmenter.training_vocabulary
        return named if training is None else with_seen(named, training)


def scored_segmenter(settings: Settings, options: EvaluateOptions) -> ScoredSegmenter:
    """The segmenter that an evaluation asks for.

    Args:
        settings: run directory, recipe, device, precision.
        options: whose masks, and who names them.

    Raises:
        RunError: the run directory lacks an artifact.
        RecipeError: an option that cannot be used.
    """
    given = _given(settings, options)
    own_masks = given is None and not options.oracle_masks
    segmenter = _segmenter(settings, given, with_proposer=own_masks)
    artifacts = artifacts_of(settings.run, settings.recipe, proposer=own_masks)
    masks = settings.recipe.section("proposer").get("name", "") if own_masks else "ground_truth"
    masks = masks if given is None else given.name
    asked = options.oracle_classes is None or options.sensitivity or refines(segmenter)
    name = default_name(artifacts, masks, options.oracle_classes, clip_is_asked=asked)
    inputs = {artifact: _hash(settings, artifact) for artifact in artifacts}
    return ScoredSegmenter(segmenter, name, inputs | ({} if given is None else given.inputs))


def scored_vocabulary(classes: Vocabulary, labels: str | None) -> Vocabulary:
    """The dataset's classes, with the words that a recipe has for them.

    Args:
        classes: the dataset's.
        labels: words in the order of the classes, in the syntax of `--labels`.

    Raises:
        RecipeError: there are more or fewer labels than classes.
        VocabularyError: the labels cannot be used.
    """
    if labels is None:
        return classes
    words = parse_labels(labels)
    if len(words) != len(classes):
        raise RecipeError(
            f"[vocabulary] labels: {len(words)} classes, but the dataset has {len(classes)}; "
            "name one for each, in the order of its category ids"
        )
    return Vocabulary(words.names, words.synonyms, classes.is_thing, classes.seen)


def default_name(
    artifacts: Sequence[str],
    masks: str,
    oracle: OracleClasses | None,
    *,
    clip_is_asked: bool = True,
) -> str:
    """The artifacts' names, after that of the masks where no artifact gives them.

    Args:
        artifacts: as `kind/name`, the proposals first where there are any.
        masks: what to call the masks that no artifact gives.
        oracle: where annotations classify, named behind the artifacts.
        clip_is_asked: whether the results depend on CLIP at all; if not, its artifacts have no
            place in the name.
    """
    names = [artifact.partition("/")[2] for artifact in artifacts]
    if not artifacts or not artifacts[0].startswith("proposals/"):
        names.insert(0, masks)
    if not clip_is_asked:
        del names[1:]
    if len(names) > 2 and "base" in names:
        names.remove("base")  # what was tuned sits on it
    return "-".join(names if oracle is None else [*names, f"oracle_{oracle}"])


def _given(settings: Settings, options: EvaluateOptions) -> GivenMasks | None:
    if options.masks_from is None:
        return None
    named = build("artifacts", settings.recipe.section("artifacts"), ArtifactOptions)
    path = Path(options.masks_from)
    return given_masks(path, device=settings.device, name=named.proposals)


def _segmenter(settings: Settings, given: GivenMasks | None, *, with_proposer: bool) -> Segmenter:
    segmenter = Segmenter.from_run(
        settings.run,
        settings.recipe,
        device=settings.device,
        precision=settings.precision_or("fp32"),
        with_proposer=with_proposer,
        text_cache=text_cache_folder(),
    )
    if given is not None:
        segmenter.proposer, segmenter.framing = given.proposer, given.framing
        segmenter.training_vocabulary = given.training or segmenter.training_vocabulary
    return segmenter


def _hash(settings: Settings, artifact: str) -> str:
    kind, _, name = artifact.partition("/")
    return file_hash(settings.run.artifact_path(kind, name))
