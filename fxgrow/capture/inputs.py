"""Example inputs: brought into form where they are passed, else derived from the model's metadata."""

from __future__ import annotations

import inspect
import itertools
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from fxgrow.capture.skeleton import GIVEN, skeleton
from fxgrow.carried import carried_by
from fxgrow.errors import CaptureError
from fxgrow.modules.containers import each_tensor, flat_tensors
from fxgrow.modules.holders import attributes_of, empty, hold, is_object, is_users
from fxgrow.modules.switching import in_mode

Inputs = tuple[tuple[Any, ...], dict[str, Any]]

Place = tuple[int | str, int, int]
"""An axis of an input: the argument (its position, or its name), which of the tensors in it, and which of its axes."""


def example_inputs_for(model: nn.Module, example_inputs: Any = None) -> Inputs:
    """Arguments and keyword arguments on the meta device, of the floating-point dtype of the model.

    Raises
    ------
    CaptureError: nothing was given and nothing can be derived, or what was given is not inputs.
    """
    return fitted(model, given_inputs(example_inputs) if example_inputs is not None else _derived(model))


def fitted(model: nn.Module, inputs: Inputs) -> Inputs:
    """Inputs on the meta device, floating-point ones of the dtype of the model; what they hold is kept beside."""
    dtype = next((p.dtype for p in nn.Module.parameters(model) if p.dtype.is_floating_point), None)

    def fitting(value: Tensor) -> Tensor:
        if value.dtype.is_floating_point and dtype is not None:
            bare = torch.empty(value.shape, dtype=dtype, device="meta")
        else:
            bare = value.to("meta")
        if not (value.is_complex() or value.is_meta):
            setattr(bare, GIVEN, value)
        return bare

    return each_tensor(inputs, fitting)  # type: ignore[no-any-return]


def described(inputs: Any) -> Any:
    """Inputs as plain data: shapes and dtypes of tensors, a few indices or lengths, numbers and strings as they are."""
    if isinstance(inputs, Tensor):
        given = getattr(inputs, GIVEN, None)
        is_kept = given is not None and not inputs.is_floating_point() and given.numel() <= _FEW
        values = () if given is None or not is_kept else (tuple(given.flatten().tolist()),)
        return ("tensor", tuple(inputs.shape), str(inputs.dtype).removeprefix("torch."), *values)
    if isinstance(inputs, dict):
        return ("dict", tuple((key, described(item)) for key, item in inputs.items()))
    named = isinstance(inputs, tuple) and hasattr(inputs, "_fields")
    if named or is_object(inputs):
        name = f"{type(inputs).__module__}.{type(inputs).__qualname__}"
        _CLASSES[name] = type(inputs)
        return (
            "named" if named else "object",
            name,
            described(tuple(inputs) if named else attributes_of(inputs)),
        )
    if isinstance(inputs, (tuple, list)):
        return ("list" if isinstance(inputs, list) else "tuple", tuple(map(described, inputs)))
    if inputs is None or isinstance(inputs, (bool, int, float, str)):
        return ("value", inputs)
    return ("object", type(inputs).__name__)


_FEW = 256
"""So many values of an integer tensor a plan keeps."""

_CLASSES: dict[str, type] = {}
"""The classes of objects that models were called with."""


def _class_named(name: str) -> type | None:
    """A class of a user's own that is there already: no file names code that has not been run."""
    if name in _CLASSES:
        return _CLASSES[name]
    home, _, path = name.rpartition(".")
    kind = getattr(sys.modules.get(home), path, None)
    return kind if isinstance(kind, type) and is_users(kind) else None


