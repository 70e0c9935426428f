"""FC-CLIP with ConvNeXt-L beside the plain one: time, FLOPs, peak memory and agreement, by part.

    python tests/benchmarks/fcclip.py [--repeats 5] [--skip-vocabularies]

An image of 800x1066 (padded to 800x1088), 250 queries, 133 classes of 254 names, semantic, panoptic
and instance results. Weights are random and texts are given; void is so unlikely that every mask is
kept, as it was where the released code was measured. One process, one thread, whole passes of both
in turn; times are CPU seconds (medians). The peer is `tests/plain/fcclip.py`; ours makes the three
results together. FLOPs are two a multiply-add of products, convolutions and attention. Memory is
the most that tensors hold during a part, above what was there before the image: weights and texts.
`released` quotes what the released code took, on another day of a busy machine.

Then the classification and the results of vocabularies of 20 words and of 1,203 words of 2,500
names, of the same masks, with the texts' embeddings kept from before.
"""

import argparse
import itertools
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.mask_class_tokens import FUSED_ON_CPU, peak_megabytes

from ovseg_cli.clip.encoder import ClipEncoder  # first: it makes torchvision importable

import open_clip  # isort: skip
import torch
from open_clip.model import CLIPTextCfg, CLIPVisionCfg
from plain.fcclip import PlainFcclip, Settings, Words
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from ovseg_cli.classification import Classification
from ovseg_cli.datasets.framing import frame_image
from ovseg_cli.inference import InferenceOptions, Task
from ovseg_cli.mask_encoders.mask_pooling import MaskPooling
from ovseg_cli.proposers.mask2former.clip_model import ClipMask2Former
from ovseg_cli.segmenter import Segmenter
from ovseg_cli.structures import FramedImage, Vocabulary

ARCHITECTURE = "convnext_large_d_320"
SIZE = (800, 1066)
SEEN_EVERY = 2  # every second class is seen
RELEASED = {  # GFLOP and CPU seconds
    "backbone": (1192.1, 12.2),
    "pixel decoder": (237.5, 11.5),
    "mask decoder": (178.0, 6.0),
    "out of vocabulary": (2.5, 0.03),
    "semantic": (56.7, 1.7),
    "panoptic": (0.0, 4.7),
    "instance": (0.0, 1.5),
    "classes and upsampling": (0.0, 2.2),
    "whole": (1666.8, 39.7),
}


class NearbyTexts(ClipEncoder):
    """A CLIP without a text tower: each text lies near what one of the masks is embedded as.

    Random weights embed all masks much alike. Words that tell them apart have to lie where they
    differ, and across what they have in common.
    """

    def lie_near(self, *embeddings: Tensor) -> None:
        """Where the next texts are to be: by the sum of what each (N, D) gives for a mask."""
        means = torch.stack([rows.mean(0) for rows in embeddings])
        places = sum(F.normalize(rows - rows.mean(0), dim=-1) for rows in embeddings)
        common = torch.linalg.qr(means.T).Q  # (D, 2)
        self.places = places - places @ common @ common.T

    def encode_text(self, texts: Any, batch_size: int = 128) -> Tensor:
        return self.places[torch.arange(len(texts)) % len(self.places)]


