"""The catalogue: every model of timm and torchvision by name, and users' own by import path."""

from __future__ import annotations

import difflib
import fnmatch
import importlib
import inspect
import operator
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fxgrow.capture.inputs import registered_inputs
from fxgrow.errors import FxgrowError, as_error, question
from fxgrow.modules.containers import flat_tensors
from fxgrow.modules.libraries import LIBRARIES, is_of_library
from fxgrow.modules.replacing import replaced


class CatalogueError(FxgrowError):
    """There is no such model, or its weights cannot be had."""


@dataclass(frozen=True)
class Entry:
    """A model of a library.

    Attributes
    ----------
    library: "timm" or "torchvision".
    name: what the library calls it.
    input_shape: of one input, [channels, height, width] or [channels, time, height, width]; None where it is not known.
    """

    library: str
    name: str
    input_shape: tuple[int, ...] | None

    @property
    def full_name(self) -> str:
        """The name that `find` takes: "timm/resnet18"."""
        return f"{self.library}/{self.name}"

    @property
    def family(self) -> str:
        """The file of the library that builds the model: "resnet"; those of torchvision as "tv.resnet"."""
        if self.library == "timm":
            import timm

            return str(timm.model_entrypoint(self.name).__module__).rpartition(".")[2]
        import torchvision

        builder = inspect.unwrap(torchvision.models.get_model_builder(self.name))
        return f"tv.{builder.__module__.rpartition('.')[2]}"


def find(name: str, *, pretrained: bool = False, **options: Any) -> nn.Module:
    """Build the model of a name: `timm/NAME`, `torchvision/NAME` or `package.module:callable`.

    Parameters
    ----------
    pretrained: whether to load the weights that the library has for it.
    options: passed on to the constructor.

    Raises
    ------
    CatalogueError: there is no such model, or its pretrained weights cannot be had.

    >>> type(find("timm/test_resnet")).__name__
    'ResNet'
    """
    if is_of_library(name):
        library, _, short = name.partition("/")
        names = _names(library)
        if short.partition(".")[0] not in names:
            close = near(name, [f"{library}/{candidate}" for candidate in names])
            remedy = question(close) or "see timm.list_models() or torchvision.models.list_models()"
            raise CatalogueError(f"there is no model {name!r}", remedy=remedy)
        if library == "timm":
            _check_tag(short)
        return _build(library, short, pretrained, options)
    if ":" in name:
        if pretrained:
            raise CatalogueError(
                f"{name!r} is not a model of a library, whose trained weights could be loaded",
                remedy="load them in the callable itself",
            )
        return _imported(name, options)
    close = _in_libraries(name.rpartition("/")[2])
    raise CatalogueError(
        f"{name!r} is not the name of a model",
        remedy=question(close, " or ") or "write timm/NAME, torchvision/NAME or package.module:callable",
    )


def without_weights(name: str, **options: Any) -> nn.Module:
    """The model of a name on the meta device; where its constructor works with values, its parameters alone."""
    try:
        with torch.device("meta"):
            return find(name, **options)
    except FxgrowError:
        raise
    except (RuntimeError, NotImplementedError):
        with _parameters_on_meta():
            return find(name, **options)


