"""What code uses of modules from outside, while they do not run: such modules cannot grow by themselves."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakIdKeyDictionary

from fxgrow.containers import of_kind
from fxgrow.module_tensors import named_tensors

_ASIDE = {"device", "dtype", "is_cuda", "is_meta", "layout", "requires_grad", "grad", "is_leaf", "ndim"}
_ASIDE |= {"is_floating_point", "is_complex", "dim", "ndimension", "requires_grad_"}
_ASIDE |= {"new_empty", "new_full", "new_ones", "new_tensor", "new_zeros"}
"""What growth leaves as it is in a tensor."""


class Reach(TorchFunctionMode):
    """Watches a run of a model.

    reached: paths of modules of which something was used while they did not run, and what.

    >>> import torch
    >>> class Reaching(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.part = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2))
    ...     def forward(self, x):
    ...         return self.part(x) * self.part[0].bias.sum()
    >>> model = Reaching()
    >>> with Reach(model) as watch:
    ...     y = model(torch.ones(1, 2))
    >>> watch.reached["part"]
    '0.bias is used outside of it'
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.reached: dict[str, str] = {}
        self._running: list[str] = []
        self._names: dict[int, list[str]] = {}
        self._made: Any = WeakIdKeyDictionary()
        modules = dict(model.named_modules(remove_duplicate=False))
        for name, held in (*named_tensors(model).items(), *modules.items()):
            self._names.setdefault(id(held), []).append(name)
        for module in model.modules():
            module.register_forward_pre_hook(lambda module, _: self._begins(module), prepend=True)
            module.register_forward_hook(lambda _, __, output: self._ends(output), always_call=True)

    def _begins(self, module: nn.Module) -> None:
        self._running.append(self._use(module, "is called"))

    def _ends(self, output: Any) -> None:
        self._running.pop()
        for tensor in of_kind(output, Tensor):
            self._made[tensor] = tuple(self._running)

    def _use(self, held: nn.Module | Tensor, how: str) -> str:
        """Something that modules have is used; returns its name in the one that runs, if several have it."""

        def running(name: str) -> int:
            return max((len(path) for path in self._running if path and name.startswith(f"{path}.")), default=0)

        name = owner = max(self._names[id(held)], key=running)
        while "." in owner:
            owner = owner.rpartition(".")[0]
            if owner not in self._running:
                self.reached.setdefault(owner, f"{name.removeprefix(owner + '.')} {how} outside of it")
        return name

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        name = getattr(func.__self__, "__name__", "") if name == "__get__" else name
        if name in _ASIDE:
            return func(*args, **(kwargs or {}))
        given = list(of_kind((args, kwargs), Tensor))
        for tensor in given:
            if id(tensor) in self._names:
                self._use(tensor, "is used")
            for path in self._made.get(tensor, ()):
                if path not in self._running:
                    self.reached.setdefault(path, "a tensor that it keeps is used outside of it")
        result = func(*args, **(kwargs or {}))
        for tensor in of_kind(result, Tensor):
            is_given = any(tensor is operand for operand in given)  # as by `contiguous` of what is contiguous
            if id(tensor) not in self._names and tensor not in self._made and not is_given:
                self._made[tensor] = tuple(self._running)
        return result
