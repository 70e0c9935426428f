"""ResNet backbones in torchvision's layout (stride in the 3x3 convolution).

He et al., Deep Residual Learning, CVPR 2016; those with a final `c` have DeepLab's stem of three
convolutions and dilated last blocks (Chen et al., Rethinking Atrous Convolution, 2017): OVSeg's and
MAFT's proposers stand on one. Normalisation is frozen batch norm (ImageNet's statistics as
constants, as Mask2Former is released) or group norm: neither depends on the batch, so several
processes see what one would.
"""

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from ..errors import RecipeError

NormName = Literal["frozen_batch", "group"]

_GROUPS = 8


class FrozenBatchNorm2d(nn.Module):
    """Batch norm with constant statistics and constant affine parameters.

    Args:
        channels: number of channels.
    """

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, *, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("weight", torch.ones(channels))
        self.register_buffer("bias", torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def scale_and_shift(self) -> tuple[Float[Tensor, " C"], Float[Tensor, " C"]]:
        """The norm as y = scale * x + shift, one value a channel."""
        scale = self.weight * (self.running_var + self.eps).rsqrt()
        return scale, self.bias - self.running_mean * scale

    def forward(self, features: Float[Tensor, "B C h w"]) -> Float[Tensor, "B C h w"]:
        scale, shift = self.scale_and_shift()
        return features * scale.view(-1, 1, 1) + shift.view(-1, 1, 1)


def _norm(name: NormName, channels: int) -> nn.Module:
    if name == "frozen_batch":
        return FrozenBatchNorm2d(channels)
    return nn.GroupNorm(_GROUPS, channels)


def _convolution(
    inputs: int, outputs: int, kernel: int, stride: int = 1, dilation: int = 1
) -> nn.Conv2d:
    padding = kernel // 2 * dilation
    return nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, bias=False)


def _apply(convolution: nn.Conv2d, norm: nn.Module, features: Tensor) -> Tensor:
    if not isinstance(norm, FrozenBatchNorm2d):
        normalised: Tensor = norm(convolution(features))
        return normalised
    # A constant norm is folded into the convolution: one pass over the activations less.
    scale, shift = norm.scale_and_shift()
    weight = convolution.weight * scale.view(-1, 1, 1, 1)
    return F.conv2d(
        features, weight, shift, convolution.stride, convolution.padding, convolution.dilation
    )


class _Block(nn.Module):
    downsample: nn.Sequential | None

    def __init__(self, inputs: int, outputs: int, stride: int, norm: NormName) -> None:
        super().__init__()
        self.downsample = None
        if stride != 1 or inputs != outputs:
            shortcut = _convolution(inputs, outputs, 1, stride)
            self.downsample = nn.Sequential(shortcut, _norm(norm, outputs))

    def _shortcut(self, features: Tensor) -> Tensor:
        if self.downsample is None:
            return features
        convolution, norm = self.downsample
        return _apply(convolution, norm, features)  # type: ignore[arg-type]


class BasicBlock(_Block):
    """Two 3x3 convolutions (ResNet-18 and -34)."""

    expansion = 1

    def __init__(
        self, inputs: int, width: int, stride: int, norm: NormName, dilation: int = 1
    ) -> None:
        super().__init__(inputs, width, stride, norm)
        self.conv1 = _convolution(inputs, width, 3, stride, dilation)
        self.bn1 = _norm(norm, width)
        self.conv2 = _convolution(width, width, 3, dilation=dilation)
        self.bn2 = _norm(norm, width)

    def forward(self, features: Tensor) -> Tensor:
        inner = _apply(self.conv1, self.bn1, features).relu_()
        return (_apply(self.conv2, self.bn2, inner) + self._shortcut(features)).relu_()


class Bottleneck(_Block):
    """1x1, 3x3, 1x1 convolutions (ResNet-50 and deeper)."""

    expansion = 4

    def __init__(
        self, inputs: int, width: int, stride: int, norm: NormName, dilation: int = 1
    ) -> None:
        super().__init__(inputs, width * self.expansion, stride, norm)
        self.conv1 = _convolution(inputs, width, 1)
        self.bn1 = _norm(norm, width)
        self.conv2 = _convolution(width, width, 3, stride, dilation)
        self.bn2 = _norm(norm, width)
        self.conv3 = _convolution(width, width * self.expansion, 1)
        self.bn3 = _norm(norm, width * self.expansion)

    def forward(self, features: Tensor) -> Tensor:
        inner = _apply(self.conv1, self.bn1, features).relu_()
        inner = _apply(self.conv2, self.bn2, inner).relu_()
        return (_apply(self.conv3, self.bn3, inner) + self._shortcut(features)).relu_()


