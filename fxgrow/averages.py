"""Finds the averaged copies of a network that grow along with it, in Lightning's callbacks and modules."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from timm.utils.model_ema import ModelEmaV2, ModelEmaV3
from torch import Tensor, fx, nn
from torch.optim.swa_utils import AveragedModel

from fxgrow.errors import TrainingError
from fxgrow.growth.gradmax import Loss
from fxgrow.history import Step

KEEPERS = (AveragedModel, ModelEmaV2, ModelEmaV3)
"""Modules of torch and timm that keep an average of a model; other copies in a module, such as teachers, stay."""


@dataclass(frozen=True)
class Average:
    """A copy of a network, as the attribute of what holds it."""

    holder: Any
    name: str

    def grow(self, step: Step, verify: bool | str, loss: Loss | None = None) -> None:
        """Grow it as the network grew; its old weights stay its own."""
        grown = step.plan.apply(getattr(self.holder, self.name), step.seed, verify=verify, loss=loss)
        setattr(self.holder, self.name, grown)


def averages_of(network: nn.Module, module: nn.Module, others: Iterable[Any]) -> list[Average]:
    """The averaged copies of a network in the module that it is a part of, and all copies in other objects.

    Raises
    ------
    TrainingError: another object holds the network's weights in a form that cannot grow along.
    """
    averages = [average for part in module.modules() if isinstance(part, KEEPERS) for average in _copies(network, part)]
    for owner in others:
        for name, value in vars(owner).items():
            if isinstance(value, nn.Module) and value is not module:
                averages += [Average(owner, name)] if _alike(value, network) else _copies(network, value)
            elif _holds_weights(value, network):
                raise TrainingError(
                    "it holds tensors of the shapes of the network's weights, which cannot grow along",
                    where=f"{type(owner).__name__}.{name}",
                    remedy="keep an average as a module (torch's AveragedModel, Lightning's WeightAveraging), or "
                    "begin it after the last growth",
                )
    return averages


def _copies(network: nn.Module, holder: nn.Module) -> Iterator[Average]:
    for part in holder.modules():
        for name, child in part._modules.items():
            if child is not None and child is not network and _alike(child, network):
                yield Average(part, name)


def _alike(module: nn.Module, network: nn.Module) -> bool:
    return _kind(module) is _kind(network) and _shapes(module) == _shapes(network)


def _kind(module: nn.Module) -> type[nn.Module] | None:
    """The class of a module; each graph module has one of its own, which is under the one that was called."""
    return type(module).__base__ if isinstance(module, fx.GraphModule) else type(module)


def _holds_weights(value: Any, network: nn.Module) -> bool:
    """Whether a container has a tensor for each parameter of a network, in order, perhaps among others."""
    items = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else ()
    shapes = iter([item.shape for item in items if isinstance(item, Tensor)])
    parameters = list(nn.Module.parameters(network))
    return bool(parameters) and all(parameter.shape in shapes for parameter in parameters)


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    named = (*module.named_parameters(), *module.named_buffers())
    return {name: tuple(tensor.shape) for name, tensor in named}
