"""The contrastive loss: CLIP's own where captions differ, and no penalty for equal captions."""

import pytest
import torch
from torch.nn import functional as F

from ovseg_cli.losses.contrastive import contrastive_losses

SCALE = torch.tensor(14.0)


def rows(count, seed, size=8):
    return torch.randn(count, size, generator=torch.Generator().manual_seed(seed))


def total(images, texts, image_texts, text_ids, scale=SCALE):
    losses = contrastive_losses(
        images,
        texts,
        image_texts=torch.tensor(image_texts),
        text_ids=torch.tensor(text_ids),
        scale=scale,
    )
    return sum(losses.values())


def test_with_one_caption_an_image_it_is_clips_symmetric_cross_entropy():
    images, texts = rows(6, 0), rows(6, 1)
    logits = SCALE * F.normalize(images, dim=-1) @ F.normalize(texts, dim=-1).T
    target = torch.arange(6)
    expected = (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2
    found = total(images, texts, [[i] for i in range(6)], list(range(6)))
    torch.testing.assert_close(found, expected)


def test_lengths_of_embeddings_do_not_matter():
    images, texts, ids = rows(4, 0), rows(4, 1), list(range(4))
    pairs = [[i] for i in ids]
    torch.testing.assert_close(
        total(3 * images, 0.2 * texts, pairs, ids), total(images, texts, pairs, ids)
    )


def test_two_images_with_the_same_caption_are_no_negatives_of_one_another():
    images = F.normalize(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]]), dim=-1)
    texts = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    found = total(images, texts, [[5], [5], [9]], [5, 9], scale=torch.tensor(50.0))
    ambiguity = 0.5 * 0.5 * torch.tensor(2.0).log()  # the text cannot say which of the two images
    torch.testing.assert_close(found, ambiguity)


def test_a_text_in_two_rows_counts_once():
    images, texts = rows(5, 0), rows(3, 1)
    image_texts = [[0, 1], [1, 2], [0, 2], [2, 1], [0, 1]]
    once = total(images, texts, image_texts, [0, 1, 2])
    twice = total(images, texts[[0, 1, 2, 1, 1]], image_texts, [0, 1, 2, 1, 1])
    torch.testing.assert_close(twice, once)


def test_rows_that_only_fill_up_change_nothing_and_get_no_gradient():
    images, texts = rows(3, 0), rows(3, 1).requires_grad_()
    filler = rows(2, 2).requires_grad_()
    image_texts = [[0], [1], [2]]
    plain = total(images, texts, image_texts, [0, 1, 2])
    padded = total(images, torch.cat([texts, filler]), image_texts, [0, 1, 2, -1, -1])
    torch.testing.assert_close(padded, plain)
    padded.backward()
    assert torch.isfinite(texts.grad).all()
    assert (filler.grad == 0).all()


@pytest.mark.parametrize("rate", [0.5])
def test_its_gradient_brings_pairs_together(rate):
    images, texts = rows(6, 0).requires_grad_(), rows(6, 1).requires_grad_()
    pairs, ids = [[i] for i in range(6)], list(range(6))
    optimizer = torch.optim.SGD([images, texts], lr=rate)
    first = float(total(images, texts, pairs, ids))
    for _ in range(200):
        optimizer.zero_grad()
        total(images, texts, pairs, ids).backward()
        optimizer.step()
    assert float(total(images, texts, pairs, ids)) < 0.1 * first


def test_logits_keep_their_precision_under_autocast():
    images, texts, ids = rows(16, 0), rows(16, 1), list(range(16))
    pairs = [[i] for i in ids]
    expected = total(images, texts, pairs, ids)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = total(images, texts, pairs, ids)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
