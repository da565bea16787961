"""The Lightning callback, with Lightning itself."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from fxgrow.zoo.data import InMemory, load
from fxgrow.zoo.networks import resnet8
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.nn import functional as F

import fxgrow
from fxgrow.errors import TrainingError
from fxgrow.schedule import Schedule

lightning = pytest.importorskip("lightning.pytorch")
Growth = pytest.importorskip("fxgrow.lightning").Growth

warnings.simplefilter("ignore")
INPUTS = torch.zeros(2, 1, 8, 8)


class Classifier(lightning.LightningModule):  # type: ignore[misc, name-defined]
    def __init__(self, kind: str = "sgd") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network: nn.Module = resnet8(4, 10, 1)
        self.kind = kind
        self.losses: list[float] = []

    def training_step(self, batch: Any, index: int) -> Tensor:
        images, labels = batch
        loss = F.cross_entropy(self.network(images), labels)
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self) -> Any:
        if self.kind == "sgd":
            optimizer: Any = torch.optim.SGD(self.network.parameters(), lr=0.05, momentum=0.9)
        else:
            optimizer = torch.optim.AdamW(self.network.parameters(), lr=1e-3)
        return [optimizer], [torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 6)]


def loader() -> Any:
    data = load("digits", samples=128)
    assert isinstance(data, InMemory)
    pairs = torch.utils.data.TensorDataset(data.images, data.labels)
    return torch.utils.data.DataLoader(pairs, batch_size=32)


def schedule() -> Schedule:
    return Schedule.of([0.25, 0.5, 1.0], [2, 2, 2]).between(resnet8(4, 10, 1), resnet8(16, 10, 1), INPUTS)


def growth(rates: str = "norm") -> Any:
    return Growth(schedule(), "network", rates, init="mirror", example_inputs=INPUTS)


def trainer(folder: Path, epochs: int, *callbacks: Any, **options: Any) -> Any:
    return lightning.Trainer(
        max_epochs=epochs, callbacks=list(callbacks), accelerator="cpu", logger=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder, **options,
    )  # fmt: skip


def kept(folder: Path) -> Any:
    return lightning.callbacks.ModelCheckpoint(folder, "{epoch}", every_n_epochs=1, save_top_k=-1)


@pytest.mark.parametrize("kind", ["adamw", pytest.param("sgd", marks=pytest.mark.slow)])
def test_a_network_grows_along_its_schedule_and_resumes_at_any_epoch(kind: str, tmp_path: Path) -> None:
    uninterrupted = Classifier(kind)
    trainer(tmp_path, 6, growth(), kept(tmp_path)).fit(uninterrupted, loader())
    shapes = {name: tuple(p.shape) for name, p in uninterrupted.network.named_parameters()}
    assert shapes == {name: tuple(p.shape) for name, p in resnet8(16, 10, 1).named_parameters()}
    assert len(uninterrupted.losses) == 24
    assert sum(uninterrupted.losses[-4:]) < sum(uninterrupted.losses[:4])
    for epoch in (0, 3) if kind == "adamw" else (0, 1, 3, 4):
        again = Classifier(kind)
        callback = growth()
        trainer(tmp_path, 6, callback).fit(again, loader(), ckpt_path=tmp_path / f"epoch={epoch}.ckpt")
        assert callback.number == 2
        assert again.losses == uninterrupted.losses[4 * (epoch + 1) :]
        for name, tensor in uninterrupted.state_dict().items():
            assert torch.equal(again.state_dict()[name], tensor)


def test_growth_keeps_the_loss_and_the_scheduler(tmp_path: Path) -> None:
    """With the learning rate at zero nothing changes but the width, so every epoch has the same losses."""

    class Still(Classifier):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.network.parameters(), lr=0.0, momentum=0.9)
            self.scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 1 + epoch)
            return [optimizer], [self.scheduler]

    still = Still()
    trainer(tmp_path, 6, growth(), enable_checkpointing=False).fit(still, loader())
    for epoch in range(1, 6):
        assert still.losses[4 * epoch : 4 * epoch + 4] == pytest.approx(still.losses[:4], abs=1e-5)
    assert still.scheduler.last_epoch == 6
    assert still.scheduler.optimizer.param_groups[0]["params"][0] is still.network.get_parameter("conv1.weight")
    assert fxgrow.births(still.network)["conv1.weight"].counts() == {0: 36, 1: 36, 2: 72}


def test_the_last_stage_goes_on_after_the_schedule(tmp_path: Path) -> None:
    callback = growth("none")
    trainer(tmp_path, 8, callback, enable_checkpointing=False).fit(Classifier(), loader())
    assert callback.stage.number == 2


class WithTemperature(Classifier):
    """The network within a task, beside a parameter of the loss, all of them named to one optimizer."""

    def __init__(self) -> None:
        super().__init__("adamw")
        self.task = nn.ModuleDict({"network": self.network})
        del self.network
        self.temperature = nn.Parameter(torch.ones(()))

    def training_step(self, batch: Any, index: int) -> Tensor:
        images, labels = batch
        return F.cross_entropy(self.task["network"](images) / self.temperature, labels)

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(self.named_parameters(), lr=1e-3)


def test_an_optimizer_may_hold_more_than_a_network_within_the_module(tmp_path: Path) -> None:
    module, grow = WithTemperature(), Growth(schedule(), "task.network", init="mirror", example_inputs=INPUTS)
    training = trainer(tmp_path, 5, grow)
    training.fit(module, loader())
    (optimizer,) = training.optimizers
    held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    assert len(held) == len(list(module.parameters())) and {*map(id, held)} == {*map(id, module.parameters())}
    assert module.temperature.item() != 1 and module.task["network"].fc.in_features == 64


def test_a_module_without_the_network_is_refused(tmp_path: Path) -> None:
    callback = Growth(schedule(), "backbone")
    with pytest.raises(TrainingError) as raised:
        trainer(tmp_path, 1, callback, enable_checkpointing=False).fit(Classifier(), loader())
    assert str(raised.value) == (
        "the LightningModule has no network 'backbone' (at Classifier): "
        "pass attribute=, the name under which it keeps its network"
    )


def test_a_network_that_the_module_holds_twice_is_refused(tmp_path: Path) -> None:
    module: Any = Classifier()
    module.encoder = next(iter(part for part in module.children()))
    with pytest.raises(TrainingError, match=r"under another name.*\(at Classifier\.encoder\)"):
        trainer(tmp_path, 1, growth()).fit(module, loader())


class Averaging(Classifier):
    """With averages of the network's weights as a part of it, which follow at each step."""

    def __init__(self) -> None:
        super().__init__()
        self.torchs = torch.optim.swa_utils.AveragedModel(self.network)
        self.timms = ModelEmaV3(self.network, decay=0.9)

    def on_train_batch_end(self, *args: Any) -> None:
        self.torchs.update_parameters(self.network)
        self.timms.update(self.network)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.network.parameters(), lr=0.05)


