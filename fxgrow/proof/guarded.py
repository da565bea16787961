"""Guards beside the norms that they replaced: the arguments of both, and the values of weights' statistics."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, cast

from torch import fx, nn

from fxgrow import guards
from fxgrow.proof.claims import Claim, HeldValues, Refuted, Unproved
from fxgrow.proof.comparing import Both, plain
from fxgrow.proof.node_pair import Use
from fxgrow.proof.values import exact

Pair = Callable[[Any, Any], Any]
"""Makes claims, or a pair of values, of an argument in the original and in the grown graph."""


def guard_arguments(
    node: fx.Node, partner: fx.Node, module: nn.Module | None, pair: Pair, constant: Callable[[str], Claim]
) -> list[Any]:
    """The arguments of a guard, each beside that of the norm whose place it took; module: the norm, if it is one."""
    names = tuple(inspect.signature(cast(Any, node.target)).parameters)
    by_name = dict(zip(names, node.args, strict=False)) | dict(node.kwargs)
    if module is not None:
        before = _of_module(partner, module)
    else:
        before = dict(zip(names, _arguments(partner).values(), strict=False))
    args: list[Any] = []
    for name in names:
        old, new = before.get(name), by_name.get(name)
        if name in ("weight", "bias"):
            args.append(_parameter(old, new, name, pair, constant))
        elif name == "core":
            args.append(Both(None, new))
        else:
            args.append(pair(old, new))
    return args


def _of_module(partner: fx.Node, module: Any) -> dict[str, Any]:
    before: dict[str, Any] = {"x": partner.args[0] if partner.args else partner.kwargs.get("input")}
    for name in ("weight", "bias"):
        parameter = getattr(module, name, None)
        before[name] = f"{partner.target}.{name}" if parameter is not None else None
    return before | {"eps": module.eps, "num_groups": getattr(module, "num_groups", None)}


def _arguments(partner: fx.Node) -> dict[str, Any]:
    """The arguments of a function of torch, by name; those that are left out as it has them."""
    bound = inspect.signature(cast(Any, partner.target)).bind(*partner.args, **partner.kwargs)
    bound.apply_defaults()
    return bound.arguments


def _parameter(old: Any, new: Any, name: str, pair: Pair, constant: Callable[[str], Claim]) -> Any:
    if old is None and new is None:
        return Both(None, None)
    if isinstance(old, str) and isinstance(new, fx.Node) and new.op == "get_attr" and new.target == old:
        return constant(old)
    if isinstance(old, fx.Node) and isinstance(new, fx.Node):
        return pair(old, new)
    raise Refuted(f"the guard reads {new} as its {name}, the original reads {old}")


def standardised(use: Use, pair: Pair) -> Claim:
    """A guarded standardisation of a weight beside the F.batch_norm of it: both are worked out.

    Without a gain that is the original's, whose values are not known: times one number each, filters stay what they are
    to each other in both models, and zeros stay zero.
    """
    use.rule = "computed from parameters"
    node, partner = use.new, use.old
    arguments = _arguments(partner)
    if arguments["running_mean"] is not None or arguments["running_var"] is not None or not arguments["training"]:
        raise Unproved("the original does not take statistics of the weight itself")
    pairs = [pair(arguments[name], node.args[k]) for k, name in enumerate(("input", "weight", "bias"))]
    gained = isinstance(pairs[1], Claim) and pairs[1].same and not isinstance(pairs[2], Claim)
    known = [pairs[0], *(() if gained else pairs[1:])]
    held = [item.held if isinstance(item, Claim) else None for item in pairs]
    unknown = any(isinstance(item, Claim) and item.held is None for item in known)
    if held[0] is None or unknown or (gained and pairs[0].maps[1] is not None):
        raise Unproved("the weight is not made of parameters alone")
    eps = pair(arguments["eps"], node.args[3])
    old, gain, bias = (h.old.double() if h is not None else None for h in held)
    before = nn.functional.batch_norm(old, None, None, gain, bias, True, 0.0, eps.old)  # type: ignore[arg-type]
    new, gain, bias = (h.new.double() if h is not None else None for h in held)
    core: Any = node.args[4]
    after = guards.standardize(new, gain, bias, eps.new, core)  # type: ignore[arg-type]
    first = pairs[0]
    kept = HeldValues(before, after, node.name, False, held[0].precision, held[0].fills)
    claim = Claim(first.old, first.new, first.maps, held=kept)
    return use.equal(claim) if gained else claim


def over_its_core(use: Use) -> Claim:
    """A guarded normalisation of a tensor of known values, beside the F.normalize of it: both are worked out."""
    use.rule = "computed from parameters"
    x = use.claim(0, "x")
    assert x.held is not None
    p, dim, eps, core = (plain(use.argument(k, name)) for k, name in enumerate(("p", "dim", "eps", "core"), start=1))
    old, new = exact(x.held.old), exact(x.held.new)
    if core.old is None:
        before = nn.functional.normalize(old, p.old, dim.old, eps.old)
    else:
        before = guards.normalize(old, p.old, dim.old, eps.old, core.old)
    after = guards.normalize(new, p.new, dim.new, eps.new, core.new)
    kept = HeldValues(before, after, use.new.name, False, x.held.precision, x.held.fills, x.held.rounded)
    return Claim(x.old, x.new, x.maps, held=kept)