def on_device(device: str, name: str, **options: Any) -> nn.Module:
    """The model of a name, built on a device; on the CPU first where its constructor works with values there."""
    if torch.device(device).type == "cpu":
        return find(name, **options)
    try:
        with torch.device(device):
            model = find(name, **options)
    except (FxgrowError, torch.OutOfMemoryError):
        raise
    except (RuntimeError, NotImplementedError, TypeError):
        model = find(name, **options)
    return model.to(device)


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """Let every parameter that a module takes on go to the meta device at once; buffers are made as ever."""
    register = nn.Module.register_parameter

    def registered(self: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None and not parameter.is_meta:
            parameter = nn.Parameter(parameter.detach().to("meta"), parameter.requires_grad)
        register(self, name, parameter)

    with replaced(nn.Module, "register_parameter", registered):
        yield


def _in_libraries(name: str) -> list[str]:
    """The full names of models that are called so in either library, or else of some that are called alike."""
    names = {f"{library}/{short}": short for library in LIBRARIES for short in _names(library)}
    same = [full for full, short in names.items() if short == name.lower().partition(".")[0]]
    if same:
        return same
    close = near(name, dict.fromkeys(names.values()))
    return [full for short in close for full, model in names.items() if model == short][:3]


def _check_tag(name: str) -> None:
    """Raise a CatalogueError for weights ("a1_in1k") that timm does not know of a model."""
    import timm

    model, _, tag = name.partition(".")
    tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{model}.*")] if tag else []
    if tag and tag not in tags:
        close = [f"timm/{model}.{tagged}" for tagged in near(tag, tags) or tags[:3]]
        raise CatalogueError(f"timm/{model} has no weights {tag!r}", remedy=question(close) or f"write timm/{model}")


def _names(library: str) -> list[str]:
    if library == "timm":
        import timm

        return list(timm.list_models())
    import torchvision

    return list(torchvision.models.list_models())


def near(name: str, names: Iterable[str], most: int = 3) -> list[str]:
    """The names that somebody may have meant: what begins with it, the shortest first, then what is spelt alike.

    >>> near("vit_tiny", ["gcvit_tiny", "vit_tiny_patch16_384", "vit_tiny_patch16_224", "vit_tiny_r_s16_p8_224"])
    ['vit_tiny_patch16_224', 'vit_tiny_patch16_384', 'vit_tiny_r_s16_p8_224']
    >>> near("vit_tny", ["gcvit_tiny", "vit_tiny_patch16_224", "resnet18"])
    ['vit_tiny_patch16_224', 'gcvit_tiny']
    """
    name, names = name.lower(), list(names)
    starts = {candidate[: len(name) + 1]: None for candidate in names}
    alike = difflib.get_close_matches(name, [*dict.fromkeys(names), *starts], n=4 * most, cutoff=0.75)
    meant = [candidate for close in alike for candidate in ([close] if close in names else _starting(close, names))]
    return list(dict.fromkeys([*_starting(name, names), *meant]))[:most]


def _starting(start: str, names: list[str]) -> list[str]:
    """The names that begin so, the shortest first."""
    starting = (candidate for candidate in names if candidate.startswith(start))
    return sorted(starting, key=lambda candidate: (len(candidate), candidate))


def _build(library: str, name: str, pretrained: bool, options: dict[str, Any]) -> nn.Module:
    what = f"pretrained weights of {library}/{name} cannot be had"
    remedy = "check the network or the local cache, or leave pretrained out"
    of = (OSError, RuntimeError, ValueError) if pretrained else ()
    with as_error(CatalogueError, what, remedy=remedy, of=of), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torchvision's notices on initialisation
        if library == "timm":
            import timm

            model = timm.create_model(name, pretrained=pretrained, **options)
        else:
            import torchvision

            builder = inspect.unwrap(torchvision.models.get_model_builder(name))
            if not pretrained and "weights_backbone" in inspect.signature(builder).parameters:
                options = {"weights_backbone": None, **options}
            model = torchvision.models.get_model(name, weights="DEFAULT" if pretrained else None, **options)
    assert isinstance(model, nn.Module)
    return model


def _imported(name: str, options: dict[str, Any]) -> nn.Module:
    module_name, _, attribute = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    remedy = "write package.module:callable, importable from here"
    with as_error(CatalogueError, f"{name!r} cannot be imported", remedy=remedy, of=(ImportError, AttributeError)):
        target = operator.attrgetter(attribute)(importlib.import_module(module_name))
    model = target if isinstance(target, nn.Module) or not callable(target) else target(**options)
    if not isinstance(model, nn.Module):
        raise CatalogueError(
            f"{name!r} gives a {type(model).__name__}",
            remedy="name a callable that returns a torch.nn.Module",
        )
    return model


def entries(library: str | None = None, pattern: str = "*") -> Iterator[Entry]:
    """Every model of both libraries with its input shape, nothing built.

    Parameters
    ----------
    library: "timm" or "torchvision"; both, if left out.
    pattern: a glob that names have to match.

    >>> next(entries("timm", "test_resnet"))
    Entry(library='timm', name='test_resnet', input_shape=(3, 160, 160))
    """
    for which in LIBRARIES if library is None else (library,):
        for name in _names(which):
            if fnmatch.fnmatchcase(name, pattern):
                yield Entry(which, name, _timm_shape(name) if which == "timm" else _torchvision_shape(name))


def _timm_shape(name: str) -> tuple[int, ...] | None:
    import timm

    config = timm.get_pretrained_cfg(name)
    return tuple(config.input_size) if config is not None else (3, 224, 224)


def _torchvision_shape(name: str) -> tuple[int, ...] | None:
    inputs = registered_inputs(name)
    if inputs is None:
        return None
    first = next(flat_tensors(inputs))
    return tuple(first.shape[1:] if isinstance(inputs[0], torch.Tensor) else first.shape)
