"""`plan` and `grow`: what users call."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from torch import nn

from fxgrow.amounts import plain_int
from fxgrow.capture import Captured, GrownGraphModule, skeleton
from fxgrow.capture.contexts import STATE
from fxgrow.capture.inputs import Inputs, described, with_channels
from fxgrow.capture.kept import refuse_out_of_date
from fxgrow.errors import PlanError, VerificationError
from fxgrow.garbage import collection_paused
from fxgrow.growth.calibration import calibrate as calibrate_units
from fxgrow.growth.certifying import certificate_of, kept_for_proof
from fxgrow.growth.drafting import planned_in_form, replanning, replanning_parts
from fxgrow.growth.fingerprint import fingerprint
from fxgrow.growth.gradmax import Loss, choose_units
from fxgrow.growth.intermediate import GrowthStep
from fxgrow.growth.parts import Parts, verify_parts, widen_parts
from fxgrow.growth.placing import Courses, grown_in_class, read_elsewhere
from fxgrow.growth.record import left_out
from fxgrow.growth.replay import hooks_as_for, prepared
from fxgrow.growth.wish import Width, Wish, check_how, check_loss, grows, nothing_grows
from fxgrow.history import Step, Verification, before_growth, drawn_by, known_history, learn
from fxgrow.measure.quick import alike_by_mode, verify_quickly
from fxgrow.measure.verification import verify as verify_same
from fxgrow.modules.devices import own_defaults
from fxgrow.modules.references import copy_unregistered
from fxgrow.modules.switching import renew
from fxgrow.modules.tensors import named_tensors
from fxgrow.own.calls import with_other_calls
from fxgrow.own.configs import follow_configs
from fxgrow.own.courses import NotPlanned, Replan, courses
from fxgrow.own.refusing import with_refusals
from fxgrow.own.sites import Site
from fxgrow.own.target import put_into
from fxgrow.own.unread import follow_unread
from fxgrow.planning.plan import Obstacle, Plan
from fxgrow.proof.certificate import Certificate, Verdict
from fxgrow.proof.code_between_parts import CLAIM as BETWEEN
from fxgrow.steps import shown, timed
from fxgrow.training.held import own_optimizers
from fxgrow.training.parameters import remember_names, stage_of
from fxgrow.transforms.passes import refuse_lost
from fxgrow.transforms.tagging import tagged
from fxgrow.transforms.width import widened


def plan(
    model: nn.Module,
    width: Width | None = None,
    depth: Width | None = None,
    *,
    like: nn.Module | None = None,
    example_inputs: Any = None,
    init: str = "zero",
    depth_init: str = "copy",
    round_to: int = 1,
    parameterization: str | None = None,
    form: str = "auto",
    classes: int | str | None = None,
    class_init: str = "zero",
    in_chans: int | str | None = None,
    progress: bool = False,
) -> Plan:
    """Say what `grow` would do to a model, and why not more. No weights are read, so meta models work.

    Parameters and errors are those of `grow`, but for VerificationError.

    >>> import torch, fxgrow
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> fxgrow.plan(model, width=1.5, example_inputs=torch.randn(1, 4)).totals.parameters_after
    86
    """
    wish = Wish(width, depth, init, depth_init, round_to, parameterization, form, like, classes, class_init, in_chans)
    with shown(progress), own_defaults(), collection_paused():
        captured, planned, wish = planned_in_form(model, wish, example_inputs)
        if isinstance(captured, Parts) or not grows(planned):
            return planned
        if form == "graph":
            return _as_graph(model, captured, planned, None)
        return _placed(skeleton(model), captured, planned, form, "", replanning(model, wish), like=like)[1]


def grow(
    model: nn.Module,
    width: Width | None = None,
    depth: Width | None = None,
    *,
    like: nn.Module | None = None,
    example_inputs: Any = None,
    init: str = "zero",
    depth_init: str = "copy",
    round_to: int = 1,
    seed: int = 0,
    verify: bool | str = True,
    parameterization: str | None = None,
    calibrate: Any = None,
    loss: Loss | None = None,
    form: str = "auto",
    classes: int | str | None = None,
    class_init: str = "zero",
    in_chans: int | str | None = None,
    progress: bool = False,
) -> nn.Module:
    """Grow a trained model: wider and deeper, the same function, ready to train on.

    What comes back is a copy of the model, of its own class, with its own forward. Where the class cannot hold the
    growth it is a graph module. A model whose forward no graph can hold (torchvision's detectors) grows in parts.

    Parameters
    ----------
    model: any module whose forward can be recorded as a graph, whole or in parts; it is not touched.
    width: a factor of at least 1 (1.5), units to add ("+32"), the exact size ("=96"), a mapping from module paths or
        globs to such amounts, or the sizes of a stage of a `Schedule`.
    depth: a factor (1.5: half as many blocks again in each run of repeated blocks), an amount ("+2", "=6"), or a
        mapping from the paths of runs or globs to amounts; `plan` shows the runs.
    like: a larger model of the same code, the target, perhaps on the meta device. Every dimension and every run of
        blocks gets the target's size, and a copy of the target with the grown weights comes back.
        `report(grown).plan.like` lists the few attributes that have to differ from what the target's constructor sets.
        Where the target has more classes, or reads more channels, ask for them by `classes` and `in_chans`.
    example_inputs: a tensor, a tuple or list of arguments, or a dict of keyword arguments; only shapes and dtypes
        count. Needed where they cannot be derived from the model.
    init: "zero" (new units unread at first), "mirror" (equal pairs read with opposite signs, as in the
        paper), "replicate" (copies of old units that share their outgoing weights, as in Net2Net), "gradmax" (unread
        at first, and chosen so that what reads them gets the largest gradient of `loss`).
    depth_init: inner weights of new blocks: "copy" (of the block that each repeats), "random" (drawn at its
        scale), "stack" (copied whole, as in depth stacking: the function changes, and verification says so).
    round_to: make new sizes multiples of this.
    seed: of the new entries; the same seed gives the same bytes.
    verify: prove that the function is the same (`report(grown).certificate`), then run original and grown model on
        random inputs and compare. "full": in float64, eval and train, on inputs like `example_inputs`. True or
        "quick": on few samples and small images, but in full where there is no proof or where that is cheap. False:
        neither proof nor test. Models on the meta device are not verified.
    parameterization: "standard"; "mup" (new weights and, in `fxgrow.param_groups`, learning rates by width);
        "variance-transfer" (the paper's: old weights are rescaled as well; batch norms, or multipliers that
        `fxgrow.fold` removes, keep the function); or "rms", which keeps the scale of activations and not the function:
        weights that read new units are drawn there and multiplied by sqrt(C/C') as a whole, and verification says how
        far outputs moved. Left out: as the model was last grown (but for "rms"), else standard.
    calibrate: a batch of training data, in the form of `example_inputs`, but with values. One forward pass on it
        brings the new units of each linear and convolutional layer to exactly the variance that its old units have.
        Left out: new units get the scale that follows from fan-ins, which few units or correlated inputs miss.
    loss: for init="gradmax": a function from a model to its loss on a batch of training data, a scalar.
    form: "auto" (the model's own class where it can hold the growth, else a graph module, `plan` says which and why;
        where no graph can keep what the forward does, as "module"), "module" (the model's own class; dimensions and
        runs of blocks that it cannot hold stay, with the reason in the plan), "graph" (a graph module). Under "auto", a
        run that the class cannot lengthen stays if one amount was asked for all runs and another run gains blocks.
    classes: the new number of classes, or "+5" for 5 more. The last layers get new outputs after the old ones,
        which keep their values. Left out: outputs stay.
    class_init: outputs of new classes at first: "zero", "mean" (the mean of the old ones) or "random".
    in_chans: the new number of input channels, or "+1" for one more. New ones come after the old ones; their
        content changes nothing at first. Left out: inputs stay.
    progress: show on stderr what is being done.

    Raises
    ------
    AmountError: an argument means nothing here, a key matches no module, keys disagree, or something would shrink.
    CaptureError: the model cannot be captured, inputs are needed or do not fit, or it does not run on the batch.
    PlanError: nothing would grow, with the reasons; or the target cannot be reached, with the place and the reason.
    VerificationError: the outputs differ by more than the tolerance, or those of the original are not finite; or the
        certificate says REFUTED.

    Source: Yuan, Savarese, Maire, "Accelerated Training via Incrementally Growing Neural Networks using
    Variance Transfer and Learning Rate Adaptation", NeurIPS 2023; Chen, Goodfellow, Shlens, "Net2Net", 2016.

    >>> import torch, fxgrow
    >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    >>> grown = fxgrow.grow(model, width=2, example_inputs=torch.randn(1, 4))
    >>> grown.get_submodule("0")
    Linear(in_features=4, out_features=16, bias=True)
    """
    seed = plain_int(seed)
    check_how(seed, verify)
    check_loss(init, loss)
    wish = Wish(width, depth, init, depth_init, round_to, parameterization, form, like, classes, class_init, in_chans)
    with shown(progress), own_defaults():
        captured, planned, wish = planned_in_form(model, wish, example_inputs, keep=bool(verify))
        if not grows(planned):
            raise nothing_grows(planned)
        replan, of_part = replanning(model, wish), replanning_parts(model, wish)
        return apply_plan(model, captured, planned, seed, verify, calibrate, form, replan, of_part, like, loss)


def apply(planned: Plan, model: nn.Module, seed: int, verify: bool | str, loss: Loss | None) -> nn.Module:
    """Carry out a plan on a model of the structure that it was made for: `Plan.apply`."""
    seed = plain_int(seed)
    check_how(seed, verify)
    check_loss(planned.init, loss)
    if not grows(planned):
        raise nothing_grows(planned)
    form = "auto" if planned.parts else planned.form

    parts = dict(planned.parts)
    with own_defaults(), hooks_as_for(planned):
        captured, replan = prepared(model, planned), _planned_already(model, planned)
        return apply_plan(
            *(model, captured, planned, seed, verify, None, form, replan),
            lambda path: _planned_already(model.get_submodule(path), parts[path]),
            loss=loss,
        )


def _planned_already(model: nn.Module, planned: Plan) -> Replan:
    """Finds what a plan has for other sizes."""

    def replan(again: Inputs | Captured) -> tuple[Captured, Plan]:
        inputs = again.inputs if isinstance(again, Captured) else again
        sizes = (course for course in planned.courses if not course.calls)
        course = next((course for course in sizes if course.inputs == described(inputs)), None)
        if course is None:
            raise NotPlanned("the plan was made where it takes no other course", remedy="plan the growth of this model")
        captured = prepared(model, course)
        assert isinstance(captured, Captured)
        return captured, course

    return replan


def apply_plan(
    model: nn.Module,
    captured: Captured | Parts,
    planned: Plan,
    seed: int,
    verify: bool | str,
    batch: Any,
    form: str,
    replan: Replan,
    of_part: Callable[[str], Replan],
    like: nn.Module | None = None,
    loss: Loss | None = None,
) -> nn.Module:
    """Carry out a plan on the model it was made for, in a copy of a target that it leads to, if there is one.

    of_part: what `replan` is for a part of a model that grows in parts.
    """
    refuse_out_of_date(model)
    remember_names(model)
    growth = GrowthStep(planned, drawn_by(seed, stage_of(model) + 1))
    verifying = bool(verify) and not any(tensor.is_meta for tensor in named_tensors(model).values())
    before = kept_for_proof(captured, growth) if verifying else None
    alike = verifying and isinstance(captured, Captured) and alike_by_mode(captured)
    graph: GrownGraphModule | None
    grown: nn.Module
    with timed("growing"), collection_paused():
        if isinstance(captured, Parts):
            parts, graph = captured.captured, None

            def courses_of(path: str) -> Courses:
                return _every_course(model.get_submodule(path), parts[path], of_part(path))

            grown, planned = widen_parts(captured, planned, model, growth.seed, form, courses_of)
            if batch is not None:
                planned = calibrate_units(grown, planned, batch)
        else:
            grown, planned, graph = _placed(model, captured, planned, form, growth.seed, replan, batch, like)
    copy_unregistered(grown, model)
    growth = replace(growth, plan=planned)
    grown = tagged(grown, Step(planned, seed), before_growth(model))
    remember_names(grown)
    if loss is not None:
        choose_units(grown, planned, loss)
    renew(grown)
    own_optimizers(grown, model)
    if verifying:
        with timed("proving"), collection_paused():
            certificate = certificate_of(model, grown, [growth], before, graph=graph)
        with timed("testing"):
            if isinstance(captured, Parts):
                with _saying_why(certificate):
                    verification = verify_parts(model, grown, captured, seed, planned)
            elif verify != "full" and planned.preserving and certificate.verdict is Verdict.PROVED:
                verification = verify_quickly(model, grown, captured.inputs, seed, planned, alike)
            else:
                verification = verify_same(model, grown, captured.inputs, seed, planned.preserving, plan=planned)
        certificate = _confirmed(certificate, verification, model) if planned.preserving else certificate
        history, marks = known_history(grown), fingerprint(grown)
        learn(grown, history, verification=verification, certificate=certificate, fingerprint=marks)
    return grown


def _confirmed(certificate: Certificate, verification: Verification, model: nn.Module) -> Certificate:
    """A certificate that says what a test found.

    Raises
    ------
    VerificationError: the certificate says that the function is another, which the test did not find.
    """
    certificate = certificate.tested(str(verification))
    if certificate.verdict is Verdict.REFUTED:
        refuted = certificate.weakest
        raise VerificationError(
            f"a test agreed ({verification}), and yet it is not so that {refuted.claim}: {refuted.detail}",
            where=type(model).__name__,
            remedy="this is a bug in a rule or in its proof; please report the model, or pass verify=False",
        )
    return certificate


@contextmanager
def _saying_why(certificate: Certificate) -> Iterator[None]:
    """Let a test that fails say what was not proved of the code between the parts of a model."""
    try:
        yield
    except VerificationError as error:
        if certificate.weakest.claim != BETWEEN or certificate.verdict is not Verdict.UNKNOWN:
            raise
        raise VerificationError(
            f"{error.what}; between its parts {certificate.weakest.detail}",
            where=error.where,
            remedy="name the parts that may grow in width=, such as {path: 2}, or change what the code reads of others",
        ) from error


def _every_course(source: nn.Module, captured: Captured, replan: Replan, of_methods: bool = True) -> Courses:
    """Looks at every other course that the forward takes; of_methods: those of methods that it does not call, too."""

    def every(own: nn.Module, plan: Plan, changed: Sequence[Site]) -> tuple[Plan, bool] | Obstacle:
        plans = courses(own, source, captured, plan, replan)
        if isinstance(plans, Obstacle):
            return plans
        plan = replace(plan, courses=(*plans, *(course for course in plan.courses if course.calls)))
        if plan.form == "module":  # other calls were looked at when this was planned
            return plan, True
        return with_other_calls(own, source, captured, plan, changed, replan, of_methods)

    return every


def _placed(
    model: nn.Module,
    captured: Captured,
    planned: Plan,
    form: str,
    seed: str,
    replan: Replan,
    batch: Any = None,
    like: nn.Module | None = None,
) -> tuple[nn.Module, Plan, GrownGraphModule]:
    """The grown model in the form that was asked for, its plan, and its graph over the same tensors.

    Raises
    ------
    PlanError: it was asked for in a form that cannot hold it.
    """

    def widen(plan: Plan) -> tuple[GrownGraphModule, Plan]:
        graph = widened(captured, plan, named_tensors(model), seed)
        return graph, plan if batch is None else calibrate_units(graph, plan, batch)

    if form == "graph":
        (graph, planned), own = widen(planned), None
    else:  # a target is planned toward by what its forward does
        looking = _every_course(model, captured, replan, of_methods=like is None)
        own, planned, graph = grown_in_class(model, model, captured, planned, widen, looking)
    if isinstance(own, nn.Module):
        planned = replace(planned, form="module", obstacle=None)
        after = with_channels(captured.inputs, planned.channels)
        elsewhere = partial(read_elsewhere, model, planned)
        if like is not None:
            planned, _ = follow_unread(own, graph, like, planned, seed, elsewhere)
            own, likeness = put_into(like, own, graph, after)
            planned = replace(planned, like=likeness)
        else:
            planned = follow_configs(model, own, graph, after, planned, seed, elsewhere)
        with_refusals(own, planned.refusals)
        return own, planned, graph
    if form == "module" or like is not None:
        assert own is not None
        no_graph = any(note.lost for note in captured.settled)
        by_state = any(note.feature == STATE for note in captured.settled)
        instead = "call the model and grow it then, or " if by_state else "" if no_graph else 'pass form="graph", or '
        raise PlanError(
            f"the class of the model cannot hold the growth: {own.what}",
            where=own.where,
            remedy=f"{instead}pass a width that leaves this dimension out",
        )
    refuse_lost(captured, own)
    return graph, _as_graph(model, captured, planned, planned.obstacle if form == "graph" else own), graph


def _as_graph(model: nn.Module, captured: Captured, planned: Plan, obstacle: Obstacle | None) -> Plan:
    """The plan of a growth whose result is a graph module, with what this leaves out."""
    lost = ", ".join(map(str, left_out(captured)))
    if lost:
        warnings.warn(f"the grown model is a graph, which leaves out {lost}", stacklevel=2)
        obstacle = obstacle or Obstacle("a graph was asked for", type(model).__name__)
        obstacle = replace(obstacle, what=f"{obstacle.what}; it leaves out {lost}")
    return replace(planned, form="graph", obstacle=obstacle, courses=(), calls=(), refusals=())
