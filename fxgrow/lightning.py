"""A Lightning callback that grows the network of a LightningModule along a schedule."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn
from torch.optim import Optimizer

from fxgrow.averages import Average, averages_of
from fxgrow.errors import TrainingError
from fxgrow.history import report
from fxgrow.schedule import Schedule
from fxgrow.stages import Stage
from fxgrow.training.parameters import parameters_of
from fxgrow.training.rates import adapt_rates, attached_to
from fxgrow.training.state import replace_parameters

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.strategies import SingleDeviceStrategy
except ImportError:
    raise TrainingError("fxgrow.lightning needs Lightning", remedy="pip install lightning") from None


class Growth(Callback):
    """Grow a network at the epochs at which a schedule begins new stages.

    The optimizers stay the same objects, with the state of old weights carried over, so learning-rate schedulers go
    on. Checkpoints of Lightning resume at any epoch: the callback grows the network to the stage of the checkpoint
    before its weights are loaded. What optimizers hold beside parameters of the network stays in its place.

    Averages of the weights grow along: those of Lightning's callbacks (`WeightAveraging`, `EMAWeightAveraging`,
    `StochasticWeightAveraging`) and of others that hold a copy of the network, and torch's `AveragedModel` and timm's
    `ModelEmaV3` as a part of the LightningModule.

    Parameters
    ----------
    schedule: toward the large model (`Schedule.between`), or without a target.
    attribute: of the LightningModule that holds the network, as a path: "model", "task.network".
    rates: rule of `fxgrow.adapt_rates`; "none" for one rate for all.
    options: of `fxgrow.grow`: init, parameterization, seed, example_inputs, verify, ...

    Raises
    ------
    TrainingError: the module has no such network, or holds it or a part of it under a second name; or the strategy
        wraps the network (data parallel and its kin); or another callback holds the network's weights in a form that
        cannot grow along.

    >>> schedule = Schedule.exponential(stages=9, epochs=160)
    >>> Growth(schedule, "network", init="mirror").stage.epochs
    8
    """

    def __init__(self, schedule: Schedule, attribute: str = "model", rates: str = "norm", **options: Any) -> None:
        self.schedule = schedule
        self.attribute = attribute
        self.rates = rates
        self.options = options
        self.number = 0

    @property
    def stage(self) -> Stage:
        """The stage that the network is in."""
        return self.schedule[self.number]

    @property
    def state_key(self) -> str:
        return f"{type(self).__qualname__}:{self.attribute}"

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check that the network can be replaced, and prepare for checkpoints of a grown one."""
        network = self._network(pl_module)
        inside = {id(part) for part in network.modules() if next(nn.Module.parameters(part), None) is not None}
        for path, part in pl_module.named_modules(remove_duplicate=False):
            if id(part) in inside and not f"{path}.".startswith(f"{self.attribute}."):
                raise TrainingError(
                    f"it is a part of the network {self.attribute!r} under another name, and would stay the old one",
                    where=f"{type(pl_module).__name__}.{path}",
                    remedy="make it a property, which reads the network that is there",
                )
        if not isinstance(trainer.strategy, SingleDeviceStrategy):
            raise TrainingError(
                f"the strategy {type(trainer.strategy).__name__} wraps the network, which cannot then be replaced",
                where=type(pl_module).__name__,
                remedy="train on one device, or grow between calls of Trainer.fit",
            )
        self._averages(trainer, pl_module)
        before: Callable[[dict[str, Any]], None] = pl_module.on_load_checkpoint

        def on_load_checkpoint(checkpoint: dict[str, Any]) -> None:
            self._regrow(trainer, pl_module, checkpoint["callbacks"].get(self.state_key, {}).get("stage", 0))
            before(checkpoint)

        pl_module.on_load_checkpoint = on_load_checkpoint  # type: ignore[method-assign]

    def _network(self, pl_module: LightningModule) -> nn.Module:
        try:
            return pl_module.get_submodule(self.attribute)
        except AttributeError as error:
            raise TrainingError(
                f"the LightningModule has no network {self.attribute!r}",
                where=type(pl_module).__name__,
                remedy="pass attribute=, the name under which it keeps its network",
            ) from error

    def _averages(self, trainer: Trainer, pl_module: LightningModule) -> list[Average]:
        others = [callback for callback in trainer.callbacks if callback is not self]  # type: ignore[attr-defined]
        return averages_of(self._network(pl_module), pl_module, others)

    def _regrow(self, trainer: Trainer, pl_module: LightningModule, number: int) -> None:
        """The network at a stage, from that of stage 0; its weights are about to be loaded."""
        for stage in self.schedule.stages[1 : number + 1]:
            self._grow(trainer, pl_module, stage, {**self.options, "verify": False})
        self.number = number

    def _grow(self, trainer: Trainer, pl_module: LightningModule, stage: Stage, options: dict[str, Any]) -> nn.Module:
        """Grow the network to a stage, and its averages along."""
        network, averages = self._network(pl_module), self._averages(trainer, pl_module)
        grown = stage.grow(network, **options)
        if grown is not network:
            pl_module.set_submodule(self.attribute, grown)
            for average in averages:
                average.grow(report(grown), options.get("verify", True), options.get("loss"))
        return grown

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Attach rates to the optimizers of a network that has grown already."""
        if any(stage.grows for stage in self.schedule.stages[: self.number + 1]):
            self._attach(trainer, pl_module)

    def _attach(self, trainer: Trainer, pl_module: LightningModule) -> None:
        network = self._network(pl_module)
        for optimizer in _holding(network, trainer.optimizers) if self.rates != "none" else ():
            if attached_to(optimizer) is None:
                adapt_rates(optimizer, network, self.rates)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Grow, if this epoch begins a stage; after the schedule's last epoch the last stage goes on."""
        epoch = min(trainer.current_epoch, self.schedule.epochs - 1)
        for stage in self.schedule.stages[self.number + 1 : self.schedule.at(epoch).number + 1]:
            if stage.grows:
                network = self._network(pl_module)
                grown = self._grow(trainer, pl_module, stage, self.options)
                for optimizer in _holding(network, trainer.optimizers):
                    replace_parameters(optimizer, grown, model=network)
                self._attach(trainer, pl_module)
            self.number = stage.number

    def state_dict(self) -> dict[str, Any]:
        """The stage, which a checkpoint keeps."""
        return {"stage": self.number}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The stage again."""
        self.number = state_dict["stage"]


def _holding(network: nn.Module, optimizers: Iterable[Optimizer]) -> list[Optimizer]:
    """The optimizers that hold some of a network's parameters."""
    own = set(map(id, nn.Module.parameters(network)))
    return [optimizer for optimizer in optimizers if any(id(p) in own for p in parameters_of(optimizer))]
