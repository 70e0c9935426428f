"""Weighted sums of table rows, with a fast backward on the CPU.

`embedding_bag` is quick forward; its CPU backward sorts the indices and takes fifty times as long.
Seen as a sparse matrix (bags x rows) times the table, the two gradients are a transposed sparse
product and a sampled dense product, for which SciPy and PyTorch have fast code.
"""

import warnings
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from scipy.sparse import csc_matrix
from torch import Tensor
from torch.autograd.function import once_differentiable

warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")


def weighted_bags(
    table: Float[Tensor, "R C"], indices: Int[Tensor, "N K"], weights: Float[Tensor, "N K"]
) -> Float[Tensor, "N C"]:
    """For each bag, the weighted sum of the rows that it names.

    Args:
        table: (R, C) rows, float32 or float64.
        indices: (N, K) rows of the table, int32.
        weights: (N, K) weight of each.
    """
    if torch.compiler.is_exporting():  # ONNX has no bags
        return gathered_bags(table, indices, weights)
    if table.device.type == "cpu":
        bags: Tensor = _CpuBags.apply(table, indices, weights)  # type: ignore[no-untyped-call]
        return bags
    if table.device.type == "cuda":
        return F.embedding_bag(indices, table, per_sample_weights=weights, mode="sum")
    return gathered_bags(table, indices, weights)


def gathered_bags(
    table: Float[Tensor, "R C"], indices: Int[Tensor, "N K"], weights: Float[Tensor, "N K"]
) -> Float[Tensor, "N C"]:
    """The same from operators that every device has, with N x K x C floats in between.

    Args:
        table: (R, C) rows.
        indices: (N, K) rows of the table.
        weights: (N, K) weight of each.
    """
    return torch.einsum("nkc,nk->nc", table[indices.long()], weights)


class _CpuBags(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, indices: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(table, indices, weights)
        return F.embedding_bag(indices, table, per_sample_weights=weights, mode="sum")

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, Tensor | None]:
        table, indices, weights = ctx.saved_tensors
        gradient = gradient.contiguous()
        table_gradient = weight_gradient = None
        if ctx.needs_input_grad[0]:
            table_gradient = _scattered(gradient, indices, weights, len(table))
        if ctx.needs_input_grad[2]:
            weight_gradient = _inner_products(gradient, indices, table)
        return table_gradient, None, weight_gradient


def _bag_starts(indices: Tensor) -> Tensor:
    bags, size = indices.shape
    return torch.arange(0, bags * size + 1, size, dtype=indices.dtype)


def _scattered(gradient: Tensor, indices: Tensor, weights: Tensor, rows: int) -> Tensor:
    starts = _bag_starts(indices).numpy()
    entries = (weights.reshape(-1).numpy(), indices.reshape(-1).numpy(), starts)
    matrix = csc_matrix(entries, shape=(rows, len(gradient)))
    return torch.from_numpy(np.ascontiguousarray(matrix @ gradient.numpy()))


def _inner_products(gradient: Tensor, indices: Tensor, table: Tensor) -> Tensor:
    pattern = torch.sparse_csr_tensor(
        _bag_starts(indices),
        indices.reshape(-1),
        gradient.new_zeros(indices.numel()),
        (len(indices), len(table)),
        check_invariants=False,
    )
    products = torch.sparse.sampled_addmm(pattern, gradient, table.T, beta=0.0)
    values: Tensor = products.values()
    return values.view(indices.shape)
