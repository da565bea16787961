"""The checker: walks the grown graph beside the original's, node by node, and lets each law prove its step.

It trusts no conclusion of the planner. From the plan it takes one thing: which positions of a parameter are old.
Everything else is read off the two graphs, the modules and the actual values.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

from torch import Tensor, fx, nn

from fxgrow import guards
from fxgrow.modules.containers import holds_tensor
from fxgrow.modules.devices import exact_device
from fxgrow.opaque import ByMode
from fxgrow.proof.bindings import Bound, Resting
from fxgrow.proof.by_law import prove
from fxgrow.proof.certificate import Certificate, Step, Verdict
from fxgrow.proof.claims import Claim, HeldValues, Map, Refuted, Unproved
from fxgrow.proof.comparing import ABSENT, Both, module_difference
from fxgrow.proof.computed import computed
from fxgrow.proof.constants import constant
from fxgrow.proof.ends import Ends, check_outputs
from fxgrow.proof.guarded import guard_arguments, over_its_core, standardised
from fxgrow.proof.known_values import check_old_entries, without_values
from fxgrow.proof.models import NORM_GUARDS, Model, attribute_of, partners
from fxgrow.proof.new_layers import axis_of_join, new_units, parts_of_join
from fxgrow.proof.node_pair import Use, claims_in
from fxgrow.proof.rules.movement import joined
from fxgrow.proof.rules.reduction import core_units
from fxgrow.proof.storage import Lost, Storage, check_kept, written_tensors
from fxgrow.proof.structures import all_unchanged, described, picks
from fxgrow.proof.values import precision
from fxgrow.rules.calls import BROKEN, writes
from fxgrow.rules.intervals import is_rectifier
from fxgrow.rules.registry import kind_of, law_of_call, why_unknown
from fxgrow.rules.stretching import NewTensors

_BROKEN = (*BROKEN, ZeroDivisionError, AssertionError)
"""What corrupted graphs raise when they are run on labels or shapes."""


class Checker:
    """One graph of the grown model beside the same graph of the original.

    maps: parameter name -> the map of each axis, for parameters that grew. fills: how their entries were filled.
    attributes: module -> attribute -> the value it should have, for sizes that follow the weights. memory: what
    rules found out before, of any two models. ends: where more classes or input channels were asked for. lost: tensors
    that the forward writes to and of whose new entries nothing holds from call to call; those found are added.
    """

    def __init__(
        self,
        original: Model,
        grown: Model,
        maps: Mapping[str, tuple[Map, ...]],
        fills: Mapping[str, frozenset[str]],
        attributes: Mapping[str, Mapping[str, Any]],
        memory: dict[Any, Any] | None = None,
        ends: Ends | None = None,
        lost: set[str] | None = None,
    ) -> None:
        self.lost = lost if lost is not None else set()
        self.ends = ends if ends is not None else Ends()
        self.attributes = attributes
        self.original = original
        self.grown = grown
        self.maps = maps
        self.fills = fills
        self.constants: dict[str, Claim] = {}
        self.memory: dict[Any, Any] = memory if memory is not None else {}

    def walk(self, mode: str) -> Walk:
        """The walk along one graph, yet to be taken."""
        return Walk(self, self.original.graphs[mode], self.grown.graphs[mode])

    def constant(self, name: str) -> Claim:
        """The claim about a parameter or buffer: its values, old and new."""
        if name not in self.constants:
            old, new = self.original.tensor(name), self.grown.tensor(name)
            if old is None or new is None:
                raise Unproved(f"{name} is there in one of the models only")
            maps = self.maps.get(name, (None,) * old.ndim)
            expected = tuple(
                size if position is None else len(position) for size, position in zip(old.shape, maps, strict=True)
            )
            if tuple(new.shape) != expected or new.dtype != old.dtype:
                raise Refuted(
                    f"{name} is {list(new.shape)} of {new.dtype}, it should be {list(expected)} of {old.dtype}"
                )
            fills = self.fills.get(name, frozenset())
            rounded = self.original.rounded(name)
            old, new = (tensor.detach().to(exact_device(tensor.device)) for tensor in (old, new))
            held = HeldValues(old, new, name, True, precision(old), fills, rounded)
            claim = Claim(tuple(old.shape), expected, maps, held=held)
            self.constants[name] = self._between_calls(name, claim) if name in self.written else claim
        return self.constants[name]

    @cached_property
    def written(self) -> frozenset[str]:
        """Parameters and buffers that a forward writes to."""
        return written_tensors(self.original) | written_tensors(self.grown)

    def _between_calls(self, name: str, claim: Claim) -> Claim:
        """What holds of a tensor that the forward writes to at the start of any call: values do not."""
        assert claim.held is not None
        check_old_entries(claim.held, claim.maps, claim.old)
        return Claim(claim.old, claim.new, claim.maps) if name in self.lost else without_values(claim)


class Walk(Storage):
    """The walk along one graph: what has been claimed of each grown node so far."""

    def __init__(self, checker: Checker, old: fx.Graph, new: fx.Graph) -> None:
        super().__init__(checker.constant)
        self.checker = checker
        self.old = old
        self.new = new
        self.gone: set[fx.Node] = set()  # worked out, and let go behind the last reader
        self.partners = partners(old, new, checker.original)

    @cached_property
    def called(self) -> set[int]:
        """The modules that nodes call which the original has too."""
        return {id(self.checker.grown.part(str(node.target))) for node in self.partners if node.op == "call_module"}

    def steps(self) -> Iterator[Step]:
        yield from self._structure()
        for node in self.new.nodes:
            yield from self._step(node)
            self._let_go(node)
        yield from self._kept()

    def _kept(self) -> Iterator[Step]:
        """What the forward has written to parameters and buffers is what the next call takes it to be."""
        for node, bound in self.bound.items():
            name = str(node.target)
            if node.op != "get_attr" or name not in self.checker.written:
                continue
            verdict, detail = Verdict.PROVED, ""
            try:
                if bound.claims is None:
                    raise Unproved("it rests on a step that is not proved")
                check_kept(name, self.checker.constant(name), self.bare(node, bound.partner).equal(bound.claims))
            except (Unproved, Refuted) as error:
                verdict, detail = Verdict.UNKNOWN, str(error)
                if isinstance(error, Lost):
                    self.checker.lost.add(name)
            yield Step(name, Certificate(f"{name} is afterwards as it was before", "state", (), verdict, detail))

    def work_out_again(self) -> None:
        """What the walk let go, as it is claimed of the values by now."""
        for node in self.new.nodes:
            if node in self.gone:
                self._visit(node, self.partners.get(node), [])
        self.gone.clear()

    def _step(self, node: fx.Node) -> Iterator[Step]:
        partner = self.partners.get(node)
        place = node.meta.get("module_path") or node.name
        if node.op == "call_module":
            place = str(node.target)
        elif node.meta.get("module_path"):
            place = f"{place}.{node.name}"
        use: list[Use] = []
        try:
            claims = self._visit(node, partner, use)
        except Resting:
            if node.op == "output":
                yield Step(place, self._leaf(node, use, Verdict.UNKNOWN, "it rests on a step that is not proved"))
        except Refuted as error:
            yield Step(place, self._leaf(node, use, Verdict.REFUTED, str(error)))
        except Unproved as error:
            yield Step(place, self._leaf(node, use, Verdict.UNKNOWN, str(error)))
        except _BROKEN as error:
            text = f"the node does not run as it should: {type(error).__name__}: {str(error).splitlines()[:1]}"
            yield Step(place, self._leaf(node, use, Verdict.UNKNOWN, text))
        else:
            if claims is not None or node.op == "output":
                yield Step(place, self._leaf(node, use, Verdict.PROVED, "", claims))
            return
        self.bound[node] = Bound(partner if partner is not None else node, None)

    def _let_go(self, node: fx.Node) -> None:
        """What was worked out for this node and is read by none after it."""
        for operand in node.all_input_nodes:
            bound = self.bound.get(operand)
            if bound is None or operand.op == "get_attr" or self.last_reader[operand] is not node:
                continue
            if any(claim.held is not None and not claim.held.exact for claim in claims_in(bound.claims)):
                self.bound[operand] = Bound(bound.partner, None)
                self.gone.add(operand)

    @cached_property
    def last_reader(self) -> dict[fx.Node, fx.Node]:
        """The node, of those that read another, that comes last."""
        return {operand: node for node in self.new.nodes for operand in node.all_input_nodes}

    def _structure(self) -> Iterator[Step]:
        """Nothing of the original is left out, and nothing has changed places."""
        paired = {id(partner): node for node, partner in self.partners.items()}
        missing = [
            node.name for node in self.old.nodes if id(node) not in paired and holds_tensor(node.meta.get("value"))
        ]
        if missing:
            yield Step(
                "",
                Certificate("every node of the original is there", "", (), Verdict.REFUTED, f"missing: {missing[:3]}"),
            )
        statements = self.checker.original.statements
        gone = [node.name for node in self.old.nodes if id(node) not in paired and node.target in statements]
        if gone:
            claim = "it refuses what the original's graph refuses, and computes in the same contexts"
            yield Step("", Certificate(claim, "", (), Verdict.UNKNOWN, f"missing: {gone[:3]}"))
        position = {id(node): k for k, node in enumerate(self.old.nodes)}
        order = [position[id(partner)] for partner in self.partners.values()]
        if order != sorted(order):
            yield Step("", Certificate("nodes are in their order", "", (), Verdict.UNKNOWN, "some have changed places"))

    def _leaf(self, node: fx.Node, use: list[Use], verdict: Verdict, detail: str, claims: Any = None) -> Certificate:
        name = use[0].name if use else str(node.target)
        rule = use[0].rule if use else ""
        conditions = tuple(use[0].conditions) if use else ()
        if node.op == "output":
            claim, rule = f"every output is the original's{self.checker.ends.in_words}", "output"
        else:
            claim = f"{node.name} = {name}: {described(claims)}" if claims is not None else f"{node.name} = {name}"
        return Certificate(claim, rule, conditions, verdict, detail)

    # -- one node ------------------------------------------------------------------------------------------

    def _visit(self, node: fx.Node, partner: fx.Node | None, use: list[Use]) -> Any:
        if partner is None:
            return self._inserted(node, use)
        if node.op == "placeholder":
            return self._input(node, partner)
        if node.op == "get_attr":
            return self._constant(node, partner)
        if node.op == "output":
            return self._output(node, partner)
        if partner.target in self.checker.original.statements:
            return self._statement(node, partner)
        if not holds_tensor(partner.meta.get("value")) and not writes(partner):
            self._number(node, partner)
            return None
        if node.target is guards.standardize and partner.target is not node.target:
            use.append(self.bare(node, partner))
            claims = standardised(use[0], self.pair)
            self.bound[node] = Bound(partner, claims)
            return claims
        pair = self._use(node, partner)
        use.append(pair)
        claims = self._proved(pair)
        self.bound[node] = Bound(partner, claims)
        self.written(node, pair, claims)
        return claims

    def _input(self, node: fx.Node, partner: fx.Node) -> Any:
        if node.target != partner.target:
            raise Refuted(f"the input is {node.target}, it was {partner.target}")
        value = partner.meta["value"]
        if not holds_tensor(value):
            self.numbers[node] = value
            return None
        self.bound[node] = Bound(partner, self.checker.ends.input_claims(partner))
        return None

    def _constant(self, node: fx.Node, partner: fx.Node) -> Any:
        if node.target != partner.target:
            raise Refuted(f"it reads {node.target}, the original reads {partner.target}")
        if not isinstance(partner.meta["value"], Tensor):
            old, new = (attribute_of(m, str(node.target)) for m in (self.checker.original, self.checker.grown))
            if not Both(old, new).same:
                raise Refuted(f"{node.target} differs")
            self.numbers[node] = new
            return None
        self.bound[node] = Bound(partner, self.checker.constant(str(node.target)))
        return None

    def _output(self, node: fx.Node, partner: fx.Node) -> Any:
        use = self.bare(node, partner)
        check_outputs(use, self.pair(partner.args[0], node.args[0]), self.checker.ends)
        return None

    def _statement(self, node: fx.Node, partner: fx.Node) -> None:
        """What a graph does beside computing: it refuses other arguments, enters contexts and leaves them."""
        before = fx.node.map_arg(partner.args, lambda operand: operand.name)
        after = fx.node.map_arg(node.args, lambda operand: self._name_before(operand))
        if node.target is not partner.target or before != after:
            raise Refuted(f"it is {node.target} of {node.args}, it was {partner.target} of {partner.args}")
        self.numbers[node] = partner.meta["value"]

    def _name_before(self, node: fx.Node) -> str:
        return self.partners[node].name if node in self.partners else ""

    def _number(self, node: fx.Node, partner: fx.Node) -> None:
        if (node.op, node.target) != (partner.op, partner.target):
            raise Refuted(f"it is {node.target}, it was {partner.target}")
        if node.op == "call_module":
            old, new = self.checker.original.part(str(partner.target)), self.checker.grown.part(str(node.target))
            if not isinstance(new, ByMode) or module_difference(old, new, frozenset()) is not None:
                raise Refuted(f"{node.target} differs: {new}, it was {old}")
            self.numbers[node] = partner.meta["value"]
            return
        for before, after in zip(partner.args, node.args, strict=False):
            self.same_arguments(before, after)
        self.numbers[node] = self.evaluated(node)

    # -- pairs of nodes ------------------------------------------------------------------------------------

    def _use(self, node: fx.Node, partner: fx.Node) -> Use:
        if node.target in NORM_GUARDS and partner.target is not node.target:
            module = self.checker.original.part(str(partner.target)) if partner.op == "call_module" else None
            args = guard_arguments(node, partner, module, self.pair, self.checker.constant)
            return Use(partner, node, None, args, {}, self.checker.constant)
        if node.op != partner.op or (node.op != "call_module" and node.target != partner.target):
            raise Refuted(f"it is {node.target}, it was {partner.target}")
        modules = None
        if node.op == "call_module":
            if node.target != partner.target:
                raise Refuted(f"it calls {node.target}, the original calls {partner.target}")
            modules = self.checker.original.part(str(partner.target)), self.checker.grown.part(str(node.target))
            same_mode = self.checker.original.module.training == self.checker.grown.module.training
            if same_mode and modules[0].training != modules[1].training:
                raise Refuted(f"{node.target} is in {'train' if modules[1].training else 'eval'} mode, it was not")
        parts = self.joined(node, partner)
        count = max(len(node.args), len(partner.args))
        old, new = ([*n.args, *[ABSENT] * (count - len(n.args))] for n in (partner, node))
        args = (
            [self.pair(a, b) for a, b in zip(old, new, strict=True)]
            if parts is None
            else [parts, *(self.pair(a, b) for a, b in zip(old[1:], new[1:], strict=True))]
        )
        names = list(dict.fromkeys([*partner.kwargs, *node.kwargs]))
        kwargs = {k: self.pair(partner.kwargs.get(k, ABSENT), node.kwargs.get(k, ABSENT)) for k in names}
        attributes = self.checker.attributes.get(str(node.target)) if node.op == "call_module" else None
        return Use(partner, node, modules, args, kwargs, self.checker.constant, attributes, self.checker.memory)

    # -- proof ---------------------------------------------------------------------------------------------

    def _proved(self, use: Use) -> Any:
        claims = use.claims()
        names = [n for n, _ in use.new_module.named_parameters()] if use.new_module is not None else []
        names += [n for n, _ in use.new_module.named_buffers()] if use.new_module is not None else []
        own = [self.checker.constant(f"{use.new.target}.{name}") for name in names]
        law = law_of_call(use.new, use.new_module)
        if use.new.target in NORM_GUARDS and use.old.target is not use.new.target:
            if use.new.target is guards.normalize and all(claim.held is not None for claim in claims):
                return over_its_core(use)
            return prove(law, use) if law is not None else None
        made = constant(use)
        if made is not None:
            return made
        use.settle(own)
        claims = use.claims()
        if claims and not own and all(map(picks, claims)) and not use.writes:
            return computed(use, law)  # what an index holds counts where entries are picked by it
        if all(m is None for claim in (*claims, *own) for m in claim.maps):
            try:
                return self._same(use, own)
            except Refuted:
                if law is None or own:
                    raise
                use.conditions.clear()
        filled = isinstance(law, NewTensors) and not law.why_not  # with a number, whatever is held by its owner
        if claims and all(claim.held is not None for claim in claims) and not own and not filled:
            try:
                return computed(use, law)
            except Unproved:  # where its old entries are depends on the values
                if law is None:
                    raise
                use.conditions.clear()
        if law is None:
            raise Unproved(f"{use.name} {why_unknown(use.new_module)}, and something that it is given has grown")
        modules = [module for module in (use.old_module, use.new_module) if module is not None]
        if len({kind_of(module) for module in modules}) > 1:
            use.same_module()
        return prove(law, use)

    def _same(self, use: Use, own: list[Claim]) -> Any:
        """The same op on the same operands makes the same."""
        use.rule = "the same op on the same operands"
        use.same_settings()
        for claim in (*use.claims(), *own):
            if not use.equal(claim).same:
                raise Unproved("an operand has grown")
        return all_unchanged(use.value, is_rectifier(use.kind))

    # -- nodes that the original does not have -------------------------------------------------------------

    def _inserted(self, node: fx.Node, use: list[Use]) -> Any:
        operands = node.all_input_nodes
        if node.op == "get_attr":  # read by a guard, which looks at the name, or by a new layer
            tensor = self.checker.grown.tensor(str(node.target))
            self.added[node] = tensor.to("meta") if tensor is not None else None
            return None
        if any(n in self.bound and self.bound[n].claims is None for n in operands):
            raise Resting
        if node.target is guards.core:
            x = operands[0]
            bound = self.bound.get(x)
            if bound is None:
                raise Resting
            bare = self.bare(node, bound.partner)
            use.append(bare)
            axis: Any = node.args[1]
            claim = core_units(bare, bound.claims, axis, node.args[2])
            self.bound[node] = Bound(bound.partner, claim)
            return claim
        if node.op == "call_function" and operands and all(n in self.numbers for n in operands):
            self.numbers[node] = self.evaluated(node)
            return None
        return self._added(node, use)

    def _added(self, node: fx.Node, use: list[Use]) -> Any:
        """A node of a new layer: it may give anything, but must leave alone what the original has."""
        module = self.checker.grown.part(str(node.target)) if node.op == "call_module" else None
        if module is not None and id(module) in self.called:
            raise Unproved(f"the original has no such node, and it calls {node.target}, which the original calls")
        source = next(iter(node.all_input_nodes), None)
        root = self.root(source) if source is not None else None
        if writes(node, module) and (
            root is None or root.op == "get_attr" or any(self.root(n) is root for n in self.bound)
        ):
            raise Unproved(f"the original has no such node, and it writes to what {source} shows")
        law = law_of_call(node, module)
        if root is not None and (law is None or law.may_show):
            self.roots[node] = root
        self.added[node] = self.evaluated(node, _without_data(module))
        parts = parts_of_join(node) or []
        old = [part for part in parts if part in self.bound]
        if len(old) != 1 or len(parts) < 2:
            return None
        bound = self.bound[old[0]]
        bare = self.bare(node, bound.partner)
        use.append(bare)
        bare.rule = "new units beside old ones"
        axis, before = axis_of_join(node), bare.equal(bound.claims)
        claim = joined([before if part is old[0] else new_units(self.added[part], axis) for part in parts], axis)
        self.bound[node] = Bound(bound.partner, claim)
        return claim


def _without_data(module: nn.Module | None) -> nn.Module | None:
    """A copy of a module on the meta device."""
    return copy.deepcopy(module).to("meta") if module is not None else None
