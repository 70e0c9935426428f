"""A segmenter whose words are constants, as a module from pixels to masks and probabilities."""

import math
from typing import Any

from jaxtyping import Float, UInt8
from torch import Tensor, nn

from ovseg_cli.errors import UsageError
from ovseg_cli.mask_encoders import LeavesMasksOut
from ovseg_cli.proposers import FolderMasks, MaskRcnn, SamMasks
from ovseg_cli.segmenter import Segmenter
from ovseg_cli.structures import Frame, FramedImage, Vocabulary

STRIDE = 32  # of every backbone's coarsest level


class WordedSegmenter(nn.Module):
    """Masks and class probabilities of images of one size.

    Args:
        segmenter: in float32; its parts are shared.
        vocabulary: K classes; their texts are encoded here.
        size: height and width in pixels of every image.

    Raises:
        UsageError: a size that the networks do not take as it is; a part whose work depends on what
            is in the image, so that no fixed graph does it.
        VocabularyError: a word is too long for the text tower.
    """

    def __init__(self, segmenter: Segmenter, vocabulary: Vocabulary, size: tuple[int, int]) -> None:
        super().__init__()
        check_parts(segmenter)
        check_size(size, segmenter.framing.size_divisor)
        self.segmenter, self.vocabulary, self.size = segmenter, vocabulary, size
        segmenter.text_embeddings(vocabulary)
        parts: list[Any] = [
            segmenter.proposer_for(vocabulary),
            segmenter.mask_encoder,
            segmenter.in_vocabulary,
        ]
        self.parts = nn.ModuleList(part for part in parts if isinstance(part, nn.Module))
        self.requires_grad_(False).eval()

    def forward(
        self, image: UInt8[Tensor, "1 3 H W"]
    ) -> tuple[Float[Tensor, "N h w"], Float[Tensor, "N K"]]:
        """Mask logits over the whole image, above 0 inside, and class probabilities.

        Args:
            image: RGB of the module's size.
        """
        frame = Frame(self.size, self.size, self.size, self.segmenter.framing.align_corners)
        framed = self.segmenter.read(FramedImage(image[0].float(), frame))
        proposals = self.segmenter.propose(framed, self.vocabulary)
        encoded, probabilities = self.segmenter.classify(framed, proposals, self.vocabulary)
        return encoded.mask_logits.float(), probabilities


def check_size(size: tuple[int, int], divisor: int) -> None:
    """Refuses sizes that would have to be padded.

    Args:
        size: height and width in pixels.
        divisor: the recipe's `framing.size_divisor`.

    Raises:
        UsageError: a side is no multiple of it and of 32; the message names the next that is.
    """
    step = math.lcm(divisor, STRIDE)
    if min(size) >= 1 and not any(side % step for side in size):
        return
    near = ",".join(str(max(1, round(side / step)) * step) for side in size)
    raise UsageError(
        f"--size {size[0]},{size[1]}: height and width must be multiples of {step}; give {near}"
    )


def check_parts(segmenter: Segmenter) -> None:
    """Refuses parts that no fixed graph can do the work of.

    Args:
        segmenter: any.

    Raises:
        UsageError: the first such part, and why.
    """
    reasons = {
        FolderMasks: "proposer folder: it reads masks from files",
        SamMasks: "proposer sam: Segment Anything's masks come of prompts and filters in Python",
        MaskRcnn: "proposer mask_rcnn: how many boxes it keeps depends on the image",
    }
    for kind, reason in reasons.items():
        if isinstance(segmenter.proposer, kind):
            raise UsageError(f"{reason}, which an ONNX file cannot; export another proposer")
    for encoder in (segmenter.mask_encoder, segmenter.in_vocabulary):
        if isinstance(encoder, LeavesMasksOut):
            raise UsageError(
                "mask_encoder masked_crops: which crops it cuts depends on the masks found, which "
                "an ONNX file cannot do; set mask_encoder.name to another one, such as "
                "mask_class_tokens"
            )
