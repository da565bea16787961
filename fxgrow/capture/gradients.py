"""Where a forward switches gradients on and off: regions of the graph, each with a node where it begins and ends."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import fx, nn

from fxgrow.modules.containers import flat_tensors, has_fractions
from fxgrow.modules.replacing import replaced
from fxgrow.rules.calls import writes

if TYPE_CHECKING:
    from fxgrow.capture.recorder import Recorder


def enter_grad(enabled: bool) -> bool:
    """Switch gradients on or off; returns what they were."""
    before = torch.is_grad_enabled()
    torch._C._set_grad_enabled(enabled)
    return before


def leave_grad(before: bool) -> None:
    """Switch gradients back."""
    torch._C._set_grad_enabled(before)


def switched(recorder: Recorder, enabled: bool) -> None:
    """Gradients are switched: into a region or out of it, if a context manager does so.

    Without one it is back, where the last region that was entered found them so, else into a new region. Inside of a
    function with a backward of its own, which decides on gradients, there are no regions.
    """
    regions = recorder.regions
    if regions is None:
        return
    is_inside = bool(regions) and regions[-1].target is enter_grad and regions[-1].meta["value"] is enabled
    if is_inside and recorder.grad_left is not False:
        recorder.call(leave_grad, (regions.pop(),))
    else:
        before = torch.is_grad_enabled()
        regions.append(recorder.call(enter_grad, (enabled,), before))


def is_made(node: fx.Node | None) -> bool:
    """Whether a node makes something, rather than to stand for what there is."""
    return node is not None and node.op not in ("placeholder", "get_attr")


def needed_by(node: fx.Node, recorder: Recorder) -> bool:
    """Whether what a node gives needs a gradient: parameters or inputs that need one go into it."""
    waiting, seen = [node], set[fx.Node]()
    while waiting:
        current = waiting.pop()
        value = list(flat_tensors(current.meta["value"]))
        if current in seen or current.target in ("detach", "detach_") or not any(map(has_fractions, value)):
            continue
        seen.add(current)
        if current.target == "requires_grad_":
            return all((*current.args[1:], *current.kwargs.values()))
        if not is_made(current):
            held = value
        elif current in recorder.without_gradients:
            held = []
            waiting += current.all_input_nodes[:1] if writes(current) else []
        else:
            part = recorder.parts.get(str(current.target)) if current.op == "call_module" else None
            held = [] if part is None else list(nn.Module.parameters(part))
            waiting += current.all_input_nodes
        if any(tensor.requires_grad for tensor in held):
            return True
    return False


def _made_for(needed: bool) -> Any:
    """A node of a backward pass where one is needed."""
    return torch.ones((), requires_grad=True).view(()).grad_fn if needed else None


PROPERTIES: dict[str, Callable[[bool], Any]] = {
    "requires_grad": bool,
    "is_leaf": operator.not_,
    "grad_fn": _made_for,
}
"""What a tensor that a forward makes says of gradients, by whether it needs one."""


def _entered(recorder: Recorder, context: torch.set_grad_enabled) -> None:
    """A switch that has just been made is entered: it begins a region, also where it was taken for the end of one."""
    regions, last = recorder.regions, next(reversed(recorder.graph.nodes))
    if regions is not None and last.target is leave_grad:
        regions.append(last.args[0])
        recorder.graph.erase_node(last)
        regions.append(recorder.call(enter_grad, (context.mode,), context.prev))


@contextmanager
def watched(recorder: Recorder) -> Iterator[None]:
    """Tell the recorder, of each switch by a context manager of torch's, whether a region begins or ends."""

    def switching(plainly: Callable[..., Any], is_left: bool) -> Callable[..., Any]:
        def told(self: Any, *exception: Any) -> Any:
            recorder.grad_left = is_left
            try:
                return plainly(self, *exception)
            finally:
                recorder.grad_left = None

        return told

    making: Any = torch.set_grad_enabled.__init__
    entering_switch = switching(torch.set_grad_enabled.__enter__, is_left=False)
    made: dict[int, fx.Node | None] = {}

    def made_with(self: torch.set_grad_enabled, mode: bool) -> None:
        making(self, mode)
        made[id(self)] = next(reversed(recorder.graph.nodes), None)

    def entered_with(self: torch.set_grad_enabled) -> None:
        if recorder.quiet or made.pop(id(self), None) is not next(reversed(recorder.graph.nodes), self):
            entering_switch(self)
        else:
            _entered(recorder, self)

    with ExitStack() as stack:
        for kind in (torch.no_grad, torch.enable_grad):
            stack.enter_context(replaced(kind, "__enter__", switching(kind.__enter__, is_left=False)))
            stack.enter_context(replaced(kind, "__exit__", switching(kind.__exit__, is_left=True)))
        leaving_switch = switching(torch.set_grad_enabled.__exit__, is_left=True)
        stack.enter_context(replaced(torch.set_grad_enabled, "__exit__", leaving_switch))
        stack.enter_context(replaced(torch.set_grad_enabled, "__init__", made_with))
        stack.enter_context(replaced(torch.set_grad_enabled, "__enter__", entered_with))
        yield
