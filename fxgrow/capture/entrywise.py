"""Whether a function of a user's own, with a backward of its own, computes each entry from those at its place alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fxgrow.modules.containers import each_tensor, flat_tensors

_MADE_ALIKE = {
    getattr(torch.ops.aten, name)
    for name in ("alias", "clone", "detach", "expand", "full_like", "ones_like", "view", "zeros_like", "_to_copy")
}
"""Operations whose tag does not say so; where they give the shape they are given, each entry stays at its place."""

_SHAPED = (torch.ops.aten.expand, torch.ops.aten.view)
"""Those whose numbers are sizes."""


class _Watch(TorchDispatchMode):
    """Looks at all operations that run; what each of them does to entries is in PyTorch's tags."""

    def __init__(self, operands: list[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operands = {_memory(tensor) for tensor in operands}
        self.known = set(self.operands)
        self.holds = True
        self.numbers: list[Any] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        taken, made = list(flat_tensors((args, kwargs))), list(flat_tensors(result))
        # Tensors of other shapes or from elsewhere may face units that grow.
        self.holds &= all(tensor.dim() == 0 or _memory(tensor) in self.known for tensor in taken)
        self.holds &= not func._schema.is_mutable or _memory(taken[0]) not in self.operands
        self.holds &= torch.Tag.nondeterministic_seeded not in func.tags
        self.holds &= torch.Tag.pointwise in func.tags or (
            func.overloadpacket in _MADE_ALIKE and [tensor.shape for tensor in made] == [taken[0].shape]
        )
        self.known.update(map(_memory, made))
        if func.overloadpacket not in _SHAPED:
            numbers = tree_leaves((args, kwargs))
            self.numbers.append((func, [n for n in numbers if isinstance(n, (int, float, complex))]))
        return result


def _memory(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def is_entry_by_entry(function: Callable[..., Any], operands: tuple[Any, ...], others: dict[str, Any]) -> bool:
    """Whether it gives one tensor, and all that runs for it is pointwise; on tensors without data.

    Numbers that it works out of sizes, as a mean over all entries does, are none of an entry alone.

    >>> is_entry_by_entry(lambda x: x * torch.sigmoid(x), (torch.empty(2, 3, device="meta"),), {})
    True
    >>> is_entry_by_entry(lambda x: x / x.norm(), (torch.empty(2, 3, device="meta"),), {})
    False
    >>> is_entry_by_entry(lambda x: x.sign() * x.shape[1] ** -0.5, (torch.empty(2, 3, device="meta"),), {})
    False
    """
    numbers = []
    for given in ((operands, others), each_tensor((operands, others), _twice_as_large)):
        tensors = list(flat_tensors(given))
        with _Watch(tensors) as watch:
            try:
                result = function(*given[0], **given[1])
                shape = torch.broadcast_shapes(*(tensor.shape for tensor in tensors))
            except Exception:  # operands of unlike shapes; what else is wrong, the call that is recorded says
                return False
        if not (watch.holds and isinstance(result, Tensor) and result.shape == shape):
            return False
        numbers.append(watch.numbers)
    first, larger = numbers
    return bool(first == larger)


def _twice_as_large(tensor: Tensor) -> Tensor:
    shape = [size if size == 1 else 2 * size for size in tensor.shape]
    return torch.empty(shape, dtype=tensor.dtype, device="meta", requires_grad=tensor.requires_grad)