def recalled(description: Any) -> Any:
    """The inputs that `described` put down, tensors on the meta device.

    Raises
    ------
    CaptureError: there was an argument that is not data.
    """
    kind, content = description[0], description[1]
    if kind == "tensor":
        dtype = getattr(torch, description[2])
        tensor = torch.empty(content, dtype=dtype, device="meta")
        if len(description) > 3:
            setattr(tensor, GIVEN, torch.tensor(description[3], dtype=dtype).reshape(tensor.shape))
        return tensor
    if kind == "dict":
        return {key: recalled(item) for key, item in content}
    if kind in ("tuple", "list"):
        return (list if kind == "list" else tuple)(map(recalled, content))
    if kind == "value":
        return content
    of_kind = _class_named(content) if len(description) > 2 else None
    if of_kind is None:
        raise CaptureError(f"an input was a {content}, which is not kept", remedy="pass example_inputs")
    held = recalled(description[2])
    if kind == "named":
        return of_kind(*held)
    value = empty(of_kind)
    hold(value, held)
    return value


class Planned(Protocol):
    """A plan, as far as it tells of inputs."""

    @property
    def inputs(self) -> Any: ...

    @property
    def channels(self) -> ChannelCounts | None: ...


class ChannelCounts(Protocol):
    """How many channels there are at some places, and how many there are to be."""

    @property
    def old(self) -> int: ...

    @property
    def new(self) -> int: ...

    @property
    def places(self) -> Sequence[Place]: ...


def with_channels(
    inputs: Inputs, channels: ChannelCounts | None, new: Callable[[list[int]], Tensor] = torch.empty
) -> Inputs:
    """Inputs with more channels behind those that they have; `new` makes these, of a shape."""

    def put(argument: int | str, value: Any) -> Any:
        assert channels is not None
        axes = {number: axis for name, number, axis in channels.places if name == argument}
        numbers = itertools.count()

        def longer(tensor: Tensor) -> Tensor:
            axis = axes.get(next(numbers))
            if axis is None:
                return tensor
            shape = [*tensor.shape[:axis], channels.new - channels.old, *tensor.shape[axis + 1 :]]
            return torch.cat([tensor, new(shape).to(tensor)], axis)

        return each_tensor(value, longer) if axes else value

    if channels is None:
        return inputs
    args, kwargs = inputs
    return tuple(itertools.starmap(put, enumerate(args))), {name: put(name, value) for name, value in kwargs.items()}


def inputs_after(plan: Planned) -> Inputs:
    """The inputs of a grown model, on the meta device.

    Raises
    ------
    CaptureError: there was an argument that is not data.
    """
    return with_channels(recalled(plan.inputs), plan.channels)


def given_inputs(example_inputs: Any, name: str = "example_inputs") -> Inputs:
    """Arguments and keyword arguments from what a user passed for them, as the argument of a name.

    Raises
    ------
    CaptureError: it is neither a tensor nor a tuple of arguments nor a dict of keyword arguments, or it is empty.
    """
    inputs = _as_arguments(example_inputs, name)
    tensors = list(flat_tensors(inputs))
    if tensors and not any(tensor.numel() for tensor in tensors):
        shapes = [list(tensor.shape) for tensor in tensors]
        raise CaptureError(f"{name} has no entries, with shapes {shapes}", remedy="pass at least one sample")
    return inputs


def _as_arguments(example_inputs: Any, name: str) -> Inputs:
    if isinstance(example_inputs, Tensor):
        return (example_inputs,), {}
    if isinstance(example_inputs, Mapping) and all(isinstance(name, str) for name in example_inputs):
        return (), dict(example_inputs)
    if isinstance(example_inputs, (tuple, list)):
        return tuple(example_inputs), {}
    if isinstance(example_inputs, Mapping):
        key = next(name for name in example_inputs if not isinstance(name, str))
        raise CaptureError(
            f"{name} has the key {key!r}, which is not the name of an argument",
            remedy="pass a dict of keyword arguments",
        )
    raise CaptureError(
        f"{name} is a {type(example_inputs).__name__}",
        remedy="pass a tensor, a tuple of arguments or a dict of keyword arguments",
    )


