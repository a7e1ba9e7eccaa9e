"""Floating-point operations, counted as they are dispatched."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

MOVES = {
    "_reshape_copy", "_to_copy", "_unsafe_view", "arange", "bernoulli_", "cat", "clone", "constant_pad_nd", "copy_",
    "detach", "embedding", "embedding_dense_backward", "empty", "empty_like", "expand_copy", "fill_", "full",
    "full_like", "gather", "index", "index_put", "index_select", "lift_fresh", "masked_fill", "new_empty",
    "new_empty_strided", "new_full", "new_ones", "new_zeros", "ones", "ones_like", "permute_copy", "rand", "repeat",
    "roll", "scalar_tensor", "select_backward", "slice_backward", "split_with_sizes_copy", "stack", "tril", "triu",
    "where", "zero_", "zeros", "zeros_like",
}  # fmt: skip
"""What only moves, makes or picks numbers."""


class Operations(TorchDispatchMode):
    """Context that counts what is dispatched in it; on the meta device nothing is computed.

    Attributes:
        products: of matrices, two for each multiplication and addition, by torch's own ``flop_registry``.
        elementwise: one for each element that an elementwise operation gives or a reduction takes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.products = self.elementwise = 0

    @property
    def total(self) -> int:
        return self.products + self.elementwise

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if (count := flop_registry.get(func._overloadpacket)) is not None:
            self.products += count(*args, **(kwargs or {}), out_val=out)
        elif not func.is_view and func._overloadpacket.__name__ not in MOVES:
            tensors = [leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, torch.Tensor)]
            self.elementwise += max((x.numel() for x in tensors if x.is_floating_point()), default=0)
        return out
