"""What stages that learn have in common: the words of their classes, and the training loop."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from ovseg_cli.clip.encoder import ClipEncoder
from ovseg_cli.device import Precision
from ovseg_cli.recipe import build
from ovseg_cli.segmenter import VocabularyOptions, text_key
from ovseg_cli.stages.session import Settings
from ovseg_cli.structures import TextEmbeddings, Vocabulary
from ovseg_cli.training.loop import FitResult, LoopOptions, LossesOf, fit
from ovseg_cli.vocabulary.templates import TEMPLATES
from ovseg_cli.vocabulary.text_embeddings import text_cache_folder, text_embeddings


@runtime_checkable
class LearningOptions(Protocol):
    """A recipe's section on how to learn."""

    def loop(self, precision: Precision) -> LoopOptions:
        """The training loop's share of the options."""
        ...

    def optimizer(self, module: nn.Module) -> torch.optim.Optimizer:
        """Over what a module learns."""
        ...

    def schedule(self) -> Callable[[int], float]:
        """The factor on the learning rates at each step."""
        ...


def fit_in_run(
    settings: Settings,
    options: LearningOptions,
    module: nn.Module,
    *,
    batch_at: Callable[[int], Any],
    losses_of: LossesOf,
    name: str,
    fingerprint: str,
) -> FitResult:
    """Trains a module as a recipe says, in fp32 unless another precision is asked for; see `fit`.

    Args:
        settings: run directory, device, precision.
        options: how to learn.
        module: on the device.
        batch_at: the batch of a step.
        losses_of: named losses of a batch.
        name: of checkpoint and log.
        fingerprint: of the settings, for the checkpoint.

    Raises:
        Interrupted: SIGINT or SIGTERM came; a checkpoint is saved.
        TrainingError: the loss stayed non-finite.
    """
    return fit(
        module,
        batch_at=batch_at,
        losses_of=losses_of,
        optimizer=options.optimizer(module),
        schedule=options.schedule(),
        options=options.loop(settings.precision_or("fp32")),
        run=settings.run,
        stage=name,
        fingerprint=fingerprint,
        device=settings.device,
    )


def learned_words(
    settings: Settings, vocabulary: Vocabulary, clip: ClipEncoder, *, background: str | None = None
) -> TextEmbeddings:
    """Every synonym of the classes in the recipe's templates, (T, D), on the settings' device.

    Args:
        settings: the recipe says which templates; texts are kept on the disk by its CLIP.
        vocabulary: the classes.
        clip: its text tower encodes what is not on the disk.
        background: a word that becomes a last class of its own.
    """
    words = build("vocabulary", settings.recipe.section("vocabulary"), VocabularyOptions)
    return text_embeddings(
        vocabulary,
        clip.encode_text,
        templates=TEMPLATES[words.templates],
        background=background,
        cache=text_cache_folder(),
        model_key=text_key(settings.run, settings.recipe),
    ).to(settings.device)
