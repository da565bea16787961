"""Optimizer state through growth: old entries are kept exactly, new ones start as a fresh parameter's would.

What each entry of a state is (a statistic of squared gradients, a momentum, values of the parameter, a
counter) is found out by trying the optimizer on a small tensor, so that no optimizer has a special case.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from fxgrow.errors import TrainingError, check_one_of
from fxgrow.first_names import FIRST_NAME, NAME
from fxgrow.history import drawn_by, known_history
from fxgrow.modules.shards import alike_undivided, divide, is_divided, whole
from fxgrow.planning.plan import Axis, TensorGrowth
from fxgrow.training.groups import WIDTH_SCALE, parameterization_of, rate_scales
from fxgrow.training.matching import BY_HAND, NEW, Match, matched
from fxgrow.training.parameters import innermost, names_of, parameters_of, remember_names, unwrapped
from fxgrow.training.places import Places, repeated
from fxgrow.training.rates import attached_to
from fxgrow.training.trial import EntryState, Trials, starting_state
from fxgrow.transforms.tensors import grow_tensor

MOMENTS = ("fill", "zero")


@dataclass(frozen=True)
class Transfer:
    """What became of an optimizer's state.

    Attributes
    ----------
    carried: parameters whose state went through the index maps, or needed none.
    fresh: parameters that start anew, and why.
    gone: the old names of parameters whose part was replaced or taken out by hand since.
    others: how many parameters the optimizer holds that are not the model's; they stay as they are.
    """

    carried: tuple[str, ...] = ()
    fresh: Mapping[str, str] = field(default_factory=dict)
    gone: tuple[str, ...] = ()
    others: int = 0

    def __str__(self) -> str:
        lines = [f"state of {len(self.carried)} parameters carried over, of {len(self.fresh)} fresh"]
        lines += [f"{name}: {reason}" for name, reason in self.fresh.items()]
        lines += [f"{name}: it was replaced or taken out by hand" for name in self.gone]
        return "\n".join(lines + ([f"{self.others} parameters are not the model's"] if self.others else []))


def transfer_state(
    old_optimizer: Optimizer,
    new_optimizer: Optimizer,
    grown: nn.Module,
    *,
    model: nn.Module | None = None,
    moments: str = "fill",
) -> Transfer:
    """Carry an optimizer's state through growth into the optimizer of the grown model.

    Old entries are carried bit for bit, also where growth rescaled the weights themselves. So are step counters. New
    entries start as those of a fresh parameter. Only new statistics of squared gradients get the mean of the old
    entries of the same row and column, so that the first updates are not too large. Parameters that growth added
    start without state. Learning rates and other options stay those of `new_optimizer`. There may be several growths
    in between.

    Parameters
    ----------
    old_optimizer: holds the parameters from before the growth.
    new_optimizer: of the same kind, made from `grown`; its state is replaced.
    model: the model that `old_optimizer` holds, for the rare case that its parameters' names are not known, or where
        it holds other parameters beside the model's (a loss with weights, a discriminator), whose state is kept.
    moments: statistics of squared gradients of new entries: "fill", as above, or "zero", as a fresh parameter's.

    Raises
    ------
    TrainingError: the optimizers are of different kinds, or do not hold the parameters they should.
    FxgrowError: the model was not grown by fxgrow.

    >>> import torch, fxgrow
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> old = torch.optim.AdamW(model.parameters())
    >>> model(torch.randn(3, 4)).square().mean().backward()
    >>> old.step()
    >>> grown = fxgrow.grow(model, width=2, example_inputs=torch.randn(1, 4))
    >>> new = torch.optim.AdamW(grown.parameters())
    >>> print(fxgrow.transfer_state(old, new, grown))
    state of 4 parameters carried over, of 0 fresh
    >>> weight = grown.get_parameter("0.weight")
    >>> torch.equal(new.state[weight]["exp_avg"][:8], old.state[model[0].weight]["exp_avg"])
    True
    """
    source, target = innermost(old_optimizer), innermost(new_optimizer)
    if type(source) is not type(target):
        raise TrainingError(
            f"state of {type(source).__name__} means nothing to {type(target).__name__}",
            remedy="make the new optimizer of the same class",
        )
    plain = unwrapped(grown)
    parameters = dict(plain.named_parameters())
    in_optimizer = set(map(id, parameters_of(target)))
    match, states, transfer = _carried(source, plain, model, moments)
    if not in_optimizer & set(map(id, parameters.values())):
        raise TrainingError(
            "the new optimizer holds none of the grown model's parameters",
            where=type(target).__name__,
            remedy="make it from the grown model",
        )
    optimized = {name: p for name, p in parameters.items() if id(p) in in_optimizer}
    _set_state(target, optimized, states, _others(source, match), source.state)
    _carry_counters(source, target, match.now, {id(p): n for n, p in parameters.items()})
    return replace(transfer, fresh={name: why for name, why in transfer.fresh.items() if name in optimized})


def replace_parameters(
    optimizer: Optimizer, grown: nn.Module, *, model: nn.Module | None = None, moments: str = "fill"
) -> Transfer:
    """Put a grown model's parameters into the optimizer that held the old ones, and carry its state over.

    The optimizer stays the same object, with the same groups and options in the same order, so that schedulers
    and gradient scalers that hold it go on. State is carried as by `transfer_state`. Parameters of new blocks join
    the group of those that they repeat, at the rate of the block before them, so that rates by depth (timm's
    `layer_decay`) still rise with it. Parameters that the optimizer did not hold stay out of it. Rates attached by
    `adapt_rates` follow.

    Parts may have been replaced by hand since. The parameters of a new head join the group of the old head's. The
    parameters of a part that replaced nothing join the group of their closest namesake, and `fresh` says so. A part
    of the same names and sizes counts as the old part, and state is kept for it.

    Parameters
    ----------
    model: the model that the optimizer holds, for the rare case that its parameters' names are not known, or where it
        holds other parameters beside the model's, which stay in their places.
    moments: as in `transfer_state`.

    Raises
    ------
    TrainingError: the optimizer does not hold what it should, or its groups' learning rates follow µP, which
        growth changes: then nothing is replaced.
    FxgrowError: the model was not grown by fxgrow.

    >>> import torch, fxgrow
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    >>> schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 100)
    >>> grown = fxgrow.grow(model, width=2, example_inputs=torch.randn(1, 4))
    >>> _ = fxgrow.replace_parameters(optimizer, grown)
    >>> optimizer.param_groups[0]["params"][0] is grown.get_parameter("0.weight")
    True
    """
    source = innermost(optimizer)
    plain = unwrapped(grown)
    match, states, transfer = _carried(source, plain, model, moments)
    parameters = dict(plain.named_parameters())
    _refuse_changed_scales(source, plain, match.now)
    names_held = [[match.now.get(p) for p in group["params"]] for group in source.param_groups]
    lists = [[name for name in group if name is not None] for group in names_held]
    place = {name: number for number, name in enumerate(parameters)}
    in_order = [members == sorted(members, key=place.__getitem__) for members in lists]
    joining = Places(source.param_groups, match, plain)
    fresh = dict(transfer.fresh)
    for name, parameter in parameters.items():
        if parameter.requires_grad and fresh.get(name) in (NEW, BY_HAND):
            number, how = joining.group_for(name)
            if number is not None:  # else another optimizer holds what it is like
                lists[number].append(name)
                fresh[name] += how
    others = _others(source, match)
    for group, members, ordered in zip(source.param_groups, lists, in_order, strict=True):
        if ordered:  # as a fresh optimizer of the grown model has them, which its saved state is for
            members.sort(key=place.__getitem__)
        own = [parameter not in others for parameter in group["params"]]
        first = own.index(True) if True in own else len(own)
        beside = [number for number, is_own in enumerate(own) if not is_own]
        before, after = [k for k in beside if k < first], [k for k in beside if k > first]
        for key, entries in (("params", [parameters[name] for name in members]), ("param_names", members)):
            if key in group:
                listed = list(group[key])
                group[key][:] = [*(listed[k] for k in before), *entries, *(listed[k] for k in after)]
    held_now = {name: parameters[name] for members in lists for name in members}
    _set_state(source, held_now, states, others, source.state)
    transfer = replace(transfer, fresh={name: why for name, why in fresh.items() if name in held_now})
    for name in [name for name in vars(source) if "numel" in name]:  # which torch's LBFGS counts once
        setattr(source, name, None)
    remember_names(plain)
    rates = attached_to(source)
    if rates is not None:
        rates.follow(plain)
    return transfer


def _others(optimizer: Optimizer, match: Match) -> dict[Tensor, None]:
    """What an optimizer holds beside the parameters of the model."""
    return dict.fromkeys(p for p in parameters_of(optimizer) if p not in match.now and p not in match.gone)


def _set_state(
    optimizer: Optimizer,
    parameters: Mapping[str, Tensor],
    states: Mapping[str, dict[str, Any]],
    others: Iterable[Tensor],
    before: Mapping[Tensor, dict[str, Any]],
) -> None:
    """Give an optimizer the states of parameters; those without one start as it starts, some with a state.

    others: what is not the model's; what of it the optimizer holds keeps the state from before.
    """
    ids = set(map(id, parameters_of(optimizer)))
    kept = {parameter: before[parameter] for parameter in others if parameter in before and id(parameter) in ids}
    noted = {name for name, parameter in parameters.items() if vars(parameter).keys() - {NAME, FIRST_NAME}}
    started = starting_state(optimizer, [p for name, p in parameters.items() if name not in states or name in noted])
    optimizer.state.clear()
    optimizer.state.update(kept)
    for name, parameter in parameters.items():
        state = states.get(name) or started.get(parameter)
        if state:
            optimizer.state[parameter] = state


def _carried(
    optimizer: Optimizer, grown: nn.Module, model: nn.Module | None, moments: str
) -> tuple[Match, dict[str, dict[str, Any]], Transfer]:
    """What the optimizer's parameters have become, its state by the names they have now, what became of it."""
    check_one_of(MOMENTS, moments, f"moments={moments!r} is not known", TrainingError)
    names, stage = names_of(optimizer, model)
    history = known_history(grown)
    parameters = dict(grown.named_parameters())
    match = matched(names, stage, parameters, history)
    chains: dict[str, list[tuple[TensorGrowth, str]]] = {name: [] for name in match.now.values()}
    present = {then: name for name, then in match.growth_names.items()}
    for number, growths in enumerate(history.growths()[match.since :], start=match.since + 1):
        for name, growth in growths.items():
            if present.get(name) in chains:
                chains[present[name]].append((growth, drawn_by(history.steps[number - 1].seed, number)))
    group_of = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    by_name = {name: parameter for parameter, name in match.now.items()}
    trials = Trials(optimizer)
    optimized = list(parameters_of(optimizer))
    joint = sum(torch.view_as_real(p).numel() if p.is_complex() else p.numel() for p in optimized)
    states: dict[str, dict[str, Any]] = {}
    fresh = {name: match.why_fresh(name) for name in parameters.keys() - chains.keys()}
    for parameter, name in match.now.items():
        state = optimizer.state.get(parameter)
        if not state:
            continue
        try:
            _refuse_joint(state, parameter, joint)
            states[name] = _grown_state(
                trials, group_of[id(parameter)], parameter, state, chains[name], moments, parameters[name]
            )
        except _Untransferable as reason:
            fresh[name] = str(reason)
    twins = match.twins
    for name in fresh:
        twin = repeated(name, twins, by_name)
        twin = twin if twin in states else next(iter(states), "")
        if twin:
            like = by_name[twin]
            started = _started(trials, group_of[id(like)], like, states[twin], parameters[name])
            states.update({name: started} if started else {})
    ordered = {name: fresh[name] for name in parameters if name in fresh}
    carried = tuple(name for name in parameters if name in chains and name not in fresh)
    return match, states, Transfer(carried, ordered, tuple(match.gone.values()), len(optimized) - len(names))


