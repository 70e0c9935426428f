"""The losses of every proposer that can be trained, on batches of annotated masks."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ovseg_cli.losses.full_masks import FullMaskCriterion
from ovseg_cli.losses.matches import MaskTargets
from ovseg_cli.losses.set_criterion import SetCriterion
from ovseg_cli.proposers import ClipMask2Former, FreeSeg, Mask2Former, MaskFormer, MaskRcnn
from ovseg_cli.proposers.mask_rcnn import AnnotatedMasks
from ovseg_cli.stages.proposal_examples import Batch
from ovseg_cli.stages.proposal_options import TrainProposalsOptions
from ovseg_cli.structures import TextEmbeddings
from ovseg_cli.training.seeds import seed_of

Criterion = SetCriterion | FullMaskCriterion


def proposal_losses(
    module: nn.Module,
    batch: Batch,
    *,
    options: TrainProposalsOptions,
    seed: int,
    step: int,
    device: torch.device,
    texts: TextEmbeddings | None = None,
) -> dict[str, Tensor]:
    """The weighted losses of a batch, each proposer's own.

    Args:
        module: the proposer, or its wrapper for several processes.
        batch: images and masks.
        options: the weights of the losses, and where masks are compared.
        seed: of the random points, anchors and regions.
        step: the training step.
        device: where the module is.
        texts: the words of the classes on the device, for a proposer that learns classes; for
            others all masks are of the one class "object".
    """
    here = batch._replace(
        images=batch.images.to(device),
        masks=tuple(masks.to(device) for masks in batch.masks),
        labels=tuple(labels.to(device) for labels in batch.labels),
    )
    proposer = module.module if isinstance(module, DistributedDataParallel) else module
    if texts is not None:
        predictions, targets = module(here.images, texts), _targets(here, here.labels)
        criterion = CRITERIA[type(proposer)](options)
        return criterion(predictions, targets, seed=seed, step=step)
    return LOSSES[type(proposer)](module, here, options, seed, step)


def _object_losses(
    module: nn.Module, batch: Batch, options: TrainProposalsOptions, seed: int, step: int
) -> dict[str, Tensor]:
    one_class = [masks.new_zeros(len(masks), dtype=torch.int64) for masks in batch.masks]
    targets = _targets(batch, one_class)
    return options.criterion()(module(batch.images), targets, seed=seed, step=step)


def _targets(batch: Batch, labels: Sequence[Tensor]) -> list[MaskTargets]:
    return [
        MaskTargets(masks.float(), of_image, image_id)
        for masks, of_image, image_id in zip(batch.masks, labels, batch.image_ids, strict=True)
    ]


def _region_losses(
    module: nn.Module, batch: Batch, options: TrainProposalsOptions, seed: int, step: int
) -> dict[str, Tensor]:
    targets = [
        AnnotatedMasks(masks, seed_of(seed, step, image_id))
        for masks, image_id in zip(batch.masks, batch.image_ids, strict=True)
    ]
    losses: dict[str, Tensor] = module(batch.images, targets)
    return losses


CRITERIA: dict[type[nn.Module], Callable[[TrainProposalsOptions], Criterion]] = {
    ClipMask2Former: TrainProposalsOptions.criterion,
    FreeSeg: TrainProposalsOptions.full_mask_criterion,
    MaskFormer: TrainProposalsOptions.full_mask_criterion,
}
LOSSES: dict[type[nn.Module], Callable[..., dict[str, Tensor]]] = {
    Mask2Former: _object_losses,
    MaskRcnn: _region_losses,
}
