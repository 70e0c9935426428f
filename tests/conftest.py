"""One thread: in small tests, threads that wait for one another cost more than they give.

And a cache of their own: tests neither read nor write the user's. Property tests draw the same
examples every time, with no limit of time for one.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from hypothesis import settings

settings.register_profile("same", derandomize=True, deadline=None)
settings.load_profile("same")
torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def cache_of_the_tests(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OVSEG_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
