"""Values on the meta device for the nodes of a graph that is already there."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn

from fxgrow.capture.tracer import default_of, failed, method_on_meta, on_meta
from fxgrow.containers import each_tensor
from fxgrow.errors import CaptureError


class _Propagation(fx.Interpreter):
    def call_method(self, target: Any, args: Any, kwargs: Any) -> Any:
        return method_on_meta(str(target), args, kwargs)

    def run_node(self, n: fx.Node) -> Any:
        try:
            value = each_tensor(super().run_node(n), on_meta)  # some are made elsewhere, whatever the device should be
        except CaptureError:
            raise
        except Exception as error:
            raise failed(self.module, n, [a.meta["value"] for a in n.all_input_nodes], error) from error
        n.meta["value"] = value
        return value


def propagate(root: nn.Module, graph: fx.Graph, inputs: tuple[tuple[Any, ...], dict[str, Any]]) -> None:
    """Fill `meta["value"]` of every node.

    Raises
    ------
    CaptureError: a node fails on these inputs.
    """
    args, kwargs = inputs
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    ordered = [*args, *(kwargs.get(str(node.target), default_of(node)) for node in placeholders[len(args) :])]
    interpreter = _Propagation(root, garbage_collect_values=False, graph=graph)
    interpreter.extra_traceback = False
    with torch.device("meta"):
        interpreter.run(*ordered)