class _Untransferable(Exception):
    """Why the state of a parameter cannot be carried over."""


def _refuse_joint(state: Mapping[str, Any], parameter: Tensor, joint: int) -> None:
    """Refuse vectors over the entries of all parameters, as of torch's LBFGS, which keeps them by its first one."""
    for key, value in state.items():
        if isinstance(value, Tensor) and value.shape == (joint,) != parameter.shape:
            raise _Untransferable(f"its {key} goes over all parameters, to which index maps do not apply")


def _grown_state(
    trials: Trials,
    group: dict[str, Any],
    parameter: Tensor,
    state: Mapping[str, Any],
    chain: Sequence[tuple[TensorGrowth, str]],
    moments: str,
    grown: Tensor,
) -> dict[str, Any]:
    """The state of a parameter of the grown model, divided among processes as that is."""
    if not chain and is_divided(parameter) == is_divided(grown):
        return {
            key: value.clone() if isinstance(value, Tensor) else copy.deepcopy(value) for key, value in state.items()
        }
    kinds = trials.entries_of(group, alike_undivided(parameter))
    size = alike_undivided(parameter).new_empty(1).expand(grown.shape)
    after = trials.entries_of(group, size)
    if kinds and after and kinds.keys() != after.keys():
        raise _Untransferable("its optimizer keeps other entries for a tensor of the new size")
    result: dict[str, Any] = {}
    for key, value in state.items():
        if (isinstance(value, Tensor) and value.numel() > 1) or (key in kinds and kinds[key].axes):
            entry = kinds.get(key) or EntryState.unknown(key, value.shape, parameter.shape)
            moved = key in after and entry is not None and after[key].axes != entry.axes
            if entry is None or moved or not isinstance(value, Tensor):
                raise _Untransferable(f"its {key} is of a form that index maps do not apply to")
            value = whole(value)
            for growth, seed in chain:
                value = _grown_entry(value, entry, growth, seed, moments)
            if is_divided(grown) and value.shape != grown.shape:
                raise _Untransferable(f"its {key} is of another form than the parameter, which is divided")
            result[key] = divide(value, grown)
        elif isinstance(value, Tensor):
            result[key] = value.clone()
        elif value is None or isinstance(value, (bool, int, float, str)):
            result[key] = value
        else:
            raise _Untransferable(f"its {key} is a {type(value).__name__}, to which index maps do not apply")
    return result


