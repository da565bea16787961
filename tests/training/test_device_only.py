"""A step with rates by age makes no copy between devices and asks for no number: shown on a device that is not there.

Tensors that have a device and a shape, and no data, take the steps of a GPU; anything that asked for a value would
fail, and copies between devices are refused. Where there is a GPU, a step is captured in a CUDA graph.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import fxgrow
from fxgrow.training import tracking
from tests.pairing import in_turn
from tests.training.small import INPUTS, convolutional, grown, loss_of
from tests.training.test_new_blocks import deep

WITH_GPU = torch.cuda.is_available()


class OneDevice(TorchDispatchMode):
    """Refuses operations on tensors of several devices, those that make some on the CPU, and numbers from Python."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        tensors = [t for t in tree_leaves((args, kwargs, result)) if isinstance(t, Tensor)]
        kinds = {tensor.device.type for tensor in tensors}
        assert kinds <= {"cuda"}, f"{function} on {kinds}"
        return result


@contextmanager
def absent_gpu(model: nn.Module) -> Iterator[None]:
    """Put a model on a GPU that need not be there, without data."""
    with FakeTensorMode():
        for module in model.modules():
            for tensors in (module._parameters, module._buffers):
                for name, tensor in list(tensors.items()):
                    if tensor is not None:
                        empty = torch.empty(tensor.shape, dtype=tensor.dtype, device="cuda")
                        tensors[name] = nn.Parameter(empty) if isinstance(tensor, nn.Parameter) else empty
        yield


@pytest.mark.parametrize(
    ("rule", "how"),
    in_turn(("norm", "gradient", "rewarm"), [(kind, cut) for kind in ("width", "depth") for cut in (False, True)]),
)
def test_a_step_stays_on_its_device(rule: str, how: tuple[str, bool], monkeypatch: pytest.MonkeyPatch) -> None:
    kind, cut = how
    if cut:
        monkeypatch.setattr(tracking, "_LEAST_ENTRIES_ELSEWHERE", 0)
    model = (grown(convolutional(), 1.5, 4 / 3) if kind == "width" else deep("+1")).float()
    with absent_gpu(model):
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, foreach=True, capturable=True)
        fxgrow.adapt_rates(optimizer, model, rule, every=1)
        for number in range(3):
            for parameter in model.parameters():
                parameter.grad = torch.empty_like(parameter)
            if number < 2:  # states and copies come to be
                optimizer.step()
                continue
            with OneDevice():
                optimizer.step()


def test_what_would_wait_is_seen() -> None:
    """The check itself: a rule that asks for a number, and one that makes rates on the CPU."""
    for rule, error in (
        (lambda norms: norms.weight * float(norms.weight[0]), DataDependentOutputException),
        (lambda norms: torch.ones(len(norms.names)), AssertionError),
    ):
        model = grown(convolutional(), 1.5).float()
        with absent_gpu(model):
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1, foreach=True)
            fxgrow.adapt_rates(optimizer, model, "norm", every=1)._decide = rule
            for parameter in model.parameters():
                parameter.grad = torch.empty_like(parameter)
            with pytest.raises(error), OneDevice():
                optimizer.step()


@pytest.mark.skipif(not WITH_GPU, reason="there is no GPU")
@pytest.mark.parametrize("rule", ["norm", "gradient", "rewarm"])
def test_a_captured_step_is_the_step(rule: str) -> None:
    model = grown(convolutional(), 1.5, 4 / 3, init="mirror").float().cuda()
    twin, inputs = copy.deepcopy(model), INPUTS.float().cuda()
    weights = []
    for net, captured in ((model, False), (twin, True)):
        optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, fused=True)
        for group in optimizer.param_groups:
            group["lr"] = torch.tensor(0.05, device="cuda")
        rates = fxgrow.adapt_rates(optimizer, net, rule, every=1)

        def step(net: nn.Module = net, optimizer: torch.optim.Optimizer = optimizer) -> None:
            optimizer.zero_grad(set_to_none=True)
            loss_of(net, inputs).backward()
            optimizer.step()

        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                step()
            if captured:
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph, stream=stream):
                    step()
            for _ in range(5):
                graph.replay() if captured else step()
        torch.cuda.synchronize()
        weights.append(({name: p.detach() for name, p in net.named_parameters()}, rates.current()))
    for name, expected in weights[0][0].items():
        torch.testing.assert_close(weights[1][0][name], expected, rtol=1e-4, atol=1e-6, msg=name)
    for name, by_stage in weights[0][1].items():
        assert weights[1][1][name] == pytest.approx(by_stage, rel=1e-3)
