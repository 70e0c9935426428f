"""How the time and memory of mining grow with the captions; networks would only add a constant.

python tests/benchmarks/mining.py --captions 1000 10000 100000 --tagger rules
Captions are those of OVSEG_SAMPLES in turn, five an image; the
masks and embeddings of an image are random, 100 an image of 120 x 160 pixels, and all else is what
`ovseg mine-captions` runs. One process a size, one thread; a line of JSON each.
"""

import argparse
import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

SAMPLES = Path(os.environ.get("OVSEG_SAMPLES", Path(__file__).parents[3] / "shared" / "data"))
DIM, MASKS, PER_IMAGE, SIZE = 512, 100, 5, (120, 160)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--captions", type=int, nargs="+", default=[1000, 10_000])
    parser.add_argument("--tagger", choices=("rules", "perceptron"), default="rules")
    parser.add_argument("--one", action="store_true", help="measure in this process")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measured(options.captions[0], options.tagger)))
        return
    for count in options.captions:
        command = [sys.executable, __file__, "--one", "--captions", str(count)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run([*command, "--tagger", options.tagger], env=environment, check=True)


def measured(count: int, tagger_name: str) -> dict[str, object]:
    import torch
    from PIL import Image

    from ovseg_cli.mining.batches import (
        all_figures,
        count_nouns,
        find_nouns,
        mine_batches,
        nouns_of_batch,
    )
    from ovseg_cli.mining.noun_embeddings import NounEmbeddings
    from ovseg_cli.mining.nouns import NounOptions
    from ovseg_cli.mining.pairing import Pairing, PairingOptions
    from ovseg_cli.mining.shards import PairFiles
    from ovseg_cli.mining.taggers import chosen_tagger

    torch.set_num_threads(1)
    tagger = chosen_tagger(tagger_name)
    tagger.tag("a dog")  # what is loaded once is no part of the growth
    rows = torch.arange(SIZE[0])[None, :, None]
    masks = (rows >= torch.arange(MASKS)[:, None, None]).expand(-1, -1, SIZE[1]).contiguous()
    embeddings = torch.randn(MASKS, DIM, generator=torch.Generator().manual_seed(0))

    class Synthetic(Pairing):
        def _proposals(self, pixels, clock):
            return masks, embeddings, torch.ones(MASKS, dtype=torch.bool)

    def encode_text(texts):
        return torch.randn(len(texts), DIM, generator=torch.Generator().manual_seed(len(texts)))

    at_start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    parts, last = {}, time.process_time()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        Image.new("RGB", SIZE[::-1]).save(folder / "a.png")
        files = PairFiles(folder / "pairs")
        files.begin("benchmark", restart=False)
        read = partial(nouns_of_batch, tagger=tagger, options=NounOptions(), captions="all")
        find_nouns(records(count), files, read, batch_images=200)
        parts["captions"], last = time.process_time() - last, time.process_time()
        nouns = count_nouns(files)
        table = NounEmbeddings(files.work, nouns)
        table.make(encode_text, templates=("{}",))
        parts["embeddings"], last = time.process_time() - last, time.process_time()
        mine_batches(files, Synthetic(None, table, PairingOptions(), folder))
        parts["pairs"] = time.process_time() - last
        pairs = all_figures(files).pairs
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "captions": count,
        "tagger": tagger_name,
        "pairs": pairs,
        "unique_nouns": len(nouns),
        "cpu_seconds": {part: round(seconds, 2) for part, seconds in parts.items()},
        "start_mib": at_start // 1024,
        "peak_mib": peak // 1024,
    }


def records(count: int):
    from ovseg_cli.datasets.caption_records import CaptionRecord

    files = (SAMPLES / "coco_captions_sugarcrepe" / "data").glob("*.json")
    entries = (json.loads(file.read_text(encoding="utf-8")).values() for file in files)
    texts = sorted({entry["caption"] for entry in itertools.chain(*entries)})
    spoken = itertools.cycle(texts)
    for number in range(count // PER_IMAGE):
        captions = tuple(itertools.islice(spoken, PER_IMAGE))
        yield CaptionRecord("a.png", number, SIZE, captions)


if __name__ == "__main__":
    main()