@dataclass
class Recorder:
    """CPU seconds and FLOPs of the parts of a pass."""

    seconds: dict[str, float] = field(default_factory=dict)
    gflop: dict[str, float] = field(default_factory=dict)
    counter: FlopCounterMode | None = None

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What is inside belongs to the part; parts that come again add up."""
        start, before = time.process_time(), self.counted()
        with torch.profiler.record_function(f"part:{name}"):
            yield
        taken = time.process_time() - start
        self.seconds[name] = self.seconds.get(name, 0.0) + taken
        self.gflop[name] = self.gflop.get(name, 0.0) + self.counted() - before

    def counted(self) -> float:
        return self.counter.get_total_flops() / 1e9 if self.counter else 0.0


Pass = Callable[[Recorder], dict[str, Tensor]]


def random_system() -> tuple[NearbyTexts, ClipMask2Former]:
    """The published sizes; offsets, attention and masks vary as after training."""
    torch.manual_seed(0)
    config = open_clip.get_model_config(ARCHITECTURE)
    assert config is not None
    text = CLIPTextCfg(width=8, heads=2, layers=1, vocab_size=16, context_length=8)
    vision = CLIPVisionCfg(**config["vision_cfg"])
    clip = NearbyTexts(open_clip.CLIP(config["embed_dim"], vision, text).eval())
    model = ClipMask2Former(clip=clip).eval()
    for layer in model.pixel_decoder.layers:
        torch.nn.init.normal_(layer.attention.offsets.weight, std=0.05)
        torch.nn.init.normal_(layer.attention.attention.weight, std=0.1)
    torch.nn.init.normal_(model.mask_decoder.mask_head[-1].weight, std=0.3)
    return clip.requires_grad_(False), model.requires_grad_(False)


def vocabulary_of(classes: int, names: int) -> Vocabulary:
    """Every class has a name, and the rest of the names are synonyms of the classes in turn."""
    synonyms = [[f"class {index}"] for index in range(classes)]
    for index in range(names - classes):
        synonyms[index % classes].append(f"other name {index}")
    return Vocabulary(
        tuple(words[0] for words in synonyms),
        tuple(tuple(words) for words in synonyms),
        tuple(index % 5 < 3 for index in range(classes)),
        tuple(index % SEEN_EVERY == 0 for index in range(classes)),
    )


def segmenter_of(clip: ClipEncoder, model: ClipMask2Former) -> Segmenter:
    """The released configuration."""
    classification = Classification(
        scale="clip", background=None, synonyms="max", object_score=False, ensemble="geometric"
    )
    inference = InferenceOptions(
        object_threshold=0.0, overlap_threshold=0.8, reject_background=True
    )
    return Segmenter(
        model, MaskPooling(clip), clip, classification=classification, inference=inference
    )


def our_pass(segmenter: Segmenter, image: Tensor, vocabulary: Vocabulary) -> Pass:
    """From the image to the three results, which share their upsampling."""
    model = segmenter.proposer
    assert isinstance(model, ClipMask2Former)

    def run(recorder: Recorder) -> dict[str, Tensor]:
        with recorder.part("backbone"):
            framed = segmenter.frame(image)
        with inner_parts(recorder, model):
            proposals = segmenter.propose(framed)
        with recorder.part("out of vocabulary"):
            encoded = segmenter.encode(framed, proposals)
        with recorder.part("classes and upsampling"):
            logits = segmenter.logits(framed, proposals, vocabulary, encoded=encoded)
            seen = segmenter.seen(vocabulary)
            probabilities = segmenter.classification.combine(logits, seen=seen)
        with recorder.part("all three"):
            found = segmenter.infer(encoded, probabilities, proposals, vocabulary)
        assert found.instances is not None
        assert found.semantic is not None
        assert found.panoptic is not None
        return {
            "masks": proposals.mask_logits,
            "probabilities": probabilities,
            "semantic": found.semantic,
            "panoptic": found.panoptic,
            "scores": found.instances.scores,
        }

    return run


@contextmanager
def inner_parts(recorder: Recorder, model: ClipMask2Former) -> Iterator[None]:
    """Both decoders as parts, while the proposer calls them."""
    names = {model.pixel_decoder: "pixel decoder", model.mask_decoder: "mask decoder"}
    running = []
    hooks = []
    for module, name in names.items():

        def begin(*_: object, name: str = name) -> None:
            running.append(recorder.part(name))
            running[-1].__enter__()

        def end(*_: object) -> None:
            running.pop().__exit__(None, None, None)

        hooks += [module.register_forward_pre_hook(begin), module.register_forward_hook(end)]
    yield
    for hook in hooks:
        hook.remove()


def peer_pass(peer: PlainFcclip, framed: FramedImage) -> Pass:
    """The same by the peer, a result at a time."""

    def run(recorder: Recorder) -> dict[str, Tensor]:
        with recorder.part("backbone"):
            levels = peer.levels(peer.model.dense.normalise(framed)[None])
        with recorder.part("pixel decoder"):
            pixels = peer.pixels(levels)
        with recorder.part("mask decoder"):
            inside, masks = (tensor[0] for tensor in peer.predictions(pixels)[-1])
        with recorder.part("out of vocabulary"):
            embeddings = peer.mask_embeddings(levels[-1], masks)
            outside = peer.class_logits(embeddings, peer.clip_scale())
        with recorder.part("classes and upsampling"):
            class_log = peer.ensemble(inside, outside, masks, levels[-1])
            upsampled = peer.upsampled(masks, framed.frame)
        with recorder.part("semantic"):
            semantic = peer.semantic(class_log, upsampled).argmax(0)
        with recorder.part("panoptic"):
            panoptic, _ = peer.panoptic(class_log, upsampled)
        with recorder.part("instance"):
            found = peer.instances(class_log, upsampled)
        return {
            "masks": masks,
            "probabilities": class_log[:, :-1].exp(),
            "semantic": semantic,
            "panoptic": panoptic,
            "scores": found.scores[found.masks.flatten(1).any(1)].sort(descending=True).values,
        }

    return run


def counted(work: Pass) -> tuple[dict[str, Tensor], dict[str, float]]:
    """A pass and the GFLOP of its parts and of the whole."""
    with FlopCounterMode(display=False, custom_mapping=FUSED_ON_CPU) as counter:
        recorder = Recorder(counter=counter)
        results = work(recorder)
    return results, {**recorder.gflop, "whole": sum(recorder.gflop.values())}


def peak_megabytes_of_parts(work: Pass) -> dict[str, float]:
    """Of a pass of its own: the counter of FLOPs takes resizing apart, which costs memory."""
    cpu = torch.profiler.ProfilerActivity.CPU
    with torch.profiler.profile(activities=[cpu], profile_memory=True) as profile:
        work(Recorder())
    events = profile.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    held = list(itertools.accumulate(size for _, size in changes))
    peaks = {"whole": max(held) / 1e6}
    for event in events:
        if event.name().startswith("part:"):
            start, end = event.start_ns(), event.start_ns() + event.duration_ns()
            inside = [
                total
                for (moment, _), total in zip(changes, held, strict=True)
                if start <= moment <= end
            ]
            peaks[event.name().removeprefix("part:")] = max(inside, default=0) / 1e6
    return peaks


def compare(passes: dict[str, Pass], repeats: int) -> dict[str, float]:
    """Prints the table of both, and gives the median seconds of our parts."""
    results, gflop, peaks = {}, {}, {}
    for side, work in passes.items():
        results[side], gflop[side] = counted(work)
        peaks[side] = peak_megabytes_of_parts(work)
    taken: dict[str, list[dict[str, float]]] = {side: [] for side in passes}
    for _ in range(repeats):
        for side, work in passes.items():
            recorder = Recorder()
            work(recorder)
            taken[side].append(recorder.seconds)
    seconds = {side: medians(rows) for side, rows in taken.items()}
    print_differences(results["ours"], results["peer"])
    print(
        f"{'part':24}{'ours s':>8}{'peer s':>8}{'ratio':>7}{'ours GF':>9}{'peer GF':>9}"
        f"{'ours MB':>9}{'peer MB':>9}{'ratio':>7}{'released GF':>13}{'s':>6}"
    )
    for name in dict.fromkeys([*seconds["peer"], *seconds["ours"], "whole"]):
        columns = [
            pair(seconds, name, 8, 2),
            pair(gflop, name, 9, 1, ratio=False),
            pair(peaks, name, 9, 0),
        ]
        quoted = RELEASED.get(name)
        print(
            f"{name:24}{''.join(columns)}"
            + (f"{quoted[0]:13.1f}{quoted[1]:6.1f}" if quoted else "")
        )
    return seconds["ours"]


def medians(rows: list[dict[str, float]]) -> dict[str, float]:
    """Of every part, and of the whole passes."""
    found = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
    found["whole"] = statistics.median(sum(row.values()) for row in rows)
    return found


def pair(
    sides: dict[str, dict[str, float]], name: str, width: int, digits: int, *, ratio: bool = True
) -> str:
    """Ours, the peer's and their ratio; blank where a side has no such part."""
    ours, theirs = (sides[side].get(name) for side in ("ours", "peer"))
    text = "".join(
        f"{value:{width}.{digits}f}" if value is not None else " " * width
        for value in (ours, theirs)
    )
    if not ratio:
        return text
    return text + (f"{ours / theirs:7.2f}" if ours is not None and theirs else " " * 7)