def _started(
    trials: Trials, group: dict[str, Any], like: Tensor, state: Mapping[str, Any], new: Tensor
) -> dict[str, Any]:
    """The state of a parameter of a new block, where its optimizer cannot make it beside others that have theirs.

    torch's fused SGD takes a momentum from every parameter or from none. It starts at what a first step would find.
    """
    tensors = {key: value for key, value in state.items() if isinstance(value, Tensor)}
    if not group.get("fused") or len(tensors) != len(state):
        return {}
    kinds = trials.entries_of(group, alike_undivided(like))
    if not all(key in kinds and kinds[key].kind == "constant" and kinds[key].axes for key in tensors):
        return {}
    return {key: torch.full_like(new, kinds[key].value, dtype=value.dtype) for key, value in tensors.items()}


def _grown_entry(value: Tensor, entry: EntryState, growth: TensorGrowth, seed: str, moments: str) -> Tensor:
    """One tensor of a state through one growth."""
    if entry.kind == "values":
        return grow_tensor(value, growth, seed)
    fill = "mean" if entry.kind == "statistic" and moments == "fill" else "draw"
    axes = tuple(_filled(growth.axes[axis], fill) if axis is not None else Axis("keep", 1, 1) for axis in entry.axes)
    plain = replace(growth, axes=axes, draw="zeros", scale=1.0)
    grown = grow_tensor(value, plain, seed)
    if entry.kind == "constant" and entry.value != 0:
        old = grow_tensor(torch.ones_like(value, dtype=torch.bool), plain, seed)
        grown.masked_fill_(~old, entry.value)
    return grown


