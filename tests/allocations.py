"""How large the tensors are that something makes, and what it keeps for a backward pass."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@dataclass
class Allocations:
    largest_bytes: int = 0  # of one tensor
    saved: dict[int, int] = field(default_factory=dict)  # bytes that autograd kept, by address

    @property
    def saved_bytes(self) -> int:
        return sum(self.saved.values())


@contextmanager
def allocations() -> Iterator[Allocations]:
    """Watches every operation: views count as the memory that they look at."""
    found = Allocations()

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for tensor in tree_leaves(out):
                if isinstance(tensor, torch.Tensor):
                    found.largest_bytes = max(found.largest_bytes, tensor.untyped_storage().nbytes())
            return out

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        found.saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), Watch():
        yield found