def print_differences(ours: dict[str, Tensor], peer: dict[str, Tensor]) -> None:
    """The largest difference of numbers, the share of pixels that differ of maps."""
    for name, expected in peer.items():
        found = ours[name]
        if found.shape != expected.shape:
            print(f"{name}: {tuple(found.shape)} beside the peer's {tuple(expected.shape)}")
        elif found.is_floating_point():
            difference = (found - expected).abs().amax().item() if len(found) else 0.0
            print(f"{name} {tuple(found.shape)}: largest difference {difference:.1e}")
        else:
            differs = (found != expected).float().mean().item()
            values = len(expected.unique())
            print(f"{name}: {differs:.2%} of pixels differ, of {values} values")


def vocabularies(segmenter: Segmenter, image: Tensor, network_seconds: float, repeats: int) -> None:
    """What a large vocabulary costs beside a small one, of the same masks."""
    framed = segmenter.frame(image)
    proposals = segmenter.propose(framed)
    small, large = vocabulary_of(20, 20), vocabulary_of(1203, 2500)
    tasks: dict[str, tuple[Task, ...]] = {
        "panoptic and instance": ("panoptic", "instance"),
        "semantic": ("semantic",),
    }
    for name, wanted in tasks.items():

        def run(vocabulary: Vocabulary, wanted: tuple[Task, ...] = wanted) -> None:
            encoded, probabilities = segmenter.classify(framed, proposals, vocabulary)
            segmenter.infer(encoded, probabilities, proposals, vocabulary, tasks=wanted)

        peaks, times = [], [[], []]
        for vocabulary in (small, large):
            segmenter.text_embeddings(vocabulary)
            peaks.append(peak_megabytes(torch.device("cpu"), lambda v=vocabulary: run(v)))
        for _ in range(repeats):
            for index, vocabulary in enumerate((small, large)):
                start = time.process_time()
                run(vocabulary)
                times[index].append(time.process_time() - start)
        few, many = (statistics.median(row) for row in times)
        print(
            f"{name}: 20 words {few:.2f} s {peaks[0]:.0f} MB, 1,203 words {many:.2f} s "
            f"{peaks[1]:.0f} MB; from the image on {network_seconds + few:.2f} s and "
            f"{network_seconds + many:.2f} s, ratio "
            f"{(network_seconds + many) / (network_seconds + few):.3f}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--skip-vocabularies", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    clip, model = random_system()
    segmenter, vocabulary = segmenter_of(clip, model), vocabulary_of(133, 254)
    image = torch.randint(0, 256, (3, *SIZE), dtype=torch.uint8)
    with torch.inference_mode():
        framed = segmenter.frame(image)
        proposals = segmenter.propose(framed)
        assert proposals.embeddings is not None
        encoded = segmenter.encode(framed, proposals)
        clip.lie_near(proposals.embeddings, encoded.embeddings)
        model.void_embedding.weight.data = -proposals.embeddings.mean(0, keepdim=True)
        del framed, proposals, encoded
        texts = segmenter.text_embeddings(vocabulary)
        words = Words(
            F.normalize(texts.embeddings, dim=-1),
            tuple(len(words) for words in vocabulary.synonyms),
            torch.tensor(vocabulary.seen),
            torch.tensor(vocabulary.is_thing),
        )
        framed = frame_image(image, **asdict(segmenter.framing))
        passes = {
            "ours": our_pass(segmenter, image, vocabulary),
            "peer": peer_pass(PlainFcclip(model, clip, words, Settings()), framed),
        }
        seconds = compare(passes, options.repeats)
        if not options.skip_vocabularies:
            network = sum(seconds[n] for n in ("backbone", "pixel decoder", "mask decoder"))
            vocabularies(segmenter, image, network, options.repeats)


if __name__ == "__main__":
    main()
