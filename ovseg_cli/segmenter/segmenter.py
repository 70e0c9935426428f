"""A segmenter of a run directory, and what it finds in an image."""

from collections.abc import Collection
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from ovseg_cli.device import Precision
from ovseg_cli.errors import UsageError
from ovseg_cli.inference import TASKS, InferenceOptions, Task, checked_tasks
from ovseg_cli.proposers import FolderMasks
from ovseg_cli.recipe import Recipe
from ovseg_cli.run import Run
from ovseg_cli.segmenter.large_images import segment_in_windows
from ovseg_cli.segmenter.of_run import parts_of, run_of
from ovseg_cli.segmenter.pixels import AnyImage, name_of, pixels_of
from ovseg_cli.segmenter.steps import Steps
from ovseg_cli.segmenter.void import Background, with_thresholds
from ovseg_cli.structures import Segmentation, Vocabulary
from ovseg_cli.vocabulary.distractors import with_distractors
from ovseg_cli.vocabulary.labels import parse_labels


class Segmenter(Steps):
    """Finds the regions of an image that words name."""

    @classmethod
    def from_run(
        cls,
        run: Run | Path | str,
        recipe: Recipe | None = None,
        *,
        device: torch.device | str | None = None,
        precision: Precision = "fp32",
        with_proposer: bool = True,
        text_cache: Path | None = None,
    ) -> "Segmenter":
        """The segmenter of a run directory: the newest proposals, its CLIP, what was tuned.

        Args:
            run: holds the artifacts; "tiny" is the model in the box.
            recipe: instead of the one that the run directory keeps.
            device: where to compute, such as "cuda"; the CPU if not given.
            precision: of the forward passes.
            with_proposer: False where masks are always handed in.
            text_cache: a folder that keeps text embeddings from one process to the next.

        Raises:
            RunError: no run directory, or an artifact is missing; the message names the command
                that makes it.
            RecipeError: an option that cannot be used.
            CheckpointError: an artifact is damaged or of another model.
        """
        run = run_of(run)
        parts = parts_of(
            run,
            recipe or run.recipe(),
            device=torch.device(device or "cpu"),
            with_proposer=with_proposer,
            text_cache=text_cache,
        )
        return cls(**parts, precision=precision)

    @torch.inference_mode()
    def predict(
        self,
        image: AnyImage,
        vocabulary: Vocabulary | str,
        *,
        tasks: Collection[Task] = TASKS,
        name: str | None = None,
        background: Background = "none",
        score_threshold: float | None = None,
        tile: int | None = None,
    ) -> Segmentation:
        """The segmentation of an image by words, on the CPU.

        Args:
            image: a file's path; a PIL image; an array (H, W, 3) or a tensor (3, H, W) of uint8
                RGB.
            vocabulary: classes, or words in the syntax of `--labels`.
            tasks: which results to make.
            name: the image file's, for a proposer that looks masks up; a path's own if not given.
            background: `none` leaves void what the recipe does; `threshold` also what scores below
                `score_threshold`, pixels of the semantic map included; `distractors` lets common
                words compete, and what they win is void.
            score_threshold: instead of the recipe's thresholds of panoptic segments (their class
                probability) and of instances (class x mask probability), 0 to 1.
            tile: the side in pixels of the windows in which a larger image is segmented; what lies
                in several is joined.

        Raises:
            InputError: an image file that cannot be read.
            VocabularyError: words that cannot be used.
            UsageError: a tile where the proposals are masks on file, which are of whole images.
            ValueError: there is no proposer; an image of another shape or type; a task, background,
                threshold or tile that there is not.
        """
        if tile is not None and isinstance(self.proposer, FolderMasks):
            raise UsageError("--tile: masks on file are of whole images; leave it out")
        words = parse_labels(vocabulary) if isinstance(vocabulary, str) else vocabulary
        classes, tasks = self.classes(words, background), checked_tasks(tasks)
        options = with_thresholds(self.inference, background, score_threshold)
        name, void_classes = name or name_of(image), len(classes) - len(words)

        def whole(pixels: UInt8[Tensor, "3 H W"]) -> Segmentation:
            return self._whole(pixels, classes, name, tasks, options, void_classes)

        pixels = pixels_of(image)
        if tile is None:
            return whole(pixels)
        return segment_in_windows(pixels, whole, side=tile, top_k=options.top_k)

    def classes(self, vocabulary: Vocabulary, background: Background = "none") -> Vocabulary:
        """The classes that masks are told apart by: those asked for, then those that are void.

        Args:
            vocabulary: the classes asked for.
            background: see `predict`.
        """
        if background != "distractors":
            return vocabulary
        return with_distractors(vocabulary, self.training_vocabulary)

    def _whole(
        self,
        pixels: Tensor,
        classes: Vocabulary,
        name: str | None,
        tasks: Collection[Task],
        options: InferenceOptions,
        void_classes: int,
    ) -> Segmentation:
        framed = self.frame(pixels, name=name)
        proposals = self.propose(framed, classes)
        encoded, probabilities = self.classify(framed, proposals, classes)
        return self.infer(
            encoded,
            probabilities,
            proposals,
            classes,
            tasks=tasks,
            options=options,
            void_classes=void_classes,
        )