class ResNet(nn.Module):
    """A ResNet without its classifier; parameter names are torchvision's.

    Args:
        block: the residual block.
        depths: blocks in each of the four stages.
        width: channels of the stem, doubled from stage to stage; 64 in the paper.
        norm: `frozen_batch` for ImageNet weights, `group` for training from scratch.
        deep_stem: three 3x3 convolutions, the last one of twice the width, in the place of the 7x7.
        dilations: of the last stage's blocks, the last one for all further blocks; the stride stays
            32.
    """

    def __init__(
        self,
        block: type[BasicBlock] | type[Bottleneck],
        depths: tuple[int, int, int, int],
        *,
        width: int = 64,
        norm: NormName = "frozen_batch",
        deep_stem: bool = False,
        dilations: tuple[int, ...] = (1,),
    ) -> None:
        super().__init__()
        if width % _GROUPS:
            raise RecipeError(f"[proposer] backbone_width: {width} is not a multiple of {_GROUPS}")
        self.stem_depth = 3 if deep_stem else 1
        inputs = self._build_stem(width, norm)
        self.channels = tuple(width * 2**stage * block.expansion for stage in range(4))
        for stage, depth in enumerate(depths):
            blocks = []
            for index in range(depth):
                stride = 2 if stage and not index else 1
                dilation = dilations[min(index, len(dilations) - 1)] if stage == 3 else 1
                blocks.append(block(inputs, width * 2**stage, stride, norm, dilation))
                inputs = self.channels[stage]
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def _build_stem(self, width: int, norm: NormName) -> int:
        """Makes conv1, bn1, ... and says how many channels they end with."""
        if self.stem_depth == 1:
            self.conv1, self.bn1 = _convolution(3, width, 7, 2), _norm(norm, width)
            return width
        for index, (inputs, outputs) in enumerate(((3, width), (width, width), (width, 2 * width))):
            convolution = _convolution(inputs, outputs, 3, stride=1 if index else 2)
            setattr(self, f"conv{index + 1}", convolution)
            setattr(self, f"bn{index + 1}", _norm(norm, outputs))
        return 2 * width

    def forward(self, images: Float[Tensor, "B 3 H W"]) -> list[Float[Tensor, "B _ _ _"]]:
        """Features at strides 4, 8, 16 and 32 of normalised images."""
        # Channels last: the fastest layout for CPUs and tensor cores, kept by all that follows.
        features = images.contiguous(memory_format=torch.channels_last)
        for index in range(1, self.stem_depth + 1):
            convolution, norm = getattr(self, f"conv{index}"), getattr(self, f"bn{index}")
            features = _apply(convolution, norm, features).relu_()
        features = F.max_pool2d(features, 3, 2, padding=1)
        levels = []
        for stage in range(len(self.channels)):
            features = self.get_submodule(f"layer{stage + 1}")(features)
            levels.append(features)
        return levels


class Architecture(NamedTuple):
    """What a ResNet's name stands for; see `ResNet`."""

    block: type[BasicBlock] | type[Bottleneck]
    depths: tuple[int, int, int, int]
    deep_stem: bool = False
    dilations: tuple[int, ...] = (1,)


BackboneName = Literal[
    "resnet10",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet26c",
    "resnet50c",
    "resnet101c",
]
BACKBONES: dict[str, Architecture] = {
    "resnet10": Architecture(BasicBlock, (1, 1, 1, 1)),
    "resnet18": Architecture(BasicBlock, (2, 2, 2, 2)),
    "resnet34": Architecture(BasicBlock, (3, 4, 6, 3)),
    "resnet50": Architecture(Bottleneck, (3, 4, 6, 3)),
    "resnet101": Architecture(Bottleneck, (3, 4, 23, 3)),
    "resnet26c": Architecture(Bottleneck, (2, 2, 2, 2), True, (1, 2)),
    "resnet50c": Architecture(Bottleneck, (3, 4, 6, 3), True, (1, 2, 4)),
    "resnet101c": Architecture(Bottleneck, (3, 4, 23, 3), True, (1, 2, 4)),
}


def resnet(
    name: str, *, width: int = 64, norm: Literal["frozen_batch", "group"] = "frozen_batch"
) -> ResNet:
    """A ResNet by its name.

    Args:
        name: a `BackboneName`; resnet10 has one basic block a stage, those with a `c` are
            DeepLab's.
        width: channels of the stem.
        norm: `frozen_batch` for ImageNet weights, `group` for training from scratch.

    Raises:
        RecipeError: a width that groups cannot share out.
    """
    return ResNet(width=width, norm=norm, **BACKBONES[name]._asdict())


def freeze(backbone: nn.Module, stages: int) -> None:
    """Keeps the first stages of a backbone as they are.

    Args:
        backbone: changed in place; its stages are layer1 to layer4, and all else is its stem.
        stages: 0 for none, 1 for the stem alone, 5 for all.
    """
    layers = ("layer1", "layer2", "layer3", "layer4")
    stem = tuple(name for name, _ in backbone.named_children() if name not in layers)
    for names in (stem, *((layer,) for layer in layers))[:stages]:
        for name in names:
            backbone.get_submodule(name).requires_grad_(False)
