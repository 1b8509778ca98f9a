"""Matrix products with fixed weights, in the layout that was measured to be fastest.

On a CPU, large float32 weights are packed for oneDNN, and small ones are stored transposed. The
layout of a weight depends on its size alone, so that the same model always rounds the same way.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# Below this many weights oneDNN's call costs more than its packed layout saves: at 8 rows a
# 192 x 64 product takes 8 us plain and 17 us packed, a 1536 x 512 one 161 and 60
# (docs/performance.md).
PACKED_FROM = 65_536


def product(weight: Tensor, bias: Tensor | None = None) -> PlainProduct | PackedProduct:
    """Return the product with `weight` [out, in]."""
    packs = is_packed(weight.numel(), weight.device, weight.dtype)
    return PackedProduct(weight, bias) if packs else PlainProduct(weight, bias)


def is_packed(numbers: int, device: torch.device, dtype: torch.dtype) -> bool:
    """Whether a weight of so many numbers is worth packing."""
    return (
        is_rearranged(device, dtype)
        and numbers >= PACKED_FROM
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
    )


def is_rearranged(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether products have their weights in a layout of their own, whatever the size."""
    return device.type == "cpu" and dtype == torch.float32


class PlainProduct:
    """x -> x W^T + b for rows x [R, in], with the weight as it is or transposed in memory."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.bias, self.transposed = bias, weight.t()
        if is_rearranged(weight.device, weight.dtype):
            self.transposed = self.transposed.contiguous()

    def __call__(self, x: Tensor, *, out: Tensor | None = None) -> Tensor:
        """The product, [R, out]; in `out` if that is given."""
        if self.bias is None:
            return torch.mm(x, self.transposed, out=out)
        return torch.addmm(self.bias, x, self.transposed, out=out)

    def add_to(self, residual: Tensor, x: Tensor) -> Tensor:
        """The product plus `residual` [R, out], as a new tensor; for products without bias."""
        return torch.addmm(residual, x, self.transposed)


class PackedProduct:
    """The same with the weight in oneDNN's own layout."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None)
        self.bias = bias

    def __call__(self, x: Tensor, *, out: Tensor | None = None) -> Tensor:
        """The product, [R, out], always as a new tensor: oneDNN takes no `out`."""
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")

    def add_to(self, residual: Tensor, x: Tensor) -> Tensor:
        """The product plus `residual` [R, out], as a new tensor."""
        return self(x).add_(residual)


Product = PlainProduct | PackedProduct


class GatedProduct:
    """x -> SiLU(x G^T) * (x U^T), the first half of SwiGLU.

    both: one product for gate and up, giving [R, 2 out].
    """

    def __init__(self, both: Product) -> None:
        self.both = both

    def __call__(self, x: Tensor) -> Tensor:
        """The gated product, [R, out]."""
        gate, up = self.both(x).chunk(2, dim=1)
        return F.silu(gate).mul_(up)
