"""The Python API: an image and words in, a segmentation out.

segmenter = Segmenter.from_run(Run(Path("run")))
result = segmenter.predict(image, "couch/sofa,dog,grass:stuff")
"""

from collections import OrderedDict
from collections.abc import Collection
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from ovseg_cli.checkpoints.run_parts import (
    artifacts_of,
    clip_of,
    mask_encoder_of,
    proposer_of,
)
from ovseg_cli.classification import Classification
from ovseg_cli.clip.encoder import ClipEncoder
from ovseg_cli.datasets.framing import FramingOptions, frame_image
from ovseg_cli.device import Precision, autocast
from ovseg_cli.inference import TASKS, InferenceOptions, Task, segment
from ovseg_cli.mask_encoders import MaskEncoder
from ovseg_cli.proposers import Proposer
from ovseg_cli.recipe import Recipe, build
from ovseg_cli.run import Run, file_hash
from ovseg_cli.structures import (
    EncodedMasks,
    FramedImage,
    Proposals,
    Segmentation,
    TextEmbeddings,
    Vocabulary,
)
from ovseg_cli.vocabulary.labels import parse_labels
from ovseg_cli.vocabulary.templates import TEMPLATES
from ovseg_cli.vocabulary.text_embeddings import text_embeddings

KEPT_VOCABULARIES = 8


@dataclass(frozen=True)
class VocabularyOptions:
    """How a recipe turns words into texts.

    Attributes:
        labels: the words to score a dataset with, in the order of its classes, in the syntax of
            `--labels`; None for the dataset's own names.
        templates: `name_only` (MasQCLIP) or `vild`, 14 sentences a name.
    """

    labels: str | None = None
    templates: Literal["name_only", "vild"] = "name_only"


