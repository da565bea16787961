"""Capture: from a module to graphs over its skeleton, with a value on the meta device behind every node."""

from fxgrow.capture.assemble import assemble
from fxgrow.capture.capturing import Captured, capture, recapture
from fxgrow.capture.inputs import example_inputs_for
from fxgrow.capture.modes import GrownGraphModule, ModalGraphModule, copies, kept_as
from fxgrow.capture.norms import spelled_out
from fxgrow.capture.skeleton import skeleton
from fxgrow.opaque import ByMode

__all__ = [
    "ByMode",
    "Captured",
    "GrownGraphModule",
    "ModalGraphModule",
    "assemble",
    "capture",
    "copies",
    "example_inputs_for",
    "kept_as",
    "recapture",
    "skeleton",
    "spelled_out",
]