class Watch(lightning.Callback):  # type: ignore[misc, name-defined]
    """What averages give, before and after each epoch's growth."""

    def __init__(self) -> None:
        self.seen: list[list[Tensor]] = []

    def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
        callback = next(c for c in trainer.callbacks if isinstance(c, lightning.callbacks.WeightAveraging))
        averages = (module.torchs.module, module.timms.module, callback._average_model.module.network)
        images = torch.randn(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            self.seen.append([average.eval()(images) for average in averages])


def test_averages_of_the_weights_grow_along(tmp_path: Path) -> None:
    module, before, after = Averaging(), Watch(), Watch()
    ema = lightning.callbacks.EMAWeightAveraging(decay=0.9)
    run = trainer(tmp_path, 6, ema, before, growth(), after, enable_checkpointing=False)
    run.fit(module, loader())
    for left, right in zip(before.seen, after.seen, strict=True):
        for earlier, later in zip(left, right, strict=True):
            torch.testing.assert_close(earlier, later, rtol=1e-4, atol=1e-4)
    assert not torch.equal(before.seen[-1][0], before.seen[-1][1])
    wide = {name: tuple(tensor.shape) for name, tensor in resnet8(16, 10, 1).state_dict().items()}
    for average in (module.torchs.module, module.timms.module, module.network):
        assert {name: tuple(tensor.shape) for name, tensor in average.state_dict().items()} == wide
    assert fxgrow.births(module.timms.module) == fxgrow.births(module.network)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["EMAWeightAveraging", "StochasticWeightAveraging"])
def test_lightnings_averages_grow_along_and_resume(kind: str, tmp_path: Path) -> None:
    of_kind = {"decay": 0.9} if "EMA" in kind else {"swa_lrs": 0.01, "swa_epoch_start": 1, "annealing_epochs": 1}
    callbacks = [getattr(lightning.callbacks, kind)(**of_kind) for _ in range(2)]
    uninterrupted = Classifier()
    trainer(tmp_path, 6, growth(), callbacks[0], kept(tmp_path)).fit(uninterrupted, loader())
    again = Classifier()
    trainer(tmp_path, 6, growth(), callbacks[1]).fit(again, loader(), ckpt_path=tmp_path / "epoch=3.ckpt")
    for name, tensor in uninterrupted.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


def test_weights_that_cannot_grow_along_are_refused_by_name(tmp_path: Path) -> None:
    class Keeping(lightning.Callback):  # type: ignore[misc, name-defined]
        def setup(self, trainer: Any, module: Any, stage: str) -> None:
            self.kept = {name: tensor.clone() for name, tensor in module.state_dict().items()}

    with pytest.raises(TrainingError) as raised:
        trainer(tmp_path, 3, Keeping(), growth(), enable_checkpointing=False).fit(Classifier(), loader())
    assert "(at Keeping.kept)" in str(raised.value)


class OfGraphs(lightning.LightningModule):  # type: ignore[misc, name-defined]
    """A small network that comes back as a graph, with an average as a part."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network: nn.Module = line(4)
        self.average = torch.optim.swa_utils.AveragedModel(self.network)

    def training_step(self, batch: Any, index: int) -> Tensor:
        return self.network(batch[0]).square().mean()

    def on_train_batch_end(self, *args: Any) -> None:
        self.average.update_parameters(self.network)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.network.parameters(), lr=0.05)


def line(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(3, width), nn.ReLU(), nn.Linear(width, 2))


def test_averages_of_graphs_grow_along_at_every_growth(tmp_path: Path) -> None:
    module, ema, inputs = OfGraphs(), lightning.callbacks.EMAWeightAveraging(decay=0.9), torch.randn(8, 3)
    stages = Schedule.of([0.25, 0.5, 1.0], [1, 1, 1]).between(line(4), line(16), inputs)
    grow = Growth(stages, "network", example_inputs=inputs, form="graph")
    batches = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(inputs), batch_size=4)
    trainer(tmp_path, 3, grow, ema, enable_checkpointing=False).fit(module, batches)
    for average in (module.average.module, ema._average_model.module.network):
        assert isinstance(average, torch.fx.GraphModule) and average.get_parameter("0.weight").shape == (16, 3)