class Segmenter:
    """A proposer, a mask encoder and a CLIP, joined by classification and inference."""

    def __init__(
        self,
        proposer: Proposer | None,
        mask_encoder: MaskEncoder,
        clip: ClipEncoder,
        *,
        classification: Classification | None = None,
        inference: InferenceOptions | None = None,
        framing: FramingOptions | None = None,
        vocabulary: VocabularyOptions | None = None,
        device: torch.device | None = None,
        precision: Precision = "fp32",
        text_cache: Path | None = None,
        text_key: str = "",
    ) -> None:
        """Joins parts that are built already.

        Args:
            proposer: finds masks; None if masks are always handed in.
            mask_encoder: brings masks into the space of the texts.
            clip: its text tower brings words into the same space.
            classification: scale, background word, synonyms, object score.
            inference: thresholds.
            framing: the size at which the networks see images.
            vocabulary: the templates around words.
            device: where the parts are.
            precision: of their forward passes.
            text_cache: a folder that keeps text embeddings from one process to the next.
            text_key: tells this text tower from others in that folder.
        """
        self.proposer, self.mask_encoder, self.clip = proposer, mask_encoder, clip
        self.classification = classification or Classification()
        self.inference = inference or InferenceOptions()
        self.framing = framing or FramingOptions()
        self.vocabulary_options = vocabulary or VocabularyOptions()
        self.device = device or torch.device("cpu")
        self.precision = precision
        self._text_cache, self._text_key = text_cache, text_key
        self._texts: OrderedDict[Vocabulary, TextEmbeddings] = OrderedDict()

    @classmethod
    def from_run(
        cls,
        run: Run,
        recipe: Recipe | None = None,
        *,
        device: torch.device | None = None,
        precision: Precision = "fp32",
        with_proposer: bool = True,
        text_cache: Path | None = None,
    ) -> "Segmenter":
        """The segmenter of a run directory: the newest proposals, its CLIP, what was tuned.

        Args:
            run: holds the artifacts.
            recipe: instead of the one that the run directory keeps.
            device: where to compute.
            precision: of the forward passes.
            with_proposer: False where masks are always handed in.
            text_cache: a folder that keeps text embeddings from one process to the next.

        Raises:
            RunError: an artifact is missing; the message names the command that makes it.
            RecipeError: an option that cannot be used.
            CheckpointError: an artifact is damaged or of another model.
        """
        recipe, device = recipe or run.recipe(), device or torch.device("cpu")
        options = options_of(recipe)
        clip = clip_of(run, recipe).to(device).eval()
        proposer = proposer_of(run, recipe, device=device, clip=clip) if with_proposer else None
        encoder = mask_encoder_of(run, recipe, clip, device=device)
        return cls(
            proposer,
            encoder,
            clip,
            device=device,
            precision=precision,
            text_cache=text_cache,
            text_key=_text_key(run, recipe) if text_cache else "",
            **options,
        )

    @torch.inference_mode()
    def predict(
        self,
        image: UInt8[Tensor, "3 H W"],
        vocabulary: Vocabulary | str,
        *,
        tasks: Collection[Task] = TASKS,
    ) -> Segmentation:
        """The segmentation of an image by words, on the CPU.

        Args:
            image: (3, H, W) RGB.
            vocabulary: classes, or words in the syntax of `--labels`.
            tasks: which results to make.

        Raises:
            VocabularyError: words that cannot be used.
            ValueError: there is no proposer.
        """
        words = parse_labels(vocabulary) if isinstance(vocabulary, str) else vocabulary
        framed = self.frame(image)
        proposals = self.propose(framed)
        encoded, probabilities = self.classify(framed, proposals, words)
        return self.infer(encoded, probabilities, proposals, words, tasks=tasks)

    def frame(self, image: UInt8[Tensor, "3 H W"]) -> FramedImage:
        """The image as the networks see it, on their device.

        Args:
            image: (3, H, W) RGB.
        """
        framed = frame_image(image, **asdict(self.framing))
        return replace(framed, pixels=framed.pixels.to(self.device))

    def propose(self, framed: FramedImage) -> Proposals:
        """The proposer's masks.

        Args:
            framed: from `frame`.

        Raises:
            ValueError: there is no proposer.
        """
        if self.proposer is None:
            raise ValueError("this segmenter has no proposer")
        with self._precision():
            return self.proposer.propose(framed)

    def classify(
        self, framed: FramedImage, proposals: Proposals, vocabulary: Vocabulary
    ) -> tuple[EncodedMasks, Float[Tensor, "N K"]]:
        """Masks in CLIP's space and their class probabilities.

        Args:
            framed: from `frame`.
            proposals: N masks of that image, from wherever.
            vocabulary: K classes.
        """
        with self._precision():
            encoded = self.mask_encoder.encode(framed, proposals)
        encoded = replace(encoded, embeddings=encoded.embeddings.float())
        proposals = replace(proposals, scores=proposals.scores.to(encoded.embeddings.device))
        texts = self.text_embeddings(vocabulary)
        return encoded, self.classification.probabilities(encoded, proposals, texts)

    def infer(
        self,
        encoded: EncodedMasks,
        class_probabilities: Float[Tensor, "N K"],
        proposals: Proposals,
        vocabulary: Vocabulary,
        *,
        tasks: Collection[Task] = TASKS,
    ) -> Segmentation:
        """The results of classified masks, on the CPU.

        Args:
            encoded: N masks.
            class_probabilities: (N, K) from `classify`.
            proposals: the same masks; their frame says how they lie in the image.
            vocabulary: K classes.
            tasks: which results to make.
        """
        masks = encoded.mask_logits.float().to(class_probabilities.device)
        result = segment(
            class_probabilities,
            masks,
            proposals.frame,
            torch.tensor(vocabulary.is_thing, device=masks.device),
            tasks=tasks,
            options=self.inference,
        )
        return _on_cpu(result)

    def text_embeddings(self, vocabulary: Vocabulary) -> TextEmbeddings:
        """The words of a vocabulary in CLIP's space; the last few vocabularies are kept.

        Args:
            vocabulary: at least one class.

        Raises:
            VocabularyError: a word is too long for the text tower.
        """
        if vocabulary not in self._texts:
            texts = text_embeddings(
                vocabulary,
                self.clip.encode_text,
                templates=TEMPLATES[self.vocabulary_options.templates],
                background=self.classification.background,
                cache=self._text_cache,
                model_key=self._text_key,
            )
            self._texts[vocabulary] = replace(
                texts,
                embeddings=texts.embeddings.to(self.device),
                class_of=texts.class_of.to(self.device),
            )
        self._texts.move_to_end(vocabulary)
        if len(self._texts) > KEPT_VOCABULARIES:
            self._texts.popitem(last=False)
        return self._texts[vocabulary]

    def _precision(self) -> AbstractContextManager[Any]:
        return autocast(self.device, self.precision)


def options_of(recipe: Recipe) -> dict[str, Any]:
    """The recipe's `classification`, `inference`, `framing` and `vocabulary`, checked.

    Raises:
        RecipeError: an option that cannot be used.
    """
    kinds = {
        "classification": Classification,
        "inference": InferenceOptions,
        "framing": FramingOptions,
        "vocabulary": VocabularyOptions,
    }
    return {name: build(name, recipe.section(name), kind) for name, kind in kinds.items()}


def _text_key(run: Run, recipe: Recipe) -> str:
    if "clip/base" in artifacts_of(run, recipe, proposer=False):
        return file_hash(run.artifact_path("clip", "base"))
    return str(sorted(recipe.section("clip").items()))


def _on_cpu(result: Segmentation) -> Segmentation:
    found = result.instances
    return replace(
        result,
        panoptic=None if result.panoptic is None else result.panoptic.cpu(),
        semantic=None if result.semantic is None else result.semantic.cpu(),
        instances=found
        and replace(
            found,
            masks=found.masks.cpu(),
            labels=found.labels.cpu(),
            scores=found.scores.cpu(),
        ),
    )
