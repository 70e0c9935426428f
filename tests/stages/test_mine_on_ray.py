"""Mining by two workers of a local cluster, beside the same mining in one process."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from untrained_run import untrained_run

from ovseg_cli.errors import UsageError
from ovseg_cli.mining.ray_engine import Workers, mine_on_cluster
from ovseg_cli.mining.shards import PairFiles
from ovseg_cli.run import Run
from ovseg_cli.stages.make_shapes import ShapesOptions, make_shapes
from ovseg_cli.stages.mine_captions import mine_captions
from ovseg_cli.stages.session import Settings

IMAGES = 8
COUNTS = {
    "train": 0, "val": IMAGES, "test": 0, "pairs_easy": 0, "pairs_crop": 0, "pairs_window": 0,
}  # fmt: skip
MINE = {"tagger": "rules", "shard_images": 1, "captions": "all", "workers": 2}
STORE_BYTES = 80_000_000


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "shapes"
    make_shapes(folder, ShapesOptions(**COUNTS))
    return folder


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return untrained_run(tmp_path_factory.mktemp("run") / "run")


@pytest.fixture
def run(trained, tmp_path):
    return Path(shutil.copytree(trained, tmp_path / "run"))


@pytest.fixture(scope="module")
def whole(trained, shapes, tmp_path_factory):
    """The shards of one process that nobody stopped."""
    run = Path(shutil.copytree(trained, tmp_path_factory.mktemp("whole") / "run"))
    mined(run, shapes, "single")
    return shards(run)


@pytest.fixture
def cluster():
    """Two machines with a core each, and no driver."""
    cluster_utils = pytest.importorskip("ray.cluster_utils", reason="Ray is not installed")
    machine = {"num_cpus": 1, "object_store_memory": STORE_BYTES}
    made = cluster_utils.Cluster(
        initialize_head=True, head_node_args={**machine, "include_dashboard": False}
    )
    made.add_node(**machine)
    yield made
    made.shutdown()


def mined(run, shapes, engine, **options):
    recipe = Run(run).recipe()
    sections = {**recipe.sections, "mine_captions": {**MINE, **options}}
    settings = Settings(Run(run), replace(recipe, sections=sections))
    return mine_captions(settings, folder=shapes, split="val", engine=engine)


def shards(run):
    return {path.name: path.read_bytes() for path in (run / "pairs").glob("shard-*.jsonl")}


def after_the_first_shard(monkeypatch, act):
    write_shard, written = PairFiles.write_shard, []

    def watched(self, batch, records, figures):
        write_shard(self, batch, records, figures)
        written.append(batch)
        if len(written) == 1:
            act()

    monkeypatch.setattr(PairFiles, "write_shard", watched)
    return written


def kill_a_worker():
    import ray

    actors = ray._private.state.actors().values()
    workers = [actor for actor in actors if actor["ActorClassName"].startswith("MapWorker")]
    assert len(workers) == 2
    os.kill(next(worker["Pid"] for worker in workers if worker["Pid"]), signal.SIGKILL)


def test_workers_make_the_same_shards_with_one_of_them_killed(
    run, shapes, whole, cluster, monkeypatch
):
    assert len(whole) == IMAGES
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    written = after_the_first_shard(monkeypatch, kill_a_worker)
    outcome = mined(run, shapes, "ray")
    assert sorted(written) == list(range(IMAGES))
    assert shards(run) == whole
    assert outcome.results["images"] == IMAGES
    statistics = json.loads((run / "pairs" / "statistics.json").read_text())
    assert statistics["pairs"] == b"".join(whole.values()).count(b"\n") > 0
    assert mined(run, shapes, "single").already_done  # the engine decides nothing


def test_an_interruption_keeps_finished_shards_and_another_engine_goes_on(run, shapes, whole):
    """Without RAY_ADDRESS: a cluster of its own."""
    pytest.importorskip("ray.data", reason="Ray is not installed")
    code = (
        "import os, signal, threading\n"
        "from ovseg_cli.mining.shards import PairFiles\n"
        "from ovseg_cli.cli import main\n"
        "write = PairFiles.write_shard\n"
        "def stopped(self, *shard):\n"
        "    PairFiles.write_shard = write\n"
        "    write(self, *shard)\n"
        "    threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
        "PairFiles.write_shard = stopped\n"
        "main()\n"
    )
    options = [f"--set=mine_captions.{key}={value}" for key, value in MINE.items()]
    command = [sys.executable, "-c", code, "mine-captions", str(shapes), "--split=val"]
    command += [f"--run={run}", "--device=cpu", "--engine=ray", *options]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 130, done.stderr
    assert "finished shards are kept" in done.stderr
    kept = shards(run)
    assert 0 < len(kept) < IMAGES
    mined(run, shapes, "single")
    assert shards(run) == whole == {**whole, **kept}


@pytest.fixture
def waiting(tmp_path):
    """The files of a mining with a batch that nobody has mined."""
    files = PairFiles(tmp_path / "pairs")
    files.begin("of these settings", restart=False)
    files.write_nouns(0, [])
    files.all_read(1)
    return files


def workers(count=None, gpus=0.0):
    return Workers(lambda device: None, count=count, gpus=gpus, device=torch.device("cpu"))


def test_without_ray_a_sentence_says_what_to_install(run, shapes, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UsageError, match=r"Ray is not installed; get it with .*ovseg\[ray\]"):
        mined(run, shapes, "ray")
    with pytest.raises(UsageError, match="--engine spark: choose one of single, ray"):
        mined(run, shapes, "spark")


def test_an_address_at_which_nobody_listens_is_refused_at_once(waiting, monkeypatch):
    pytest.importorskip("ray.data", reason="Ray is not installed")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    before = signal.getsignal(signal.SIGTERM)
    start = time.monotonic()
    with pytest.raises(UsageError, match=f"no Ray cluster can be used at '{address}'"):
        mine_on_cluster(waiting, workers())
    assert time.monotonic() - start < 60
    assert signal.getsignal(signal.SIGTERM) is before
    monkeypatch.setenv("RAY_ADDRESS", "nonsense")
    with pytest.raises(UsageError, match=r"'nonsense' .*ray start --head"):
        mine_on_cluster(waiting, workers())


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"count": 5}, "5 need a core and 0 GPUs each, but the cluster has 4 cores and 2 GPUs"),
        ({"count": 3, "gpus": 1.0}, "there is room for 2"),
        ({"gpus": 3.0}, "1 need a core and 3 GPUs each"),
    ],
)
def test_more_workers_than_the_cluster_has_room_for_are_refused(waiting, monkeypatch, wanted, said):
    ray = pytest.importorskip("ray.data", reason="Ray is not installed") and sys.modules["ray"]
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 4.0, "GPU": 2.0})
    with pytest.raises(UsageError, match=said):
        mine_on_cluster(waiting, workers(**wanted))


def test_nothing_waiting_asks_no_cluster(waiting, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    waiting.write_shard(0, [], {})
    mine_on_cluster(waiting, workers())
