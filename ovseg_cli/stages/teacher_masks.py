"""The masks that a frozen teacher adds to annotated images."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from ovseg_cli.datasets.augmentation import resized, without_empty_masks
from ovseg_cli.datasets.coco import CocoDataset
from ovseg_cli.losses.pseudo_masks import Overlap, pseudo_mask_scores, pseudo_masks, random_points
from ovseg_cli.metrics.pseudo_mask_quality import PseudoMaskQuality
from ovseg_cli.progress import progress
from ovseg_cli.proposers import TrainableProposer
from ovseg_cli.stages.proposal_examples import Batch
from ovseg_cli.structures import Proposals, Sample
from ovseg_cli.training import distributed
from ovseg_cli.training.seeds import seed_of
from ovseg_cli.upsampling import upsample


@dataclass(frozen=True)
class TeacherMasks:
    """A teacher and the choice among its masks, see `losses.pseudo_masks`.

    Attributes:
        teacher: frozen, in eval mode, on the device.
        score_threshold: a mask needs a greater score; with 1 the teacher is not asked.
        overlap: `dice` or `iou`.
        overlap_threshold: a mask needs a smaller overlap with all others.
        points: random points at which overlap is measured; None for every pixel.
        seed: of the random points.
        device: where masks are compared.
    """

    teacher: TrainableProposer
    score_threshold: float
    overlap: Overlap
    overlap_threshold: float
    points: int | None
    seed: int
    device: torch.device

    @torch.no_grad()
    def added_to(self, batch: Batch, step: int) -> Batch:
        """The batch with the teacher's masks after each image's annotated ones.

        What is added to an image depends on the image, seed and step alone.

        Args:
            batch: augmented images and their annotated masks.
            step: the training step.
        """
        if self.score_threshold >= 1:
            return batch
        found = self.teacher.propose_batch(batch.images.to(self.device))
        masks = []
        for proposals, own, image_id in zip(found, batch.masks, batch.image_ids, strict=True):
            annotated = own.to(self.device)
            added = self.chosen(proposals, annotated, seed_of(self.seed, step, image_id))
            masks.append(torch.cat([annotated, added]))
        return Batch(batch.images, tuple(masks), batch.image_ids)

    def chosen(
        self, proposals: Proposals, annotated: Bool[Tensor, "M H W"], points_seed: int
    ) -> Bool[Tensor, "A H W"]:
        """The proposals to add to an image's annotated masks, best score first.

        Args:
            proposals: the teacher's.
            annotated: (M, H, W) at the image's size.
            points_seed: of the random points.
        """
        hopeful = proposals.scores > self.score_threshold  # a mask's probability lowers its score
        logits = upsample(proposals.mask_logits[hopeful].float(), proposals.frame)
        masks, points = logits > 0, None
        if self.points is not None:
            points = random_points(self.points, seed=points_seed, device=masks.device)
        indices = pseudo_masks(
            masks,
            pseudo_mask_scores(logits, proposals.scores[hopeful].float()),
            annotated,
            score_threshold=self.score_threshold,
            overlap=self.overlap,
            overlap_threshold=self.overlap_threshold,
            points=points,
        )
        return masks[indices]

    @torch.no_grad()
    def quality(
        self, dataset: CocoDataset, image_size: int, *, images: int
    ) -> dict[str, int | float]:
        """What the teacher adds to squashed images, see `PseudoMaskQuality.compute`.

        Its masks are chosen beside the annotated masks of seen classes alone, as in training, and
        compared with those of unseen classes, where the dataset has them.

        Args:
            dataset: annotated images.
            image_size: side of the squashed images in pixels.
            images: how many of the first images to look at.
        """
        metric = PseudoMaskQuality()
        classes = dataset.vocabulary
        seen = torch.tensor(classes.seen or [True] * len(classes))
        is_thing = torch.tensor(classes.is_thing)
        count = 0 if self.score_threshold >= 1 else min(len(dataset), images)
        title, shown = f"pseudo masks, {dataset.name}", distributed.is_main()
        for index in progress(range(count), title=title, unit="image", shown=shown):
            sample = _squashed(dataset[index], image_size)
            unseen = ~seen[sample.labels]
            masks = sample.masks.to(self.device)
            (proposals,) = self.teacher.propose_batch(sample.image[None].float().to(self.device))
            seed = seed_of(self.seed, sample.image_id)
            added = self.chosen(proposals, masks[~unseen.to(self.device)], seed)
            metric.update(added, masks[unseen.to(self.device)], is_thing[sample.labels[unseen]])
        return metric.compute()


def _squashed(sample: Sample, side: int) -> Sample:
    """The square sample, neither mirrored nor with crowds or masks that it has no pixel of."""
    square = without_empty_masks(resized(sample, (side, side)))
    counted = ~square.is_crowd
    return Sample(
        square.image,
        square.image_id,
        square.file_name,
        square.masks[counted],
        square.labels[counted],
        square.is_crowd[counted],
    )
