"""What the parts hand to one another.

Shapes: B images, N proposals, M annotated masks, K classes, T texts, D joint embedding, H W pixels,
h w feature grid. Sizes are (height, width), boxes xyxy in pixels, images uint8 RGB.
"""

from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

VOID = -1  # in a semantic map: none of the classes


@dataclass(frozen=True)
class Frame:
    """Where an image lies in a network's input; all sizes are (height, width) in pixels.

    The original image was resized to `resized` and padded at the bottom and right to `padded`.
    Mask logits cover the padded frame: their cells tile it, or with `align_corners` the centres of
    the outermost cells lie on those of the outermost pixels.
    """

    padded: tuple[int, int]
    resized: tuple[int, int]
    original: tuple[int, int]
    align_corners: bool = False


@dataclass(frozen=True)
class EncodedImage:
    """CLIP's dense features of an image, before any step into the joint space.

    Attributes:
        levels: (C, h, w) each, fine to coarse, of the padded frame: at strides 4, 8, 16 and 32 of a
            convolutional tower, the patches alone of a vision transformer.
    """

    levels: tuple[Float[Tensor, "_ _ _"], ...]


@dataclass(frozen=True)
class FramedImage:
    """An image as networks see it: resized and padded with zeros, before any normalisation.

    Attributes:
        pixels: (3, H, W) RGB, 0 to 255, of size `frame.padded`.
        frame: how the pixels lie in the original image.
        encoded: the frozen CLIP's dense features, where several parts read them.
        name: the image file's name, where there is one: what a folder of masks is looked up by.
    """

    pixels: Float[Tensor, "3 H W"]
    frame: Frame
    encoded: EncodedImage | None = None
    name: str | None = None


@dataclass(frozen=True)
class Sample:
    """An annotated image.

    Attributes:
        image: (3, H, W) uint8 RGB.
        image_id: the annotation file's id.
        file_name: the image's name as the annotation file has it.
        masks: (M, H, W) True inside, one an annotated segment.
        labels: (M,) indices into the dataset's vocabulary.
        is_crowd: (M,) COCO's crowd flag.
        captions: sentences about the image, possibly none.
        absent: in LVIS, classes that were looked for and are not there; None where all were.
        incomplete: in LVIS, classes of which not every object is annotated.
    """

    image: UInt8[Tensor, "3 H W"]
    image_id: int
    file_name: str
    masks: Bool[Tensor, "M H W"]
    labels: Int[Tensor, " M"]
    is_crowd: Bool[Tensor, " M"]
    captions: tuple[str, ...] = ()
    absent: tuple[int, ...] | None = None
    incomplete: tuple[int, ...] = ()


@dataclass(frozen=True)
class Vocabulary:
    """The classes to tell apart.

    Attributes:
        names: one display name a class, all different.
        synonyms: for each class the words that stand for it, the first one its name.
        is_thing: for each class True for things, False for stuff.
        seen: for each class True where training had masks of it; empty if not known.
    """

    names: tuple[str, ...]
    synonyms: tuple[tuple[str, ...], ...]
    is_thing: tuple[bool, ...]
    seen: tuple[bool, ...] = ()

    def __post_init__(self) -> None:
        for name, values in (("synonyms", self.synonyms), ("is_thing", self.is_thing)):
            if len(values) != len(self.names):
                raise ValueError(f"{name}: {len(values)} entries for {len(self.names)} names")
        if self.seen and len(self.seen) != len(self.names):
            raise ValueError(f"seen: {len(self.seen)} entries for {len(self.names)} names")

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class TextEmbeddings:
    """The words of a vocabulary in CLIP's joint space.

    Attributes:
        embeddings: (T, D) one a text, not normalised (synonyms are averaged before normalising).
        class_of: (T,) the class of each text, 0 to K-1, ascending; every class has at least one.
        has_background: True where the last class is the background, which is no class of the
            vocabulary: it takes part in the softmax and is then dropped.
    """

    embeddings: Float[Tensor, "T D"]
    class_of: Int[Tensor, " T"]
    has_background: bool = False

    def to(self, device: torch.device) -> "TextEmbeddings":
        """The same on another device."""
        embeddings, class_of = self.embeddings.to(device), self.class_of.to(device)
        return TextEmbeddings(embeddings, class_of, self.has_background)


@dataclass(frozen=True)
class Proposals:
    """Class-agnostic masks.

    Attributes:
        mask_logits: (N, h, w) above 0 is inside; they cover `frame.padded` at the proposer's
            stride.
        frame: how the mask logits lie in the image.
        scores: (N,) object scores, 0 to 1.
        embeddings: (N, D) the head's own embeddings in CLIP's space, where it has them.
        no_object: (D,) the head's void embedding.
        logit_scale: the head's learned temperature.
    """

    mask_logits: Float[Tensor, "N h w"]
    frame: Frame
    scores: Float[Tensor, " N"]
    embeddings: Float[Tensor, "N D"] | None = None
    no_object: Float[Tensor, " D"] | None = None
    logit_scale: float | Float[Tensor, ""] | None = None


@dataclass(frozen=True)
class EncodedMasks:
    """Proposals seen by CLIP.

    Attributes:
        embeddings: (N, D) in CLIP's joint space, of any length.
        mask_logits: (N, h, w) as proposed, or refined by the encoder.
        valid: (N,) False where the encoder has nothing to say about a mask.
    """

    embeddings: Float[Tensor, "N D"]
    mask_logits: Float[Tensor, "N h w"]
    valid: Bool[Tensor, " N"]


@dataclass(frozen=True)
class Segment:
    """One segment of a panoptic map: id (1..), class index, score 0..1, area in pixels."""

    id: int
    label: int
    is_thing: bool
    score: float
    area: int


@dataclass(frozen=True)
class Instances:
    """Scored masks of things.

    Attributes:
        masks: (I, H, W) True inside.
        labels: (I,) class indices.
        scores: (I,) descending, 0 to 1.
    """

    masks: Bool[Tensor, "I H W"]
    labels: Int[Tensor, " I"]
    scores: Float[Tensor, " I"]

    def cpu(self) -> "Instances":
        """The same on the CPU."""
        return Instances(self.masks.cpu(), self.labels.cpu(), self.scores.cpu())


@dataclass(frozen=True)
class Segmentation:
    """The result for one image, of the original image's size; what was not asked for is None.

    Attributes:
        panoptic: (H, W) int32 segment ids, 0 is void.
        segments: the segments of the panoptic map.
        semantic: (H, W) int64 class indices, -1 where void was asked for and is.
        instances: scored thing masks.
    """

    panoptic: Int[Tensor, "H W"] | None = None
    segments: tuple[Segment, ...] = field(default=())
    semantic: Int[Tensor, "H W"] | None = None
    instances: Instances | None = None

    def cpu(self) -> "Segmentation":
        """The same on the CPU."""
        return replace(
            self,
            panoptic=None if self.panoptic is None else self.panoptic.cpu(),
            semantic=None if self.semantic is None else self.semantic.cpu(),
            instances=None if self.instances is None else self.instances.cpu(),
        )