def _derived(model: nn.Module) -> Inputs:
    history = carried_by(model)
    if history is not None:
        return inputs_after(history.steps[-1].plan)
    config = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None)
    size = config.get("input_size") if isinstance(config, Mapping) else getattr(config, "input_size", None)
    if size:
        pixels = image_size_of(model) or size[1:]
        channels = _channels(model, config) or size[0]
        inputs: Inputs = (_images(channels, *pixels), {})
        if channels != size[0] and not takes(model, inputs):  # its first layer sees more than the image
            return _images(size[0], *pixels), {}
        return inputs
    registered = _torchvision_inputs(model)
    if registered is not None:
        return registered, {}
    raise CaptureError(
        f"the shape of the inputs of {type(model).__name__} cannot be derived",
        remedy="pass example_inputs, a tensor or a tuple of tensors of the right shapes",
    )


def _channels(model: nn.Module, config: Any) -> int | None:
    """The input channels of the layer that timm's configuration calls the first, where they were changed."""
    name = config.get("first_conv") if isinstance(config, Mapping) else getattr(config, "first_conv", None)
    if not isinstance(name, str):
        return None
    try:
        return getattr(model.get_submodule(name), "in_channels", None)
    except AttributeError:
        return None


def takes(model: nn.Module, inputs: Inputs) -> bool:
    """Whether a model runs on inputs of these shapes in either mode, on the meta device."""
    fitting, named = fitted(model, inputs)
    try:
        with torch.device("meta"), torch.no_grad():
            for training in (False, True):
                in_mode(skeleton(model), training)(*fitting, **named)
    except (RuntimeError, ValueError, AssertionError):
        return False
    return True


def image_size_of(model: nn.Module) -> tuple[int, int] | None:
    """The size of images that a model was built for, where it or a part of it says so."""
    for module in model.modules():
        size = getattr(module, "img_size", None) or getattr(module, "image_size", None)
        if isinstance(size, int):
            return size, size
        if isinstance(size, (tuple, list)) and len(size) == 2:
            return size[0], size[1]
    return None


def _torchvision_inputs(model: nn.Module) -> tuple[Any, ...] | None:
    """What models of this class take, from torchvision's registry of weights."""
    home = inspect.getmodule(type(model))
    if home is None or not home.__name__.startswith("torchvision.models"):
        return None
    import torchvision

    for name in torchvision.models.list_models():
        builder = torchvision.models.get_model_builder(name)
        if inspect.getmodule(inspect.unwrap(builder)) is home:
            registered = registered_inputs(name)
            if registered is not None:
                size = image_size_of(model)
                return _images(3, *size) if size is not None else registered
    return None


_TASKS = {"SemanticSegmentation": (224, 224), "ObjectDetection": (240, 320)}
"""Sizes of an image for tasks whose models take any: large enough for all their strides."""


def registered_inputs(name: str) -> tuple[Any, ...] | None:
    """Arguments on the meta device for a torchvision model, from the transforms and metadata of its weights."""
    import torchvision

    for weights in torchvision.models.get_model_weights(name):
        transforms = weights.transforms()
        task = type(transforms).__name__
        crop: Any = getattr(transforms, "crop_size", None)
        if task == "VideoClassification":
            frames = max(16, weights.meta.get("min_temporal_size", 1))
            return _images(3, frames, *crop, batch=1)
        if crop:
            return _images(3, *(list(crop) * 2)[-2:])
        if task == "SemanticSegmentation":
            height, width = _TASKS[task]
            return _images(3, height, width)
        if task == "ObjectDetection":
            return ([torch.empty(3, *_TASKS[task], device="meta") for _ in range(2)],)
        if task == "OpticalFlow":
            height, width = weights.meta["min_size"]
            return _images(3, height, width) * 2
    return None


def _images(*size: int, batch: int = 2) -> tuple[torch.Tensor]:
    """A batch of images or videos `[channels, (time,) height, width]`."""
    return (torch.empty(batch, *size, device="meta"),)
