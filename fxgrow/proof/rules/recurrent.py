"""Recurrent layers: by induction over time, old hidden units read what they read before."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from fxgrow.proof.claims import Claim, Refuted, Unproved, both_copies, carried, split_axis, unchanged
from fxgrow.proof.known_values import REPEATING, repeated
from fxgrow.proof.node_pair import Use, claims_in
from fxgrow.proof.products import Operand, contract
from fxgrow.proof.rules.movement import joined
from fxgrow.rules.recurrent import PackedParts, Packing, Recurrent


def recurrent(law: Recurrent, use: Use) -> Any:
    """nn.RNN, nn.GRU, nn.LSTM: weights `[gates x hidden, in]`, one hidden dimension for all layers."""
    module: Any = use.new_module
    assert isinstance(module, nn.RNNBase)
    if module.proj_size:
        raise Unproved("a recurrent layer with a projection has no rule")
    x, *others = map(use.equal, use.claims())
    given = use.argument(0, "input")
    packed = () if isinstance(given, Claim) else tuple(given[1:])
    order = len(list(claims_in(packed)))
    use.fixed(x, range(x.rank - 1), "time or batch")
    use.unchanged(others[:order], "time or batch")
    states = others[order:]
    layer_input = carried(x, [None, x.rank - 1], (1, x.old[-1]))
    layers: list[Claim] = []
    for layer in range(module.num_layers):
        suffixes = (f"_l{layer}", f"_l{layer}_reverse")[: 2 if module.bidirectional else 1]
        sent = [_hidden_units(use, suffix, law.gates, layer_input, states) for suffix in suffixes]
        layers += sent
        layer_input = joined(sent, 1)
    output, after = _results(use, x, layer_input, layers)
    return (output, *packed) if packed else output, after


def packing(law: Packing, use: Use) -> Any:
    """Positions of sequences put elsewhere, the same for all units; what is put behind them is one number."""
    x, *lengths = map(use.equal, use.claims())
    before, after = law.leading
    use.fixed(x, range(before), "time or batch")
    use.unchanged(lengths, "time or batch")
    made, sizes = use.value
    moved = carried(x, [*[None] * after, *range(before, x.rank)], made.shape)
    return moved if law.fills_with_zeros(use.given) else replace(moved, zero=None), unchanged(sizes.shape)


def packed(law: PackedParts, use: Use) -> Any:
    return tuple(use.args)


def cell(law: Recurrent, use: Use) -> Any:
    """nn.RNNCell, nn.GRUCell, nn.LSTMCell: one step; where no state is given it starts at zero."""
    x, *states = map(use.equal, use.claims())
    for claim in (x, *states):
        use.fixed(claim, range(claim.rank - 1), "batch")
    hidden = _hidden_units(use, "", law.gates, x, states)
    return tuple(hidden for _ in use.value) if isinstance(use.value, tuple) else hidden


def _hidden_units(use: Use, suffix: str, gates: int, layer_input: Claim, states: list[Claim]) -> Claim:
    """What is known of the hidden units of a layer, from its input and, by induction, from the hidden units before."""
    sizes = (int(use.old_module.hidden_size), int(use.new_module.hidden_size))  # type: ignore[union-attr, arg-type]
    enter, inner = (_weight(use, f"weight_{kind}{suffix}", gates, sizes) for kind in ("ih", "hh"))
    biases = [_weight(use, f"bias_{kind}{suffix}", gates, sizes) for kind in ("ih", "hh")]
    if enter is None or inner is None:
        raise Refuted(f"{use.name} lacks a weight")
    maps = (inner.maps[2], inner.maps[1], enter.maps[1])
    position = use.agreeing_maps(maps, (inner.new[2], inner.new[1], enter.new[1]), "hidden units")
    for state in states:
        own = position if state.uniform else state.maps[-1]
        use.agreeing_maps((own, position), (state.new[-1], sizes[1]), "a state")
    equal, lead = _equal_units([enter, inner, *biases], states, sizes[1]), layer_input.rank - 1
    hidden = Claim(
        (*layer_input.old[:-1], sizes[0]),
        (*layer_input.new[:-1], sizes[1]),
        (*layer_input.maps[:-1], position),
        copies={lead: equal},
    )
    letters = tuple(f"n{k}" for k in range(lead))
    for weight, bias, source in ((enter, biases[0], layer_input), (inner, biases[1], hidden)):
        added = Operand(bias, ("a", "o")) if bias is not None else None
        contract(use, [Operand(source, (*letters, "i")), Operand(weight, ("a", "o", "i"))], (*letters, "a", "o"), added)
    return hidden


def _weight(use: Use, name: str, gates: int, sizes: tuple[int, int]) -> Claim | None:
    claim = use.parameter(name)
    return split_axis(claim, 0, (gates, sizes[0]), (gates, sizes[1])) if claim is not None else None


def _equal_units(weights: list[Claim | None], states: list[Claim], size: int) -> Tensor:
    """Hidden units that start equal and read the same, so that they are equal at every time."""
    common: Tensor | None = None
    for weight in weights:
        if weight is None or weight.held is None:
            continue
        own = repeated(weight.held.new, 1) if weight.rank == 2 or weight.held.fills & REPEATING else torch.arange(size)
        common = own if common is None else both_copies(common, own)
    for state in states:
        common = both_copies(common, state.copies_of(state.rank - 1)) if common is not None else None
    return torch.arange(size) if common is None else common


def _results(use: Use, x: Claim, sent: Claim, layers: list[Claim]) -> Any:
    output = carried(sent, [*[None] * (x.rank - 1), 1], x.old)
    common = functools.reduce(both_copies, (hidden.copies_of(1) for hidden in layers))

    def state(value: Tensor) -> Claim:
        lead, hidden = tuple(value.shape[:-1]), layers[-1]
        maps = (*(None for _ in lead), hidden.maps[1])
        return Claim((*lead, hidden.old[1]), (*lead, hidden.new[1]), maps, None, {len(lead): common})

    states = use.value[1]
    return output, tuple(map(state, states)) if isinstance(states, tuple) else state(states)
