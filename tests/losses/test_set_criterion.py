import subprocess
import sys

import pytest
import torch
from torch import nn

from ovseg_cli.losses.matches import MaskTargets
from ovseg_cli.losses.points import RandomPoints
from ovseg_cli.losses.set_criterion import SetCriterion
from ovseg_cli.training.seeds import seed_of

CRITERION = SetCriterion(points=40)
RELEASED = SetCriterion(points=40, normaliser="process")


def targets(*counts: int) -> list[MaskTargets]:
    generator = torch.Generator().manual_seed(5)
    return [
        MaskTargets(
            masks=(torch.rand(count, 32, 32, generator=generator) > 0.5).float(),
            labels=torch.zeros(count, dtype=torch.int64),
            image_id=image,
        )
        for image, count in enumerate(counts)
    ]


def predictions(images: int, layers: int = 2) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(6)
    return [
        (
            torch.randn(images, 5, 2, generator=generator).requires_grad_(),
            torch.randn(images, 5, 8, 8, generator=generator).requires_grad_(),
        )
        for _ in range(layers)
    ]


def test_the_right_masks_lose_less_than_others_in_any_order():
    masks = torch.zeros(2, 8, 8)
    masks[0, :4], masks[1, 4:] = 1, 1
    target = MaskTargets(masks, torch.zeros(2, dtype=torch.int64), image_id=0)
    class_logits = torch.tensor([[[50.0, -50.0], [50.0, -50.0], [-50.0, 50.0]]])

    def losses(*guesses: torch.Tensor) -> dict[str, torch.Tensor]:
        mask_logits = 10.0 * (2 * torch.stack(guesses) - 1)
        return CRITERION([(class_logits, mask_logits[None])], [target], seed=0, step=0)

    empty = torch.zeros(8, 8)
    right = losses(masks[1], masks[0], empty)
    assert right["class"].item() == pytest.approx(0, abs=1e-6)
    swapped, wrong = losses(masks[0], masks[1], empty), losses(masks[0], empty, masks[0])
    for name in ("mask", "dice"):
        assert right[name] < 0.5 * wrong[name]
        assert swapped[name] < 0.5 * wrong[name]


def test_images_without_annotations_only_teach_no_object():
    layers = predictions(2)
    losses = CRITERION(layers, targets(0, 0), seed=0, step=0)
    assert losses["mask"].item() == losses["dice"].item() == 0
    sum(losses.values()).backward()
    for class_logits, mask_logits in layers:
        assert (class_logits.grad[..., 1] < 0).all()
        assert (mask_logits.grad == 0).all()


def test_an_image_without_annotations_beside_one_with():
    losses = CRITERION(predictions(2), targets(3, 0), seed=0, step=0)
    assert all(torch.isfinite(loss) for loss in losses.values())


def test_the_same_seed_and_step_give_the_same_loss_and_others_another():
    def total(seed: int, step: int) -> float:
        losses = CRITERION(predictions(2), targets(3, 2), seed=seed, step=step)
        return float(sum(losses.values()).detach())

    assert total(0, 0) == total(0, 0)
    assert len({total(0, 0), total(0, 1), total(1, 0)}) == 3


def test_an_images_points_do_not_depend_on_its_batch():
    alone = RandomPoints([seed_of(3, 7)], count=10)
    together = RandomPoints([seed_of(3, 6), seed_of(3, 7)], count=10)
    mask_logits = torch.randn(5, 8, 8)
    assert torch.equal(alone.for_matching()[0], together.for_matching()[1])
    assert torch.equal(
        alone.for_losses(mask_logits[2:], [3]), together.for_losses(mask_logits, [2, 3])[2:]
    )


def test_images_without_annotations_teach_nothing_where_no_object_has_no_weight():
    """A weighted mean over nothing; the released code of MaskCLIP gets NaN from it."""
    for normaliser in ("global", "process"):
        criterion = SetCriterion(points=40, no_object_weight=0.0, normaliser=normaliser)
        layers = predictions(2)
        losses = criterion(layers, targets(0, 0), seed=0, step=0)
        assert {name: loss.item() for name, loss in losses.items()} == {
            "class": 0,
            "mask": 0,
            "dice": 0,
        }
        sum(losses.values()).backward()
        assert (layers[0][0].grad == 0).all()


