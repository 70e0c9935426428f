"""One thread: in small tests, threads that wait for one another cost more than they give."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

torch.set_num_threads(1)