def _filled(axis: Axis, fill: str) -> Axis:
    """The axis with all its new entries filled in one way."""
    if axis.kind == "grow":
        return replace(axis, fill=fill)
    return replace(axis, parts=tuple(_filled(part, fill) for part in axis.parts))


def _carry_counters(
    source: Optimizer, target: Optimizer, names: Mapping[Tensor, str], new_names: Mapping[int, str]
) -> None:
    """Step counters that an optimizer keeps in its groups, from the group with most of the same parameters."""
    members = [{names[p] for p in group["params"] if p in names} for group in source.param_groups]
    for group in target.param_groups:
        own = {new_names.get(id(p)) for p in group["params"]}
        nearest = max(range(len(members)), key=lambda k: len(own & members[k]))
        for key, value in source.param_groups[nearest].items():
            if key == "step" or key.endswith("_step"):
                group[key] = copy.deepcopy(value)


def _refuse_changed_scales(optimizer: Optimizer, grown: nn.Module, names: Mapping[Tensor, str]) -> None:
    """µP's rates follow the widths, and a group has one rate, which schedulers keep a copy of."""
    if parameterization_of(grown) != "mup":
        return
    tables = [rate_scales(grown, kind) for kind in ("sgd", "adam")]
    for group in optimizer.param_groups:
        for parameter in filter(names.__contains__, group["params"]):
            wanted = {table.get(names[parameter], 1.0) for table in tables}
            if WIDTH_SCALE in group and group[WIDTH_SCALE] not in wanted:
                raise TrainingError(
                    "growth changes µP's learning rate of this parameter, and its group has another",
                    where=names[parameter],
                    remedy="make a new optimizer with fxgrow.param_groups and call fxgrow.transfer_state",
                )
