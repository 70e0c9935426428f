"""The losses of every proposer that can be trained, on batches of annotated masks."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ovseg_cli.losses.set_criterion import MaskTargets, seed_of
from ovseg_cli.proposers import Mask2Former, MaskRcnn
from ovseg_cli.proposers.mask_rcnn import AnnotatedMasks
from ovseg_cli.stages.proposal_examples import Batch
from ovseg_cli.stages.proposal_options import TrainProposalsOptions


def proposal_losses(
    module: nn.Module,
    batch: Batch,
    *,
    options: TrainProposalsOptions,
    seed: int,
    step: int,
    device: torch.device,
) -> dict[str, Tensor]:
    """The weighted losses of a batch, each proposer's own.

    Args:
        module: the proposer, or its wrapper for several processes.
        batch: images and masks, all of the one class "object".
        options: the weights of the losses, and where masks are compared.
        seed: of the random points, anchors and regions.
        step: the training step.
        device: where the module is.
    """
    here = batch._replace(
        images=batch.images.to(device), masks=tuple(masks.to(device) for masks in batch.masks)
    )
    proposer = module.module if isinstance(module, DistributedDataParallel) else module
    return LOSSES[type(proposer)](module, here, options, seed, step)


def _set_losses(
    module: nn.Module, batch: Batch, options: TrainProposalsOptions, seed: int, step: int
) -> dict[str, Tensor]:
    targets = [
        MaskTargets(masks.float(), masks.new_zeros(len(masks), dtype=torch.int64), image_id)
        for masks, image_id in zip(batch.masks, batch.image_ids, strict=True)
    ]
    return options.criterion()(module(batch.images), targets, seed=seed, step=step)


def _region_losses(
    module: nn.Module, batch: Batch, options: TrainProposalsOptions, seed: int, step: int
) -> dict[str, Tensor]:
    targets = [
        AnnotatedMasks(masks, seed_of(seed, step, image_id))
        for masks, image_id in zip(batch.masks, batch.image_ids, strict=True)
    ]
    losses: dict[str, Tensor] = module(batch.images, targets)
    return losses


LOSSES: dict[type[nn.Module], Callable[..., dict[str, Tensor]]] = {
    Mask2Former: _set_losses,
    MaskRcnn: _region_losses,
}
