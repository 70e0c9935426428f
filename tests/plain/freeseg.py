"""FreeSeg's pixels reading words the plain way, from the same weights."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ovseg_cli.proposers.freeseg.text_interaction import TextInteraction


def read(module: TextInteraction, maps: list[Tensor], words: Tensor) -> list[Tensor]:
    """One head at a time; the residual starts from the normed pixels, words are normed again."""
    width = module.query.out_features // module.heads
    results = []
    for features in maps:
        words = module.word_norm(words)
        pixels = module.pixel_norm(features.flatten(2).transpose(1, 2))
        heads = []
        for head in range(module.heads):
            rows = slice(head * width, (head + 1) * width)
            query, key, value = (
                F.linear(inputs, layer.weight[rows], layer.bias[rows])
                for inputs, layer in (
                    (pixels, module.query),
                    (words, module.key),
                    (words, module.value),
                )
            )
            heads.append((query @ key.T / width**0.5).softmax(-1) @ value)
        output = pixels + module.scale * module.output(torch.cat(heads, -1))
        results.append(output.transpose(1, 2).reshape(features.shape))
    return results