def test_without_weight_unmatched_queries_count_for_nothing():
    criterion = SetCriterion(points=40, no_object_weight=0.0)
    ((class_logits, mask_logits),) = predictions(1, layers=1)
    criterion([(class_logits, mask_logits)], targets(2), seed=0, step=0)["class"].backward()
    assert class_logits.grad.abs().sum(-1).count_nonzero() == 2


def test_classes_can_be_learned_from_the_last_prediction_alone():
    layers = predictions(2, layers=3)
    criterion = SetCriterion(points=40, class_losses="last")
    last, every = (c(layers, targets(2, 1), seed=0, step=0) for c in (criterion, CRITERION))
    assert torch.equal(last["mask"], every["mask"])
    last["class"].backward()
    assert [logits.grad is None for logits, _ in layers] == [True, True, False]
    first_two = CRITERION(layers[:2], targets(2, 1), seed=0, step=0)["class"]
    torch.testing.assert_close(first_two + last["class"], every["class"])


def test_padded_queries_are_neither_matched_nor_no_object():
    ((class_logits, mask_logits),) = predictions(2, layers=1)
    annotated = targets(4, 2)
    padded = CRITERION([(class_logits, mask_logits)], annotated, seed=0, step=0, counts=(3, 5))
    sum(padded.values()).backward()
    assert (class_logits.grad[0, 3:] == 0).all()
    assert (mask_logits.grad[0, 3:] == 0).all()
    assert (class_logits.grad[0, :3] != 0).all()
    assert (class_logits.grad[1] != 0).all()
    nothing = CRITERION([(class_logits, mask_logits)], annotated, seed=0, step=0, counts=(0, 0))
    assert {loss.item() for loss in nothing.values()} == {0}


def test_every_layer_counts():
    one, two = predictions(1, layers=1), predictions(1, layers=2)
    assert (
        CRITERION(two, targets(2), seed=0, step=0)["class"]
        > CRITERION(one, targets(2), seed=0, step=0)["class"]
    )


def test_a_prediction_that_is_no_number_gives_a_loss_that_is_none():
    ((class_logits, mask_logits),) = predictions(1, layers=1)
    broken = (class_logits, mask_logits * float("nan"))
    losses = CRITERION([broken], targets(2), seed=0, step=0)
    assert not torch.isfinite(sum(losses.values()))


def test_half_precision_predictions_are_judged_in_float32():
    ((class_logits, mask_logits),) = predictions(1, layers=1)
    halves = [(class_logits.bfloat16(), mask_logits.bfloat16())]
    losses = CRITERION(halves, targets(2), seed=0, step=0)
    assert all(loss.dtype == torch.float32 for loss in losses.values())


class Heads(nn.Module):
    """One prediction of a picture, with weights to train."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.classes, self.masks = nn.Linear(12, 5 * 2), nn.Conv2d(3, 5, 3, padding=1)

    def forward(self, images: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        pooled = nn.functional.adaptive_avg_pool2d(images, 2).flatten(1)
        return [(self.classes(pooled).unflatten(1, (5, 2)), self.masks(images))]


def gradients(module: nn.Module, first: int, last: int, criterion: SetCriterion) -> list:
    images = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    annotated = targets(3, 1, 0, 2)
    module.zero_grad()
    losses = criterion(module(images[first:last]), annotated[first:last], seed=0, step=0)
    sum(losses.values()).backward()
    return [parameter.grad.clone() for parameter in module.parameters()]


def one_of_two(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2
    )
    module = nn.parallel.DistributedDataParallel(Heads())
    found = [gradients(module, 2 * rank, 2 * rank + 2, c) for c in (CRITERION, RELEASED)]
    if rank == 0:
        torch.save(found, f"{folder}/gradients.pt")
    torch.distributed.destroy_process_group()


def test_two_processes_give_the_gradient_of_one_unless_each_takes_its_own_mean(tmp_path):
    commands = [[sys.executable, __file__, str(rank), str(tmp_path)] for rank in (0, 1)]
    processes = [subprocess.Popen(command) for command in commands]
    assert [process.wait(timeout=300) for process in processes] == [0, 0]
    ours, released = torch.load(tmp_path / "gradients.pt", weights_only=True)
    for found, expected in zip(ours, gradients(Heads(), 0, 4, CRITERION), strict=True):
        assert torch.allclose(found, expected, atol=1e-6)
    expected = gradients(Heads(), 0, 4, RELEASED)
    assert not torch.allclose(released[0], expected[0], atol=1e-6)


if __name__ == "__main__":
    one_of_two(int(sys.argv[1]), sys.argv[2])
