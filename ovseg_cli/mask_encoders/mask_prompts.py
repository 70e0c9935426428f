"""Mask prompts: learned tokens where a masked crop shows nothing.

OVSeg (Liang et al., CVPR 2023), section 3.3. A position's prompts are the same in every image; CLIP
stays as it is, and a crop without blank patches is encoded as without prompts.
"""

import torch
from jaxtyping import Float
from pydantic import PositiveInt
from torch import Tensor, nn

from ovseg_cli.clip.crop_tower import check_prompts_fit
from ovseg_cli.clip.encoder import ClipEncoder

INITIAL_DEVIATION = 0.02


class MaskPrompts(nn.Module):
    """A vector a patch for each of the tower's first layers, from N(0, 0.02) as released.

    Args:
        depth: of how many layers, from the first.
        patches: P, the tower's patches.
        width: C, its channels.
        seed: of the random beginning.
    """

    def __init__(
        self, *, depth: PositiveInt, patches: PositiveInt, width: PositiveInt, seed: int = 0
    ) -> None:
        super().__init__()
        source = torch.Generator().manual_seed(seed)
        start = torch.randn(depth, patches, width, generator=source, device="cpu")
        self.prompts = nn.Parameter(start * INITIAL_DEVIATION)

    @classmethod
    def of(
        cls, clip: ClipEncoder, *, depth: int, side: int | None = None, seed: int = 0
    ) -> "MaskPrompts":
        """Prompts that fit a CLIP's image tower.

        Args:
            clip: whose image tower is a plain vision transformer.
            depth: 1 to its layers.
            side: of the crops in pixels; None for the tower's resolution.
            seed: of the random beginning.

        Raises:
            CheckpointError: a tower of another kind, or of fewer layers.
        """
        check_prompts_fit(clip.model.visual, depth)
        width = clip.visual.positional_embedding.shape[1]
        patches = ((side or clip.resolution) // clip.visual.patch_size[0]) ** 2
        return cls(depth=depth, patches=patches, width=width, seed=seed)

    def forward(self) -> Float[Tensor, "depth P C"]:
        """The prompts."""
        return self.prompts
