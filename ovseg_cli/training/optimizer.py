"""AdamW with the usual exceptions, and learning rates as functions of the step."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import torch
from torch import nn

Decay = Literal["none", "step", "cosine", "poly"]
UNDECAYED = (nn.LayerNorm, nn.GroupNorm, nn.BatchNorm2d, nn.Embedding)


def adamw(
    module: nn.Module,
    *,
    lr: float,
    weight_decay: float,
    lr_factors: Mapping[str, float] | None = None,
) -> torch.optim.AdamW:
    """AdamW over the parameters that require a gradient.

    Args:
        module: parameters of norms and embeddings get no weight decay, as Mask2Former's do not.
        lr: the learning rate before any schedule.
        weight_decay: decoupled, per step times the learning rate.
        lr_factors: by the prefix of a parameter's name, such as {"backbone.": 0.1}.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for prefix, part in module.named_modules():
        for name, parameter in part.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            decay = 0.0 if isinstance(part, UNDECAYED) else weight_decay
            factor = _factor(f"{prefix}.{name}", lr_factors or {})
            groups.setdefault((factor, decay), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": params, "lr": lr * factor, "weight_decay": decay}
            for (factor, decay), params in groups.items()
        ],
        lr=lr,
    )


def schedule(
    *,
    steps: int,
    warmup: int = 0,
    decay: Decay = "none",
    milestone: float | Sequence[float] = 0.9,
) -> Callable[[int], float]:
    """The factor on the learning rate at each step.

    Args:
        steps: how many steps there are.
        warmup: steps of linear warm-up.
        decay: `none`, `step` (times 0.1 from each milestone on), `cosine` (to 0 at the end) or
            `poly` (the share of the steps that is left, to the power of 0.9).
        milestone: for `step`, the share of the steps before the drop, or several.
    """
    milestones = [milestone] if isinstance(milestone, float | int) else list(milestone)

    def factor(step: int) -> float:
        rise = min(1.0, (step + 1) / warmup) if warmup else 1.0
        if decay == "step":
            passed = sum(step >= share * steps for share in milestones)
            return float(rise * 0.1**passed)
        if decay == "cosine":
            done = max(0, step - warmup) / max(1, steps - warmup)
            return rise * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
        if decay == "poly":
            return float(rise * max(0.0, 1 - step / steps) ** 0.9)
        return rise

    return factor


def _factor(name: str, lr_factors: Mapping[str, float]) -> float:
    return next((f for prefix, f in lr_factors.items() if name.startswith(prefix)), 1.0)
