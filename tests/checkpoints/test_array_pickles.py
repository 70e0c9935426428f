import os
import pickle
import re

import numpy as np
import pytest
import torch

from ovseg_cli.checkpoints.array_pickles import read_arrays
from ovseg_cli.checkpoints.imagenet import load_backbone
from ovseg_cli.errors import CheckpointError
from ovseg_cli.proposers.resnet import resnet


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_arrays_come_back_as_tensors(tmp_path, protocol):
    arrays = {"stem.conv1.weight": np.arange(6, dtype=np.float32).reshape(2, 3)}
    path = tmp_path / "R-103.pkl"
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "somebody"}, protocol))
    found = read_arrays(path)
    assert found.keys() == arrays.keys()
    assert torch.equal(found["stem.conv1.weight"], torch.arange(6.0).reshape(2, 3))


def test_a_pickle_that_would_run_something_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "made"),)

    path = tmp_path / "evil.pkl"
    path.write_bytes(pickle.dumps({"model": Evil()}))
    with pytest.raises(CheckpointError, match=r"evil.pkl: cannot be read .*it holds posix.mkdir"):
        read_arrays(path)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no pickle",
        pickle.dumps([1]),
        pickle.dumps({"a": 1}),
        pickle.dumps({"a": np.array(["words"])}),
    ],
)
def test_other_files_are_refused_by_name(tmp_path, content):
    path = tmp_path / "other.pkl"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"other.pkl: "):
        read_arrays(path)
    with pytest.raises(CheckpointError, match=r"missing.pkl: cannot be read"):
        read_arrays(tmp_path / "missing.pkl")


def test_a_backbone_of_detectron2s_fills_deeplabs_resnet(tmp_path):
    torch.manual_seed(0)
    source, target = (resnet("resnet26c", width=8) for _ in range(2))
    arrays = {"fc.weight": np.zeros((10, 256), np.float32)}
    for name, tensor in source.state_dict().items():
        theirs = re.sub(r"bn(\d)\.", r"conv\1.norm.", name)
        theirs = re.sub(r"downsample\.0\.", "shortcut.", theirs)
        theirs = re.sub(r"downsample\.1\.", "shortcut.norm.", theirs)
        theirs = re.sub(r"^layer(\d)", lambda stage: f"res{int(stage[1]) + 1}", theirs)
        theirs = f"stem.{theirs}" if theirs.startswith("conv") else theirs
        arrays[theirs] = tensor.numpy()
    path = tmp_path / "R-29.pkl"
    path.write_bytes(pickle.dumps({"model": arrays}))
    load_backbone(target, str(path), architecture="resnet26c")
    for name, tensor in source.state_dict().items():
        assert torch.equal(target.state_dict()[name], tensor), name
