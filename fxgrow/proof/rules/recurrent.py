"""Recurrent layers: by induction over time, old hidden units read what they read before."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fxgrow.proof.claims import Claim, Map, Refuted, Unproved, both_copies, carried, spare_copies, split_axis
from fxgrow.proof.node_pair import REPEATING, Use, repeated
from fxgrow.proof.products import Operand, contract


def recurrent(use: Use, gates: int) -> Any:
    """nn.RNN, nn.GRU, nn.LSTM: weights `[gates x hidden, in]`, one hidden dimension for all layers."""
    use.rule = "recurrent layer, by induction over time"
    use.same_settings({"input_size", "hidden_size", "_flat_weights", "_flat_weight_refs"})
    module: Any = use.new_module
    assert isinstance(module, nn.RNNBase)
    if module.proj_size:
        raise Unproved("a recurrent layer with a projection has no rule")
    x = use.equal(use.claims()[0])
    if any(m is not None for m in x.maps[:-1]):
        raise Unproved("time or batch has grown")
    states = [use.equal(state) for state in use.claims()[1:]]
    sizes = (int(use.old_module.hidden_size), int(module.hidden_size))  # type: ignore[union-attr, arg-type]
    given = carried(x, [None, x.rank - 1], (1, x.old[-1]))
    hidden: Map = None
    copies: list[Tensor] = []
    for layer in range(module.num_layers):
        sent = []
        for suffix in ("", "_reverse")[: 2 if module.bidirectional else 1]:
            enter, inner = (_weight(use, f"weight_{kind}_l{layer}{suffix}", gates, sizes) for kind in ("ih", "hh"))
            biases = [_weight(use, f"bias_{kind}_l{layer}{suffix}", gates, sizes) for kind in ("ih", "hh")]
            hidden = _hidden(use, enter, inner)
            equal = _equal_units([enter, inner, *biases], states, sizes[1])
            own = Claim((1, sizes[0]), (1, sizes[1]), (None, hidden), None, spare_copies({1: equal}))
            for weight, bias, source in ((enter, biases[0], given), (inner, biases[1], own)):
                assert weight is not None
                contract(
                    use,
                    [Operand(source, ("n", "i")), Operand(weight, ("a", "o", "i"))],
                    ("n", "a", "o"),
                    Operand(bias, ("a", "o")) if bias is not None else None,
                )
            sent.append(own)
            copies.append(equal)
        given = _joined(sent)
    for state in states:
        use.agreeing_maps((state.maps[-1], hidden), (state.new[-1], sizes[1]), "a state")
    return _results(use, x, given, hidden, sizes, copies)


def cell(use: Use, gates: int) -> Any:
    """nn.RNNCell, nn.GRUCell, nn.LSTMCell: one step; where no state is given it starts at zero."""
    use.rule = "a step of a recurrence"
    use.same_settings({"input_size", "hidden_size"})
    sizes = (int(use.old_module.hidden_size), int(use.new_module.hidden_size))  # type: ignore[union-attr, arg-type]
    x, *states = (use.equal(claim) for claim in use.claims())
    if any(m is not None for given in (x, *states) for m in given.maps[:-1]):
        raise Unproved("batch has grown")
    enter, inner = (_weight(use, f"weight_{kind}", gates, sizes) for kind in ("ih", "hh"))
    biases = [_weight(use, f"bias_{kind}", gates, sizes) for kind in ("ih", "hh")]
    hidden = _hidden(use, enter, inner)
    for state in states:
        use.agreeing_maps((state.maps[-1], hidden), (state.new[-1], sizes[1]), "a state")
    equal = _equal_units([enter, inner, *biases], states, sizes[1])
    lead = x.rank - 1
    before = Claim(
        (*x.old[:-1], sizes[0]), (*x.new[:-1], sizes[1]), (*x.maps[:-1], hidden), copies=spare_copies({lead: equal})
    )
    letters = tuple(f"n{k}" for k in range(lead))
    for weight, bias, source in ((enter, biases[0], x), (inner, biases[1], before)):
        assert weight is not None
        added = Operand(bias, ("a", "o")) if bias is not None else None
        contract(use, [Operand(source, (*letters, "i")), Operand(weight, ("a", "o", "i"))], (*letters, "a", "o"), added)
    return tuple(before for _ in use.value) if isinstance(use.value, tuple) else before


def _weight(use: Use, name: str, gates: int, sizes: tuple[int, int]) -> Claim | None:
    claim = use.parameter(name)
    return split_axis(claim, 0, (gates, sizes[0]), (gates, sizes[1])) if claim is not None else None


def _hidden(use: Use, enter: Claim | None, inner: Claim | None) -> Map:
    if enter is None or inner is None:
        raise Refuted(f"{use.name} lacks a weight")
    maps = (inner.maps[2], inner.maps[1], enter.maps[1])
    return use.agreeing_maps(maps, (inner.new[2], inner.new[1], enter.new[1]), "hidden units")


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


def _joined(sent: list[Claim]) -> Claim:
    """What one layer sends to the next: its directions side by side."""
    if len(sent) == 1:
        return sent[0]
    one, two = sent
    position: Map = None
    if one.maps[1] is not None:
        position = torch.cat([one.map(1), torch.where(two.map(1) < 0, -1, two.map(1) + one.old[1])])
    copies = torch.cat([one.copies_of(1), two.copies_of(1) + one.new[1]])
    return Claim((1, 2 * one.old[1]), (1, 2 * one.new[1]), (None, position), None, spare_copies({1: copies}))


def _results(use: Use, x: Claim, sent: Claim, hidden: Map, sizes: tuple[int, int], copies: list[Tensor]) -> Any:
    output = carried(sent, [*[None] * (x.rank - 1), 1], x.old)
    common = copies[0]
    for one in copies[1:]:
        common = both_copies(common, one)

    def state(value: Tensor) -> Claim:
        lead = tuple(value.shape[:-1])
        maps = (*(None for _ in lead), hidden)
        return Claim((*lead, sizes[0]), (*lead, sizes[1]), maps, None, spare_copies({len(lead): common}))

    states = use.value[1]
    return output, tuple(map(state, states)) if isinstance(states, tuple) else state(states)
