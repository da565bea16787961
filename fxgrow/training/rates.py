"""Learning rates by age: each tensor's younger entries learn at a multiple of the optimizer's rate.

Hooks around an optimizer's step scale what the step added to the younger entries; nothing else is assumed of
the optimizer, and the oldest entries are never touched.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from rich.table import Table
from torch import Tensor, nn
from torch.optim import Optimizer

from fxgrow.birth import Birth
from fxgrow.errors import TrainingError
from fxgrow.history import births, known_history
from fxgrow.modules.devices import exact_dtype
from fxgrow.modules.shards import add_up, groups_of
from fxgrow.pages import Shown, titled
from fxgrow.planning.plan import TensorGrowth
from fxgrow.plots import colours_of, figure_of, legend_beside, named_ticks, panels
from fxgrow.training.parameters import innermost, parameters_of, unwrapped
from fxgrow.training.rules import RULES, Norms, Rule
from fxgrow.training.tracking import Aged, Blocks, blocks_of
from fxgrow.transforms.tensors import relative_deviation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

KEY = "fxgrow_rates"


def adapt_rates(
    optimizer: Optimizer,
    grown: nn.Module,
    rule: str | Rule = "norm",
    *,
    floor: str | None = "init",
    every: int = 8,
) -> AdaptedRates:
    """Give each generation of weights its own learning rate, on any optimizer.

    Parameters
    ----------
    optimizer: of torch.optim, timm.optim or their kind. It keeps its own rates, which schedulers go on to set.
        Rates attached to it before are replaced.
    grown: the model whose parameters it holds; torch.compile and data-parallel wrappers are seen through.
    rule: "norm" (η_k = η_0 ‖W_k‖/‖W_0‖ within each tensor, the paper's), "gradient" (an update is the same fraction
        of the weights at every stage), "rewarm" (a warm-up from zero to 1.3 times the optimizer's rate over a stage's
        first 250 steps, then the optimizer's rate), "none", or a function from `fxgrow.training.rules.Norms` to rates.
        Tensors of blocks that growth in depth added are compared with those of the block they repeat.
    floor: "init": a block counts at least with the norm it would have if drawn at the scale of the oldest
        entries, so that blocks that start at zero are not frozen. None: the bare formula.
    every: after how many steps rates are worked out again; in the paper 1. Norms change slowly, and taking them is
        about half of what adapted rates cost. A step that is captured in a CUDA graph takes them each time.

    A step copies nothing between devices and reads no number from one, so it never waits for a GPU.

    Raises
    ------
    TrainingError: the optimizer holds none of the model's parameters, or an argument means nothing.
    FxgrowError: the model was not grown by fxgrow.

    Source: Yuan, Savarese, Maire, "Accelerated Training via Incrementally Growing Neural Networks using
    Variance Transfer and Learning Rate Adaptation", NeurIPS 2023.

    >>> import torch, fxgrow
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> grown = fxgrow.grow(model, width=2, example_inputs=torch.randn(1, 4))
    >>> optimizer = torch.optim.SGD(grown.parameters(), lr=0.1)
    >>> rates = fxgrow.adapt_rates(optimizer, grown)
    >>> [name for name in rates.current()]
    ['0.weight', '0.bias', '2.weight']
    >>> rates.remove()
    """
    if rule not in RULES if isinstance(rule, str) else not callable(rule):
        raise TrainingError(f"rule={rule!r} is not a rule", remedy=f"use one of {', '.join(RULES)}, or a function")
    if floor not in ("init", None):
        raise TrainingError(f"floor={floor!r} is not a floor", remedy="use 'init' or None")
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise TrainingError(f"every={every!r} is not a number of steps", remedy="use 1 or more")
    rates = AdaptedRates(optimizer, grown, rule, floor, every)
    before = attached_to(optimizer)
    if before is not None:
        before.remove()
    rates.attach()
    return rates


def attached_to(optimizer: Optimizer) -> AdaptedRates | None:
    """The rates attached to an optimizer, if there are any."""
    owners = (getattr(hook, "__self__", None) for hook in innermost(optimizer)._optimizer_step_pre_hooks.values())
    return next((owner for owner in owners if isinstance(owner, AdaptedRates)), None)


class AdaptedRates(Shown):
    """Rates by age, as `adapt_rates` attaches them to an optimizer. Prints as a table.

    They are saved with the optimizer: `optimizer.state_dict()` has them under "fxgrow_rates".
    """

    def __init__(self, optimizer: Optimizer, grown: nn.Module, rule: str | Rule, floor: str | None, every: int) -> None:
        self.rule = rule if isinstance(rule, str) else getattr(rule, "__name__", type(rule).__name__)
        self.floor = floor
        self.every = every
        self._decide: Rule = RULES[rule] if isinstance(rule, str) else rule
        self._needs_updates = bool(getattr(self._decide, "needs_updates", False))
        self._optimizer = weakref.ref(innermost(optimizer))
        self._handles: list[Any] = []
        self._before: Tensor | None = None
        self._rates, self._least, self._ages = (torch.zeros(0) for _ in range(3))
        self._younger, self._oldest, self._stage = (torch.zeros(0, dtype=torch.long) for _ in range(3))
        self.follow(grown)

    def follow(self, grown: nn.Module) -> None:
        """Take up a model that has grown, once the optimizer holds its parameters.

        Raises
        ------
        TrainingError: the optimizer holds none of them.
        """
        self._steps = 0
        plain = unwrapped(grown)
        born = births(plain)
        optimizer = self._held()
        in_optimizer = {id(parameter) for parameter in parameters_of(optimizer)}
        parameters = {name: p for name, p in plain.named_parameters() if id(p) in in_optimizer}
        if not parameters:
            raise TrainingError(
                "the optimizer holds none of the model's parameters",
                where=type(optimizer).__name__,
                remedy="make the optimizer from the grown model's parameters, or call fxgrow.replace_parameters",
            )
        history = known_history(plain)
        self._aged = list(_aged(parameters, born, history.twins()))
        self._names = tuple(aged.name for aged in self._aged for _ in aged.younger)
        self._stages = tuple(stage for aged in self._aged for stage in aged.younger)
        growths, of = history.growths(), {aged.name: aged for aged in self._aged}
        least = [
            _least(growths[stage - 1].get(aged.name), aged, of.get(aged.beside or "", aged), stage)
            if self.floor
            else 0.0
            for aged in self._aged
            for stage in aged.younger
        ]
        home = self._home()
        self._least = torch.tensor(least, dtype=exact_dtype(home), device=home)
        ages = self._ages.to(self._least)
        self._ages = torch.cat([ages, ages.new_zeros(max(0, history.stage + 1 - len(ages)))])
        self._arrange()
        self._set_rates(torch.ones_like(self._least))
        if not self._needs_updates:
            with torch.no_grad():
                self._set_rates(self._decided(self._gathered([blocks.squares() for blocks in self._blocks])))

    def _home(self) -> torch.device:
        return self._aged[0].parameter.device if self._aged else torch.device("cpu")

    def _settle(self) -> None:
        """Follow the parameters where they have been moved to another device; what pays as a block differs there."""
        home = self._home()
        if self._least.device != home:
            kind = exact_dtype(home)
            self._least, self._rates, self._ages = (t.to(home, kind) for t in (self._least, self._rates, self._ages))
            self._arrange()
            self._set_rates(self._rates)

    def _arrange(self) -> None:
        """Make blocks, and note where each block of each parameter is among them, in the order of parameters."""
        self._blocks = blocks_of(self._aged)
        keys = [(member.name, stage) for blocks in self._blocks for member in blocks.members for stage in member.stages]
        place = {key: number for number, key in enumerate(keys)}
        first = {aged.name: place[aged.name, aged.stages[0]] for aged in self._aged}
        self._younger, self._oldest, self._stage = (
            torch.tensor(places, dtype=torch.long, device=self._least.device)
            for places in (
                [place[aged.name, stage] for aged in self._aged for stage in aged.younger],
                [first[aged.beside or aged.name] for aged in self._aged for _ in aged.younger],
                list(self._stages),
            )
        )
        self._sizes = [sum(len(member.stages) for member in blocks.members) for blocks in self._blocks]
        divided: dict[tuple[Any, ...], list[int]] = {}
        for aged in self._aged:
            groups = groups_of(aged.parameter)
            if groups:
                divided.setdefault(groups, []).extend(place[aged.name, stage] for stage in aged.stages)
        self._divided = tuple(divided.items())

    def _held(self) -> Optimizer:
        optimizer = self._optimizer()
        assert optimizer is not None, "the optimizer is gone"
        return optimizer

    # -- reading -----------------------------------------------------------------------------------------

    def current(self) -> dict[str, dict[int, float]]:
        """The rates in force, as multiples of the optimizer's: parameter -> stage -> rate. Oldest entries have 1."""
        result: dict[str, dict[int, float]] = {}
        for name, stage, rate in zip(self._names, self._stages, self._rates.tolist(), strict=True):
            result.setdefault(name, {})[stage] = rate
        return result

    def by_stage(self) -> dict[int, float]:
        """The mean multiple of each stage, tensors weighted by their entries of that stage."""
        counts = [aged.counts[stage] for aged in self._aged for stage in aged.younger]
        weighted: dict[int, float] = {}
        total: dict[int, int] = {}
        for stage, count, rate in zip(self._stages, counts, self._rates.tolist(), strict=True):
            weighted[stage] = weighted.get(stage, 0.0) + count * rate
            total[stage] = total.get(stage, 0) + count
        return {stage: weighted[stage] / total[stage] for stage in sorted(total)}

    def learning_rates(self) -> dict[str, dict[int, float]]:
        """The learning rates in force: parameter -> stage -> its group's rate times the multiple."""
        own = {id(p): float(group["lr"]) for group in self._held().param_groups for p in group["params"]}
        current = self.current()
        return {
            aged.name: {stage: own[id(aged.parameter)] * current[aged.name].get(stage, 1.0) for stage in aged.stages}
            for aged in self._aged
            if aged.younger
        }

    def __rich__(self) -> Table:
        title = f"learning rates by age, as multiples (rule={self.rule}, floor={self.floor})"
        stages = sorted(set(self._stages))
        table = titled(title, "parameter", right=[f"stage {stage}" for stage in stages])
        for name, rates in self.current().items():
            table.add_row(name, *(f"{rates[stage]:.3f}" if stage in rates else "" for stage in stages))
        table.add_section()
        means = self.by_stage()
        table.add_row("mean", *(f"{means[stage]:.3f}" for stage in stages))
        return table

    def plot(self, ax: Axes | None = None) -> Figure:
        """The rates in force, tensor by tensor, as multiples of the optimizer's: a colour for each birth stage.

        `fxgrow.plots.over_time` draws the means of stages that were collected during training.

        ax: matplotlib axes to draw on; a new figure unless given.

        Raises
        ------
        FxgrowError: matplotlib is not installed.
        """
        current = self.current()
        (panel,) = panels(ax, 1, (max(5.0, min(12.0, 2.5 + 0.22 * len(current))), 4))
        panel.axhline(1.0, color="0.6", linestyle="--", label="the optimizer's")
        for stage, colour in colours_of(self._stages).items():
            points = [(place, rates[stage]) for place, rates in enumerate(current.values()) if stage in rates]
            panel.plot(*zip(*points, strict=True), "o", color=colour, markersize=5, label=f"stage {stage}")
        panel.set(
            ylabel="multiple of the optimizer's rate", title=f"rule={self.rule}, floor={self.floor}", ylim=(0, None)
        )
        named_ticks(panel, list(current))
        legend_beside(panel)
        return figure_of(panel)

    # -- attaching, saving -------------------------------------------------------------------------------

    def attach(self) -> None:
        """Put the hooks on the optimizer."""
        optimizer = self._held()
        self._handles = [
            optimizer.register_step_pre_hook(self._step_begins),
            optimizer.register_step_post_hook(self._step_ends),
            optimizer.register_state_dict_post_hook(self._on_save),
            optimizer.register_load_state_dict_pre_hook(self._on_load),
        ]

    def remove(self) -> None:
        """Take the hooks off: from now on all entries learn at the optimizer's rate."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        for blocks in self._blocks:
            blocks.release()

    def state_dict(self) -> dict[str, Any]:
        """What it takes to go on bit for bit: the steps taken and the rates in force."""
        return {
            "steps": self._steps,
            "names": list(self._names),
            "stages": list(self._stages),
            "rates": self._rates.clone(),
            "ages": self._ages.clone(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from where a state was saved.

        Raises
        ------
        TrainingError: it was saved for a model that had grown otherwise.
        """
        if (tuple(state["names"]), tuple(state["stages"])) != (self._names, self._stages):
            raise TrainingError(
                "the state was saved for a model that had grown otherwise",
                where=KEY,
                remedy="load it into an optimizer of a model that went through the same growths",
            )
        self._steps = int(state["steps"])
        if "ages" in state:
            self._ages = state["ages"].to(self._least, copy=True)
        self._set_rates(state["rates"].to(self._least, copy=True))

    def _on_save(self, optimizer: Optimizer, state_dict: dict[str, Any]) -> None:
        state_dict[KEY] = self.state_dict()

    def _on_load(self, optimizer: Optimizer, state_dict: dict[str, Any]) -> None:
        if KEY in state_dict:
            self.load_state_dict(state_dict[KEY])

    # -- one step ----------------------------------------------------------------------------------------

    @torch.no_grad()
    def _step_begins(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._settle()
        capturing = torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()
        due = capturing or self._steps % self.every == 0
        closure = len(args) > 1 or bool(kwargs)  # gradients may only come to be within the step
        squares = []
        for blocks in self._in_cache():
            blocks.keep(younger_only=not (due and self._needs_updates), gradients_come_later=closure)
            if due:
                squares.append(blocks.squares())
        self._before = self._gathered(squares[::-1]) if due else None
        if self._before is not None and not self._needs_updates:
            self._set_rates(self._decided(self._before))

    @torch.no_grad()
    def _step_ends(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._before is not None and self._needs_updates:
            changes = self._gathered([blocks.change_squares() for blocks in self._blocks])
            self._set_rates(self._decided(self._before, changes))
        self._before = None
        for blocks in self._in_cache():
            blocks.scale_changes()
        self._ages.add_(1)
        self._steps += 1

    def _in_cache(self) -> Iterable[Blocks]:
        """Last parameters first: optimizers go through them in order, so these the cache still holds after a step,
        and the first are in it when the next begins."""
        return reversed(self._blocks)

    def _gathered(self, squares: Sequence[Tensor]) -> Tensor:
        """The norm of every block, from sums of squares over what this process holds of it."""
        if not squares:
            return self._least
        return add_up(torch.cat([s.to(self._least) for s in squares]), self._divided).sqrt()

    def _set_rates(self, rates: Tensor) -> None:
        self._rates = rates
        every = rates.new_ones(sum(self._sizes)).index_copy(0, self._younger, rates)
        for blocks, part in zip(self._blocks, every.split(self._sizes), strict=True):
            blocks.use(part)

    def _decided(self, weight: Tensor, update: Tensor | None = None) -> Tensor:
        """What the rule makes of the norms of all blocks, before a step and of what it added."""
        if not self._aged:
            return self._rates
        rates = self._decide(
            Norms(
                self._names,
                self._stages,
                weight[self._younger],
                weight[self._oldest],
                self._least,
                None if update is None else update[self._younger],
                None if update is None else update[self._oldest],
                self._ages[self._stage],
            )
        )
        if not isinstance(rates, Tensor) or rates.shape != self._rates.shape:
            raise TrainingError(
                f"the rule gave {_shape(rates)} for {len(self._names)} blocks",
                where=self.rule,
                remedy="return a tensor with one rate for each block",
            )
        return rates.detach().to(self._least)


def _shape(result: Any) -> str:
    return f"a tensor of shape {list(result.shape)}" if isinstance(result, Tensor) else type(result).__name__


def _aged(parameters: Mapping[str, Tensor], born: Mapping[str, Birth], twins: Mapping[str, str]) -> Iterator[Aged]:
    """The parameters that have younger entries, or are what those of others are compared with."""
    twin_of = {name: twin for name, twin in twins.items() if name in parameters and twin in parameters}
    compared = set(twin_of.values())
    for name, parameter in parameters.items():
        if len(born[name].counts()) > 1 or name in twin_of or name in compared:
            yield Aged(name, parameter, born[name], twin_of.get(name))


def _least(growth: TensorGrowth | None, aged: Aged, beside: Aged, stage: int) -> float:
    """The floor as a rate: the norm of a block drawn at the scale of the oldest entries, over theirs."""
    spread = 1.0
    if growth is not None and growth.draw == "normal":
        spread = relative_deviation(growth) / growth.scale
    return spread * math.sqrt(aged.counts[stage] / beside.counts[beside.stages[0]])
