"""Every op that fxgrow has a rule for, by itself: what it is called with, and how many dimensions may grow."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable
from typing import Any

import timm.layers as layers
import torch
import torch.nn.functional as F
from timm.models import _features_fx as timm_registry
from torch import Tensor, nn
from torch.nn.utils import parametrizations, rnn
from torchvision import ops as torchvision_ops
from torchvision.models import swin_transformer as torchvision_windows
from torchvision.ops import DeformConv2d, StochasticDepth

from fxgrow import guards
from fxgrow.opaque import packed_sequence
from fxgrow.rules.elementwise import BINARY
from fxgrow.rules.pointwise import Pointwise
from fxgrow.rules.registry import rows
from fxgrow.testing.alone import Case

SPECIAL = (torch.special.softmax, torch.special.log_softmax)
INDEX = torch.tensor([[0, 2, 1], [1, 1, 0]])
MASK = torch.tensor([True, False, True, False])
VECTOR, ROWS, IMAGE = (4,), (3, 4), (2, 4, 6, 6)
COMPLEX = torch.randn(3, 4, dtype=torch.complex128, generator=torch.Generator().manual_seed(7))


def method(name: str, *arguments: Any, **keywords: Any) -> Callable[[Tensor], Any]:
    return lambda x, *others: getattr(x, name)(*others, *arguments, **keywords)


def function(target: Callable[..., Any], *arguments: Any, **keywords: Any) -> Callable[[Tensor], Any]:
    return lambda *operands: target(*operands, *arguments, **keywords)


class Helper(nn.Module):
    """A library's helper function, called by a global name as a model calls it, so that it stays whole."""

    def __init__(self, name: str, *arguments: Any) -> None:
        super().__init__()
        self.name = name
        self.arguments = arguments

    def forward(self, *operands: Tensor) -> Any:
        return globals()[self.name](*operands, *self.arguments)


class BiasTable(nn.Module):
    def forward(self, table: Tensor, index: Tensor) -> Tensor:
        return torchvision_windows._get_relative_position_bias(table, index, [2, 2])


class WindowAttention(nn.Module):
    """Three heads of two units, windows of 2 x 2 shifted by one."""

    def forward(
        self, x: Tensor, enter: Tensor, leave: Tensor, bias: Tensor, qkv_bias: Tensor, proj_bias: Tensor
    ) -> Tensor:
        return torchvision_windows.shifted_window_attention(
            x, enter, leave, bias, [2, 2], 3, [1, 1], qkv_bias=qkv_bias, proj_bias=proj_bias
        )


class AffineGrid(nn.Module):
    """An image read at transformed points, as a spatial transformer does; its size has the channels."""

    def forward(self, x: Tensor, theta: Tensor) -> Tensor:
        return F.grid_sample(x, F.affine_grid(theta, x.size(), align_corners=False), align_corners=False)


class Deformed(nn.Module):
    """The function, with arguments by name."""

    def forward(self, x: Tensor, offset: Tensor, weight: Tensor, bias: Tensor, mask: Tensor) -> Tensor:
        return torchvision_ops.deform_conv2d(x, offset, weight, bias, padding=(1, 1), mask=mask)


class Regions(nn.Module):
    """Boxes of images, in two by two cells."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, x: Tensor) -> Tensor:
        boxes = torch.tensor([[0, 0, 0, 3, 4], [1, 1, 2, 5, 5], [1, 2.5, 0, 4, 3]], dtype=x.dtype)
        return getattr(torchvision_ops, self.name)(x, boxes, 2)  # type: ignore[no-any-return]


class Unpooled(nn.Module):
    """Pooled, and put back where the largest entries were, in an image of the size that there was."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self.pool = getattr(nn, f"MaxPool{rank}d")(2, return_indices=True)
        self.unpool = getattr(nn, f"MaxUnpool{rank}d")(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.unpool(*self.pool(x), output_size=x.size())  # type: ignore[no-any-return]


class LSTMCell(nn.Module):
    """With a state, which is a pair."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(4, 3)

    def forward(self, x: Tensor, h: Tensor, c: Tensor) -> Any:
        return self.cell(x, (h, c))


class OverPacked(nn.Module):
    """The hidden units over sequences that are packed: as long as a record takes them to be."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.LSTM(4, 3, bidirectional=True, bias=False)

    def forward(self, x: Tensor) -> Any:
        return self.layer(rnn.pack_padded_sequence(x, torch.tensor([5, 5])))[0].data


def overwritten(x: Tensor) -> Tensor:
    copied = x * 1.0
    copied[:, -1] = 0.5
    return copied


def helper_cases() -> list[Case]:
    """timm's helpers that tracing leaves whole; several modules bring their own of the same name."""
    cases = []
    for target in sorted(timm_registry.get_notrace_functions(), key=lambda f: (f.__module__, f.__name__)):
        if target not in rows():
            continue
        name = f"{target.__module__.rpartition('.')[2]}_{target.__name__}"
        globals()[name] = target
        if target.__name__ == "resample_abs_pos_embed":
            cases.append(Case(name, Helper(name, (2, 2), None, 0), ((1, 9, 4),), 1, 1e-6))
        else:
            whole_size = len(inspect.signature(target).parameters) == 3
            size: tuple[Any, ...] = ((4, 4),) if whole_size else (4, 4)
            cases.append(Case(name, Helper(name, (2, 2), *size), ((8, 2, 2, 3),), 1))
            cases.append(Case(f"{name} of windows in a row", Helper(name, (2, 2), *size), ((8, 4, 3),), 1))
    return cases


_ARGUMENTS: dict[Any, tuple[Any, ...]] = {
    guards.multiplied: (0.5,),
    nn.Threshold: (0.1, 0.2),
    nn.ConstantPad2d: (1, 0.5),
    F.threshold: (0.1, 0.2),
    F.threshold_: (0.1, 0.2),
    "type": (torch.float64,),
    "to": (torch.float64,),
    StochasticDepth: (0.1, "row"),
    torch.full_like: (0.5,),
    torch.fake_quantize_per_tensor_affine: (0.125, 0, -128, 127),
    torch.clamp: (-0.5, 0.5),
    torch.clamp_: (-0.5, 0.5),
    "clamp": (-0.5, 0.5),
    "clamp_": (-0.5, 0.5),
    "clip": (0.1, 0.5),
    operator.pow: (2,),
    torch.pow: (2,),
    "pow": (3,),
    "pow_": (2,),
}
_TWO_OPERANDS = {
    *(torch.maximum, torch.minimum, operator.add, operator.sub, torch.add, torch.sub, operator.mul, torch.mul),
    *(operator.truediv, torch.div, operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge),
    *("add", "sub", "mul", "div", "eq", "ne", "lt", "le", "gt", "ge"),
    *(
        getattr(home, name)
        for home in (torch, torch.special)
        for names in BINARY.values()
        for name in names.split()
        if hasattr(home, name)
    ),
    *(name for names in BINARY.values() for name in names.split()),
}
_IN_PLACE = {
    *(operator.iadd, operator.isub, operator.imul, operator.itruediv),
    *(getattr(torch, f"{name}_") for name in " ".join(BINARY.values()).split() if hasattr(torch, f"{name}_")),
}
_BITWISE = ("bitwise_and", "bitwise_or", "bitwise_xor", "bitwise_not")
_BITWISE_IN_PLACE = ("bitwise_and_", "bitwise_or_", "bitwise_xor_", "__iand__", "__ior__", "__ixor__")
_NOT_BY_THEMSELVES = {
    *("cuda", "masked_fill", "masked_fill_", "where", "lerp", "lerp_", torch.lerp),
    *(torch.where, operator.invert, torch.logical_not, torch.empty_like),
    *(operator.and_, operator.or_, operator.xor, *_BITWISE, *(getattr(torch, name) for name in _BITWISE)),
    *(*_BITWISE_IN_PLACE, "bitwise_not_"),
}
_LOW_PRECISION = {
    "byte": 256.0,
    "char": 256.0,
    "float": 1e-6,
    "half": 2e-3,
    "bfloat16": 2e-2,
    "cfloat": 1e-6,
}


def brought_by_fxgrow(target: Any) -> bool:
    """Whether a row is fxgrow's own, rather than one that another test has added."""
    return not str(getattr(target, "__module__", "")).startswith("tests.")


def pointwise_cases() -> list[Case]:
    cases = []
    for target, law in rows().items():
        if type(law) is not Pointwise or target in _NOT_BY_THEMSELVES or not brought_by_fxgrow(target):
            continue
        name = target if isinstance(target, str) else f"{target.__module__}.{target.__name__}"
        arguments = _ARGUMENTS.get(target, ())
        if isinstance(target, type):
            cases.append(Case(name, target(*arguments), (ROWS,), 2))
        elif target in _TWO_OPERANDS:
            call = method(target) if isinstance(target, str) else target
            cases.append(Case(f"{name} of two", call, (ROWS, VECTOR), 2))
        elif target in _IN_PLACE:
            cases.append(Case(name, lambda x, y, t=target: t(x * 1.0, y), (ROWS, VECTOR), 2))
        elif isinstance(target, str):
            copied = target.endswith("_")
            call = method(target, *arguments)
            of_two = target in ("add_", "sub_", "mul_", "div_") or (copied and target[:-1] in _TWO_OPERANDS)
            two = (ROWS, VECTOR) if of_two else (ROWS,)
            tolerance = _LOW_PRECISION.get(target, 1e-10)
            cases.append(Case(name, lambda x, *y, c=call, k=copied: c(x * 1.0 if k else x, *y), two, 2, tolerance))
        else:
            in_place = name.endswith("_")
            call = function(target, *arguments)
            cases.append(Case(name, lambda x, c=call, k=in_place: c(x * 1.0 if k else x), (ROWS,), 2))
    return cases


CASES = [
    *pointwise_cases(),
    Case("invert", lambda x: ~(x > 0), (ROWS,), 2),
    Case("bitwise_not", lambda x: torch.bitwise_not(x > 0), (ROWS,), 2),
    *(
        Case(f"{of.__name__} of masks", lambda x, y, f=of: f(x > 0, y > 0.1), (ROWS, VECTOR), 2)
        for of in (operator.and_, operator.or_, operator.xor, *(getattr(torch, name) for name in _BITWISE[:3]))
    ),
    *(
        Case(f"{name} method", lambda x, y, n=name: getattr(x > 0, n)(y > 0.1), (ROWS, VECTOR), 2)
        for name in (*_BITWISE[:3], *_BITWISE_IN_PLACE)
    ),
    Case("bitwise_not method", lambda x: (x > 0).bitwise_not(), (ROWS,), 2),
    Case("bitwise_not_", lambda x: (x > 0).bitwise_not_(), (ROWS,), 2),
    Case("logical_not function", lambda x: torch.logical_not(x), (ROWS,), 2),
    Case("empty_like", lambda x: torch.empty_like(x).exponential_(), (ROWS,), 2),
    Case("masked_fill", lambda x: x.masked_fill(x > 0, 0.5), (ROWS,), 2),
    Case("masked_fill_", lambda x: (x * 1.0).masked_fill_(x > 0, 0.5), (ROWS,), 2),
    Case("masked_fill by a constant", lambda x: x.masked_fill(torch.tensor(True), 0.5), (ROWS,), 2),
    Case("where", lambda x, y: torch.where(x > 0, x, y), (ROWS, VECTOR), 2),
    Case("where method", lambda x, y: x.where(x > 0, y), (ROWS, VECTOR), 2),
    Case("add of three ranks", lambda x, y: x + y, ((2, 3, 4), (3, 1)), 3),
    Case("subtract scaled", lambda x, y: torch.sub(x, y, alpha=0.3), (ROWS, ROWS), 2),
    *(
        Case(f"{name} scaled", lambda x, y, n=name: getattr(x * 1.0, n)(y, alpha=0.3), (ROWS, VECTOR), 2)
        for name in ("add", "add_", "sub", "sub_")
    ),
    *(
        Case(f"{name} by keyword", lambda x, y, n=name: getattr(x * 1.0, n)(other=y), (ROWS, VECTOR), 2)
        for name in ("mul", "mul_", "div", "div_", "eq", "ne", "lt", "le", "gt", "ge")
    ),
    Case("pow by keyword", lambda x: x.pow(exponent=3), (ROWS,), 2),
    Case("matmul by keyword", lambda x, y: x.matmul(other=y), (ROWS, (4, 5)), 3),
    Case("add a number", lambda x: x + 0.5, (ROWS,), 2),
    Case("number over tensor", lambda x: 2.0 / x, (ROWS,), 2),
    Case("clamp without zero", lambda x: torch.clamp(x, 0.1), (ROWS,), 2),
    Case("prelu one", nn.PReLU(), (IMAGE,), 4),
    Case("prelu channels", nn.PReLU(4), (IMAGE,), 4),
    # contractions
    Case("linear", nn.Linear(4, 5), (ROWS,), 3),
    Case("linear without bias", nn.Linear(4, 5, bias=False), ((2, 3, 4),), 4),
    Case("linear for quantisation", nn.modules.linear.NonDynamicallyQuantizableLinear(4, 5), (ROWS,), 3),
    Case("F.linear", F.linear, (ROWS, (5, 4), (5,)), 3),
    Case("F.bilinear", F.bilinear, (ROWS, (3, 3), (5, 4, 3), (5,)), 4),
    Case("bilinear", nn.Bilinear(4, 3, 5), (ROWS, (3, 3)), 4),
    Case("conv1d", nn.Conv1d(4, 6, 3), ((2, 4, 6),), 3),
    Case("conv1d over units", nn.Conv1d(1, 1, 3, padding=1, bias=False), ((2, 1, 6),), 4, by_position=True),
    Case("conv1d of one entry", nn.Conv1d(3, 2, 1), ((2, 3, 6),), 4),
    Case("conv1d circular", nn.Conv1d(1, 1, 3, padding=1, padding_mode="circular"), ((2, 1, 6),), 3),
    Case(
        "F.conv1d of its size", lambda x, w: F.conv1d(x, w, padding="same"), ((2, 3, 6), (3, 3, 3)), 4, by_position=True
    ),
    Case("conv2d", nn.Conv2d(4, 6, 3, padding=1), (IMAGE,), 5, by_position=True),
    Case("conv2d in groups", nn.Conv2d(4, 6, 3, groups=2), (IMAGE,), 4),
    Case("conv2d depthwise", nn.Conv2d(4, 4, 3, groups=4), (IMAGE,), 2),
    Case("conv2d depthwise, two each", nn.Conv2d(4, 8, 1, groups=4), (IMAGE,), 5),
    Case("conv3d", nn.Conv3d(4, 6, 2), ((2, 4, 3, 3, 3),), 3),
    Case("transposed 1d", nn.ConvTranspose1d(4, 6, 2), ((2, 4, 5),), 3),
    Case("transposed 2d", nn.ConvTranspose2d(4, 6, 2, stride=2), (IMAGE,), 3),
    Case("transposed 2d in groups", nn.ConvTranspose2d(4, 6, 2, groups=2), (IMAGE,), 4),
    Case("transposed 3d", nn.ConvTranspose3d(4, 6, 2), ((2, 4, 3, 3, 3),), 3),
    Case("F.conv1d", F.conv1d, ((2, 4, 6), (5, 4, 3), (5,)), 3),
    Case("F.conv2d", lambda x, w: F.conv2d(x, w, None, 1, 0, 1, 2), (IMAGE, (6, 2, 3, 3)), 4),
    Case("F.conv3d", F.conv3d, ((2, 4, 3, 3, 3), (5, 4, 2, 2, 2)), 3),
    Case("F.conv_transpose1d", F.conv_transpose1d, ((2, 4, 6), (4, 5, 3)), 3),
    Case("F.conv_transpose2d", lambda x, w: F.conv_transpose2d(x, w, groups=2), (IMAGE, (4, 3, 2, 2)), 4),
    Case("F.conv_transpose3d", F.conv_transpose3d, ((2, 4, 3, 3, 3), (4, 5, 2, 2, 2)), 3),
    Case("matmul", operator.matmul, ((2, 3, 4), (2, 4, 5)), 4),
    Case(
        "addmm by names",
        lambda x, w, b: torch.addmm(mat2=w, mat1=x, input=b, beta=0.5),
        (ROWS, (4, 3), (3,)),
        3,
    ),
    Case("outer by names", lambda x, y: torch.outer(vec2=y, input=x), ((3,), (4,)), 2),
    Case("matmul broadcast", torch.matmul, ((2, 6, 3, 4), (4, 5)), 5),
    Case("matmul by a vector", torch.matmul, (ROWS, VECTOR), 2),
    Case("vector by matmul", lambda x, y: x.matmul(y), (VECTOR, (4, 5)), 2),
    Case("dot by matmul", lambda x, y: x @ y, (VECTOR, VECTOR), 1),
    Case("bmm", torch.bmm, ((2, 3, 4), (2, 4, 5)), 4),
    Case("bmm method", method("bmm"), ((2, 3, 4), (2, 4, 5)), 4),
    Case("mm", torch.mm, (ROWS, (4, 5)), 3),
    Case("mm method", method("mm"), (ROWS, (4, 5)), 3),
    Case("einsum", lambda q, k: torch.einsum("bqhd,bkhd->bhqk", q, k), ((2, 3, 2, 4), (2, 5, 2, 4)), 5),
    Case("einsum implicit", lambda a, b: torch.einsum("ij,jk", a, b), (ROWS, (4, 5)), 3),
    Case("einsum ellipsis", lambda a, b: torch.einsum("...i,oi->...o", a, b), ((2, 3, 4), (5, 4)), 4),
    Case("addmm", torch.addmm, (VECTOR, (3, 5), (5, 4)), 3),
    Case("addmm method", method("addmm"), ((3, 4), (3, 5), (5, 4)), 3),
    Case("addmm of one row", lambda x, a, b: torch.addmm(x, a, b, beta=0.5, alpha=2.0), ((1, 4), (3, 5), (5, 4)), 3),
    Case("baddbmm", torch.baddbmm, ((2, 3, 4), (2, 3, 5), (2, 5, 4)), 4),
    Case("baddbmm method", method("baddbmm"), ((2, 3, 4), (2, 3, 5), (2, 5, 4)), 4),
    Case("addmv", torch.addmv, ((3,), (3, 4), (4,)), 2),
    Case("addmv method", method("addmv"), ((3,), (3, 4), (4,)), 2),
    Case("tensordot", lambda a, b: torch.tensordot(a, b, ([1], [2])), ((3, 4), (2, 5, 4)), 4),
    Case("tensordot of two axes", lambda a, b: torch.tensordot(a, b, 2), ((5, 3, 4), (3, 4, 2)), 4),
    Case("inner", torch.inner, (ROWS, (5, 4)), 3),
    Case("inner method", method("inner"), (ROWS, VECTOR), 2),
    *(Case(f"torch.{f.__name__}", f, (VECTOR, (3,)), 2) for f in (torch.outer, torch.ger)),
    *(Case(f"{name} method", method(name), (VECTOR, (3,)), 2) for name in ("outer", "ger")),
    Case("torch.dot", torch.dot, (VECTOR, VECTOR), 1),
    Case("dot", method("dot"), (VECTOR, VECTOR), 1),
    Case("torch.mv", torch.mv, (ROWS, VECTOR), 2),
    Case("mv", method("mv"), (ROWS, VECTOR), 2),
    *(
        Case(f"embedding bag by {mode}", nn.EmbeddingBag(5, 4, mode=mode), (INDEX,), 1)
        for mode in ("sum", "mean", "max")
    ),
    Case("embedding", nn.Embedding(5, 4), (INDEX,), 1),
    Case("F.embedding", F.embedding, (INDEX, (5, 4)), 1),
    # shape
    Case("permute", method("permute", 2, 0, 1), ((2, 3, 4),), 3),
    Case("permute by tuple", method("permute", (2, 0, 1)), ((2, 3, 4),), 3),
    Case("torch.permute", lambda x: torch.permute(x, (1, 0, 2)), ((2, 3, 4),), 3),
    Case("transpose", method("transpose", 1, -1), ((2, 3, 4),), 3),
    Case("torch.transpose", lambda x: torch.transpose(x, 0, 2), ((2, 3, 4),), 3),
    Case("swapaxes", method("swapaxes", 0, 1), (ROWS,), 2),
    Case("torch.swapaxes", lambda x: torch.swapaxes(x, 0, 1), (ROWS,), 2),
    Case("swapdims", method("swapdims", 0, 1), (ROWS,), 2),
    Case("torch.swapdims", lambda x: torch.swapdims(x, 0, 1), (ROWS,), 2),
    Case("t", method("t"), (ROWS,), 2),
    Case("view apart", method("view", 3, 2, 4), ((3, 8),), 3),
    Case("view together", method("view", 3, -1), ((3, 2, 4),), 3),
    Case("view across", method("view", 4, 3), (ROWS,), 0),
    Case("reshape", method("reshape", 2, 12), ((2, 3, 4),), 3),
    Case("torch.reshape", lambda x: torch.reshape(x, (6, 4)), ((2, 3, 4),), 3),
    Case("reshape_as", method("reshape_as"), ((3, 2, 4), (3, 8)), 3),
    Case("view_as", method("view_as"), ((3, 2, 4), (3, 8)), 3),
    Case("flatten", method("flatten", 1), ((2, 3, 4),), 3),
    Case("torch.flatten", lambda x: torch.flatten(x, 0, 1), ((2, 3, 4),), 3),
    Case("nn.Flatten", nn.Flatten(), ((2, 3, 4),), 3),
    Case("unflatten", method("unflatten", 1, (2, 4)), ((3, 8),), 3),
    Case("torch.unflatten", lambda x: torch.unflatten(x, 1, (2, 4)), ((3, 8),), 3),
    Case("squeeze", method("squeeze", 1), ((3, 1, 4),), 2),
    Case("torch.squeeze", lambda x: torch.squeeze(x, 1), ((3, 1, 4),), 2),
    Case("unsqueeze", method("unsqueeze", 1), (ROWS,), 2),
    Case("torch.unsqueeze", lambda x: torch.unsqueeze(x, 0), (ROWS,), 2),
    Case("expand", method("expand", 2, 3, 4), ((1, 3, 4),), 3),
    Case("expand_as", method("expand_as"), ((1, 4), ROWS), 2),
    Case("chunk", method("chunk", 2, 1), ((3, 8),), 3),
    Case("torch.chunk", lambda x: torch.chunk(x, 2, dim=-1), ((3, 8),), 3),
    Case("split", method("split", 4, 1), ((3, 8),), 3),
    Case("split by sizes", method("split", [2, 6], 1), ((3, 8),), 3),
    Case("torch.split", lambda x: torch.split(x, 4, 1), ((3, 8),), 3),
    Case("torch.functional.split", lambda x: torch.functional.split(x, 4, 1), ((3, 8),), 3),
    Case("unbind", method("unbind", 0), (ROWS,), 1),
    Case("torch.unbind", lambda x: torch.unbind(x, 1), (ROWS,), 1),
    Case("tensor_split", method("tensor_split", 2, 1), ((3, 8),), 3),
    Case("torch.tensor_split", lambda x: torch.tensor_split(x, 2, dim=1), ((3, 8),), 3),
    Case("slice", lambda x: x[:, 2:], (ROWS,), 3),
    Case("slice between", lambda x: x[:, 1:3], (ROWS,), 4),
    Case("slice with a step", lambda x: x[:, ::2], (ROWS,), 2),
    Case("slice with a step to a number", lambda x: x[1:4:2], ((4, 3),), 2),
    Case("slice with a step and a rest", lambda x: x[::2], ((5, 3),), 1),
    Case("item", lambda x: x[:, 0], (ROWS,), 2),
    Case("ellipsis and none", lambda x: x[..., None, 1:], ((2, 3, 4),), 4),
    Case("index tensor", lambda x, index: x[index], (ROWS, INDEX), 1),
    Case("item assignment", overwritten, (ROWS,), 1),
    Case("cat", lambda x, y: torch.cat([x, y], 1), (ROWS, (3, 2)), 3),
    Case("concat", lambda x, y: torch.concat([x, y], 0), (ROWS, (2, 4)), 3),
    Case("concatenate", lambda x, y: torch.concatenate([x, y], -1), (ROWS, (3, 2)), 3),
    Case("stack", lambda x, y: torch.stack([x, y], 1), (ROWS, ROWS), 2),
    Case("repeat", method("repeat", 1, 2), (ROWS,), 2),
    Case("tile", method("tile", (2, 1)), (ROWS,), 2),
    Case("torch.tile", lambda x: torch.tile(x, (1, 2)), (ROWS,), 2),
    Case("roll", method("roll", 1, 0), (ROWS,), 1),
    Case("torch.roll", lambda x: torch.roll(x, (1, 1), (0, 1)), ((2, 3, 4),), 1),
    Case("lerp", lambda x, y: x.lerp(y, 0.3), (ROWS, ROWS), 2),
    Case("lerp in place", lambda x, y: (x * 1.0).lerp_(y, 0.3), (ROWS, ROWS), 2),
    Case("torch.lerp by a tensor", torch.lerp, (ROWS, ROWS, VECTOR), 2),
    Case("F.glu", lambda x: F.glu(x, 1), ((3, 8),), 2),
    Case("nn.GLU", nn.GLU(1), ((2, 8, 3),), 3),
    Case("addcmul", lambda x, a, b: torch.addcmul(x, a, b), (ROWS, ROWS, VECTOR), 2),
    Case("the method addcmul", lambda x, a, b: x.addcmul(a, b, value=0.5), (ROWS, ROWS, VECTOR), 2),
    Case("norm", method("norm", p=2, dim=1), (ROWS,), 2),
    Case("torch.norm", lambda x: torch.norm(x, p=2, dim=(1, 2), keepdim=True), (IMAGE,), 4),
    Case("repeat interleave", method("repeat_interleave", 2, 1), (ROWS,), 2),
    Case("torch.repeat_interleave", lambda x: torch.repeat_interleave(x, 3, dim=0), (ROWS,), 2),
    Case("windows", method("unfold", 1, 2, 1), (ROWS,), 1),
    Case("new zeros", method("new_zeros", 3), (ROWS,), 3),
    Case("new ones", method("new_ones", (3, 2)), (ROWS,), 4),
    Case("new tensor", lambda x: x * x.new_tensor([0.5]), (ROWS,), 2),
    Case("new full", method("new_full", (3,), 0.5), (ROWS,), 3),
    Case("zeros beside", lambda x: torch.cat([torch.zeros(1, x.shape[1], dtype=x.dtype), x]), (ROWS,), 2),
    Case("ones of a size", lambda x: torch.ones(x.shape[1], dtype=x.dtype) + x, (ROWS,), 2),
    Case("full of a shape", lambda x: torch.full(x.shape, 0.5, dtype=x.dtype) * x, (ROWS,), 2),
    Case("rand", lambda x: x + 0 * torch.rand(4, dtype=x.dtype), (ROWS,), 1),
    Case("randn", lambda x: x + 0 * torch.randn(3, 4, dtype=x.dtype), (ROWS,), 0),
    Case("new_empty", lambda x: x * x.new_empty(3, 1).bernoulli_(0.5), (ROWS,), 1),
    Case("empty", lambda x: torch.cat([torch.empty(0, x.shape[1], dtype=x.dtype), x]), (ROWS,), 1),
    Case("linspace", lambda x: x + torch.linspace(0, 1, x.shape[1], dtype=x.dtype), (ROWS,), 1),
    Case("eye", lambda x: x @ torch.eye(x.shape[1], dtype=x.dtype), (ROWS,), 1),
    Case("arange", lambda x: x + torch.arange(x.shape[1]), (ROWS,), 1),
    Case("randint", lambda x: x + 0 * torch.randint(2, (4,)), (ROWS,), 1),
    Case("randperm", lambda x: x + 0 * torch.randperm(4), (ROWS,), 1),
    Case("ones of numbers", lambda x: torch.ones(4, dtype=x.dtype) + x, (ROWS,), 2),
    Case("view by a shape in one node", lambda x: x.view(operator.add(x.size()[:-1], (4, 2))), ((3, 8),), 3),
    Case("F.layer_norm of a shape", lambda x: F.layer_norm(x, x.shape[-1:]), (ROWS,), 2),
    Case("flip", method("flip", [0]), (ROWS,), 1),
    Case("torch.flip", lambda x: torch.flip(x, [1]), (ROWS,), 1),
    Case("select", method("select", 1, 2), (ROWS,), 3),
    Case("torch.select from the end", lambda x: torch.select(x, 1, -1), (ROWS,), 1),
    Case("narrow", method("narrow", 1, 1, 2), (ROWS,), 4),
    Case("torch.narrow from the first", lambda x: torch.narrow(x, 1, 0, 2), (ROWS,), 3),
    Case("index_select", lambda x, index: x.index_select(1, index), (ROWS, torch.tensor([0, 2])), 1),
    Case("torch.index_select", lambda x, index: torch.index_select(x, 0, index), (ROWS, torch.tensor([2, 1])), 1),
    Case("index_select by values", lambda x, y: x.index_select(1, y.argmax(1)), (ROWS, (2, 4)), 2, by_position=True),
    Case("gather", lambda x, index: x.gather(1, index), (ROWS, torch.tensor([[0, 1], [2, 2], [3, 0]])), 0),
    Case("torch.gather by values", lambda x, y: torch.gather(x, 0, y.sort(0)[1]), ((3, 4), (3, 4)), 1),
    Case("index by a list", lambda x: x[:, [0, 2]], ((2, 3, 4),), 2),
    Case("index by two", lambda x, i: x[i, :, i], ((3, 4, 3), torch.tensor([0, 2])), 1),
    Case("index by values", lambda x, y: x[y.argmax(-1)], (ROWS, (5, 3)), 2, by_position=True),
    Case(
        "pairs of indices by values",
        lambda x, y: x[torch.arange(3), y.argmax(-1)],
        ((3, 5, 4), (3, 5)),
        2,
        by_position=True,
    ),
    Case("attribute T", lambda x: x.T, (ROWS,), 2),
    Case("attribute mT", lambda x: x.mT, ((2, 3, 4),), 3),
    Case("attribute mH", lambda x: x.mH * 2, ((2, 3, 4),), 3),
    Case("attribute H", lambda x: x.H + 1, (ROWS,), 2),
    Case("attribute real", lambda x: x.real * 2, (ROWS,), 2),
    Case("attribute imag", lambda x: x.imag * 2, (COMPLEX,), 2),
    Case("real part", lambda x: torch.real(x), (COMPLEX,), 2),
    Case("imaginary part", lambda x: torch.imag(x), (COMPLEX,), 2),
    Case("view as real", lambda x: torch.view_as_real(x), (COMPLEX,), 2),
    Case("view as complex", lambda x: torch.view_as_complex(x), ((3, 4, 2),), 2),
    Case("size of complex numbers", torch.abs, (COMPLEX,), 2),
    Case("product of complex numbers", torch.mul, (COMPLEX, VECTOR), 2),
    Case("matrix product of complex numbers", torch.matmul, (COMPLEX, torch.randn(4, 5, dtype=torch.complex128)), 3),
    Case("attribute data", lambda x: x.data.t() * 2, (ROWS,), 2),
    Case("torch.t", lambda x: torch.t(x), (ROWS,), 2),
    Case("adjoint", method("adjoint"), ((2, 3, 4),), 3),
    Case("torch.adjoint", lambda x: torch.adjoint(x), ((2, 3, 4),), 3),
    *(Case(name, method(name, 2, 0), ((2, 3, 4),), 3) for name in ("movedim", "moveaxis")),
    Case("torch.movedim", lambda x: torch.movedim(x, (0, 1), (-1, 0)), ((2, 3, 4),), 3),
    Case("torch.moveaxis", lambda x: torch.moveaxis(x, 0, 1), ((2, 3, 4),), 3),
    Case("ravel", method("ravel"), (ROWS,), 2),
    Case("torch.ravel", lambda x: torch.ravel(x), (ROWS,), 2),
    Case("nn.Unflatten", nn.Unflatten(1, (2, 4)), ((3, 8),), 3),
    Case("broadcast_to", method("broadcast_to", (2, 3, 4)), ((3, 4),), 3),
    Case("torch.broadcast_to", lambda x: torch.broadcast_to(x, (3, 4)), ((1, 4),), 2),
    Case("hstack", lambda x, y: torch.hstack([x, y]), (ROWS, (3, 2)), 3),
    Case("hstack of vectors", lambda x, y: torch.hstack([x, y]), (VECTOR, (2,)), 2),
    Case("vstack", lambda x, y: torch.vstack([x, y]), (ROWS, (2, 4)), 3),
    Case("column_stack", lambda x, y: torch.column_stack([x, y]), (ROWS, (3, 2)), 3),
    Case("channel shuffle", nn.ChannelShuffle(2), (IMAGE,), 5),
    Case("F.channel_shuffle", lambda x: F.channel_shuffle(x, 2), (IMAGE,), 5),
    # normalisation
    Case("batch norm 1d", nn.BatchNorm1d(4), (ROWS,), 1),
    Case("synchronised batch norm", nn.SyncBatchNorm(4), (IMAGE,), 1),
    Case("F.instance_norm", lambda x, w, b: F.instance_norm(x, None, None, w, b), (IMAGE, VECTOR, VECTOR), 1),
    Case("weight norm", parametrizations.weight_norm(nn.Linear(4, 5)), (ROWS,), 3),
    Case("weight norm of a convolution", parametrizations.weight_norm(nn.Conv2d(4, 5, 3)), (IMAGE,), 3),
    Case("torch._weight_norm", lambda v, g: torch._weight_norm(v, g, 0), ((5, 4), (5, 1)), 2),
    Case("spectral norm", parametrizations.spectral_norm(nn.Linear(4, 5)), (ROWS,), 3, by_position=True),
    Case(
        "spectral norm of a convolution",
        parametrizations.spectral_norm(nn.Conv2d(4, 5, 3)),
        (IMAGE,),
        3,
        by_position=True,
    ),
    Case(
        "spectral norm of a transposed convolution",
        parametrizations.spectral_norm(nn.ConvTranspose2d(4, 5, 3)),
        (IMAGE,),
        3,
        by_position=True,
    ),
    Case("batch norm 2d", nn.BatchNorm2d(4), (IMAGE,), 1),
    Case("batch norm 3d", nn.BatchNorm3d(4), ((2, 4, 2, 2, 2),), 1),
    Case("batch norm without affine", nn.BatchNorm2d(4, affine=False), (IMAGE,), 1),
    Case("batch norm without statistics", nn.BatchNorm2d(4, track_running_stats=False), (IMAGE,), 1),
    Case("instance norm 1d", nn.InstanceNorm1d(4, affine=True), ((2, 4, 6),), 1),
    Case("instance norm 2d", nn.InstanceNorm2d(4), (IMAGE,), 1),
    Case("instance norm 3d", nn.InstanceNorm3d(4), ((2, 4, 2, 2, 2),), 1),
    Case("weight standardisation", lambda x, w: F.batch_norm(x, None, None, w, None, True), ((1, 4, 6), VECTOR), 2),
    Case(
        "guarded standardisation",
        lambda x, w: guards.standardize(x, w, None, 1e-5, ((0, 3),)),
        ((1, 4, 6), VECTOR),
        2,
        by_position=True,
    ),
    Case("F.batch_norm", lambda x, w, b: F.batch_norm(x, None, None, w, b, True), (IMAGE, VECTOR, VECTOR), 1),
    Case("layer norm", nn.LayerNorm(4), ((2, 3, 4),), 3),
    Case("layer norm without affine", nn.LayerNorm(4, elementwise_affine=False), (ROWS,), 2),
    Case("layer norm over two axes", nn.LayerNorm((3, 4)), ((2, 3, 4),), 1),
    Case("F.layer_norm", lambda x, w, b: F.layer_norm(x, (4,), w, b, 1e-3), (ROWS, VECTOR, VECTOR), 2),
    Case("rms norm", nn.RMSNorm(4, eps=1e-3), (ROWS,), 2),
    Case("rms norm, eps by precision", nn.RMSNorm(4), (ROWS,), 2),
    Case("F.rms_norm", lambda x, w: F.rms_norm(x, (4,), w, 1e-3), (ROWS, VECTOR), 2),
    Case("group norm", nn.GroupNorm(2, 4), (IMAGE,), 3),
    Case("group norm of one group", nn.GroupNorm(1, 4), (IMAGE,), 2),
    Case("F.group_norm", lambda x, w, b: F.group_norm(x, 2, w, b), (IMAGE, VECTOR, VECTOR), 3),
    Case(
        "guarded layer norm",
        lambda x, w, b: guards.layer_norm(x, (4,), w, b, 1e-5, ((0, 2),)),
        (ROWS, VECTOR, VECTOR),
        2,
        by_position=True,
    ),
    Case(
        "guarded rms norm",
        lambda x, w: guards.rms_norm(x, (4,), w, 1e-5, ((0, 3),)),
        (ROWS, VECTOR),
        2,
        by_position=True,
    ),
    Case(
        "guarded group norm",
        lambda x, w, b: guards.group_norm(x, 2, w, b, 1e-5, ((0, 1),)),
        (IMAGE, VECTOR, VECTOR),
        3,
        by_position=True,
    ),
    Case(
        "readout",
        lambda x, weight: guards.readout(x, weight, 1, ((0, 2),)),
        ((2, 4, 3), (2, 4)),
        3,
        by_position=True,
    ),
    Case("cosine similarity", F.cosine_similarity, (ROWS, ROWS), 2),
    Case("nn.CosineSimilarity", nn.CosineSimilarity(dim=-1), ((2, 3, 4), (2, 3, 4)), 3),
    Case("pairwise distance", lambda x, y: F.pairwise_distance(x, y, keepdim=True), (ROWS, ROWS), 2),
    Case("nn.PairwiseDistance", nn.PairwiseDistance(), (ROWS, ROWS), 2),
    Case("cdist", torch.cdist, ((3, 4), (5, 4)), 3),
    Case("guarded reduction", lambda x: guards.core(x, 1, ((0, 2),)).sum(1), (ROWS,), 2, by_position=True),
    # reductions
    Case("sum", method("sum", 1), (ROWS,), 2),
    Case("sum of all", method("sum"), (ROWS,), 2),
    Case("torch.sum", lambda x: torch.sum(x, dim=(0, 2), keepdim=True), ((2, 3, 4),), 3),
    Case("mean", method("mean", -1), (ROWS,), 2),
    Case("torch.mean", lambda x: torch.mean(x, dim=1, keepdim=True), (ROWS,), 2),
    *(Case(name, method(name, 1), (ROWS,), 2) for name in ("amax", "amin", "var", "std")),
    *(
        Case(f"torch.{target.__name__}", function(target, dim=1), (ROWS,), 2)
        for target in (torch.amax, torch.amin, torch.var, torch.std)
    ),
    *(
        Case(f"{name} over an axis", lambda x, n=name: getattr(x, n)(1)[0], (ROWS,), 2)
        for name in ("max", "min", "median")
    ),
    *(
        Case(f"torch.{f.__name__} over an axis", lambda x, f=f: f(x, 1, keepdim=True).values, ((2, 3, 4),), 3)
        for f in (torch.max, torch.min, torch.median)
    ),
    *(Case(f"torch.{f.__name__} of two", f, (ROWS, VECTOR), 2) for f in (torch.max, torch.min)),
    Case("largest and where", lambda x: x.max(1), (ROWS,), 2, by_position=True),
    *(Case(name, method(name, 1), (ROWS,), 2) for name in ("prod", "logsumexp", "all", "any")),
    *(Case(name, method(name, 1), (ROWS,), 2, by_position=True) for name in ("argmax", "argmin")),
    *(
        Case(f"torch.{f.__name__}", function(f, dim=1), (ROWS,), 2, by_position=True)
        for f in (torch.argmax, torch.argmin)
    ),
    *(
        Case(f"torch.{f.__name__}", function(f, dim=1), (ROWS,), 2)
        for f in (
            *(torch.prod, torch.logsumexp, torch.special.logsumexp, torch.all, torch.any, torch.var_mean),
            *(torch.std_mean, torch.aminmax),
        )
    ),
    Case("aminmax", lambda x: x.aminmax(dim=1), (ROWS,), 2),
    *(
        case
        for name, *arguments in (
            *(("quantile", 0.3), ("nanquantile", 0.3), ("nansum",), ("nanmean",), ("nanmedian",), ("kthvalue", 2)),
            *(("mode",), ("count_nonzero",)),
        )
        for case in (
            Case(name, method(name, *arguments, 1), (ROWS,), 2, by_position=True),
            Case(f"torch.{name}", function(getattr(torch, name), *arguments, 0), (ROWS,), 2, by_position=True),
        )
    ),
    Case("quantile of all", method("quantile", 0.5), (ROWS,), 2),
    Case("several quantiles", lambda x: torch.quantile(x, torch.tensor([0.2, 0.5], dtype=x.dtype), 1), (ROWS,), 0),
    Case("kthvalue of the last axis", lambda x: x.kthvalue(2)[0], (ROWS,), 2),
    Case("linalg.norm", lambda x: torch.linalg.norm(x, dim=1, keepdim=True), (ROWS,), 2),
    Case("linalg.norm of everything", torch.linalg.norm, (ROWS,), 2),
    Case("linalg.matrix_norm", torch.linalg.matrix_norm, ((2, 3, 4),), 3),
    Case("index_reduce", lambda x, y: x.index_reduce(0, INDEX[0], y, "amax"), ((4, 2), (3, 2)), 1),
    Case("torch.index_reduce", lambda x, y: torch.index_reduce(x, 0, INDEX[0], y, "prod"), ((4, 2), (3, 2)), 1),
    Case("vector norm", lambda x: torch.linalg.vector_norm(x, dim=(1, 2)), ((2, 3, 4),), 3),
    *(
        Case(name, method(name, 1), (ROWS,), 1)
        for name in ("cumsum", "cumprod", "logcumsumexp", "cummax", "cummin", "sort", "argsort", "log_softmax")
    ),
    *(
        Case(f"torch.{f.__name__}", function(f, dim=1), (ROWS,), 1)
        for f in (
            *(torch.cumsum, torch.cumprod, torch.logcumsumexp, torch.cummax, torch.cummin, torch.sort),
            *(torch.argsort, F.softmin),
        )
    ),
    Case("topk", lambda x: x.topk(2, 1), (ROWS,), 1),
    Case("torch.topk", lambda x: torch.topk(x, 2)[0], (ROWS,), 1),
    *(
        Case(f"torch.fft.{kind}", function(getattr(torch.fft, kind), dim=dims), (IMAGE,), 4 - len(dims))
        for dims, kinds in {
            (1,): ("fftshift", "ifftshift"),
            (-1, 2): (f"{inverse}{half}fft{axes}" for inverse in ("", "i") for half in ("", "r", "h") for axes in "2n"),
        }.items()
        for kind in kinds
    ),
    *(
        Case(f"torch.fft.{kind}", function(getattr(torch.fft, kind), 5, 1), ((2, 4, 3),), 2)
        for kind in ("fft", "ifft", "rfft", "irfft", "hfft", "ihfft")
    ),
    Case("fft there and back", lambda x: torch.fft.irfft2(torch.fft.rfft2(x), s=x.shape[-2:]), (IMAGE,), 2),
    Case("fft of all axes", lambda x: torch.fft.fftn(x), (ROWS,), 0),
    Case("fft of as many axes as sizes", lambda x: torch.fft.fftn(x, (4,)), (ROWS,), 1),
    Case("diff", lambda x: x.diff(dim=0), (ROWS,), 1),
    Case("torch.diff with more before it", lambda x, y: torch.diff(x, dim=0, prepend=y), (ROWS, (1, 4)), 1),
    Case("index_add", lambda x, y: x.index_add(0, INDEX[0], y, alpha=0.5), ((4, 2), (3, 2)), 1),
    Case("torch.index_add", lambda x, y: torch.index_add(x, 1, INDEX[0], y), (ROWS, (3, 3)), 1),
    Case("index_add in place", lambda x, y: (x * 1.0).index_add_(0, INDEX[0], y), ((4, 2), (3, 2)), 1),
    Case("index_copy", lambda x, y: x.index_copy(0, INDEX[0], y), ((4, 2), (3, 2)), 1),
    Case("torch.index_copy", lambda x, y: torch.index_copy(x, 0, INDEX[0], y), ((4, 2), (3, 2)), 1),
    Case("index_fill", lambda x: x.index_fill(0, INDEX[0], 0.0), (ROWS,), 1),
    Case("torch.index_fill", lambda x: torch.index_fill(x, 0, INDEX[0], 0.5), (ROWS,), 1),
    *(
        Case(
            f"{name} of tensors",
            lambda x, y, n=name: getattr(x, n)(0, y.argsort(0), y),
            ((4, 2), (3, 2)),
            1,
            by_position=True,
        )
        for name in ("scatter", "scatter_add")
    ),
    Case("torch.scatter", lambda x, y: torch.scatter(x, 0, y.argsort(0), 0.5), ((4, 2), (3, 2)), 1, by_position=True),
    Case(
        "torch.scatter_add",
        lambda x, y: torch.scatter_add(x, 0, y.argsort(0), y),
        ((4, 2), (3, 2)),
        1,
        by_position=True,
    ),
    Case(
        "scatter_reduce",
        lambda x, y: x.scatter_reduce(0, y.argsort(0), y, "amax"),
        ((4, 2), (3, 2)),
        1,
        by_position=True,
    ),
    Case("torch.scatter_reduce", lambda x, y: torch.scatter_reduce(x, 0, y.argsort(0), y, "sum"), ((4, 2), (3, 2)), 1),
    Case("as_strided", lambda x: x.as_strided((3, 2), (4, 1)), (ROWS,), 0),
    Case("torch.as_strided", lambda x: torch.as_strided(x, (3, 2), (4, 1)), (ROWS,), 0),
    Case("F.mse_loss", F.mse_loss, (ROWS, ROWS), 0),
    Case("F.l1_loss", F.l1_loss, (ROWS, ROWS), 0),
    Case("F.smooth_l1_loss", F.smooth_l1_loss, (ROWS, ROWS), 0),
    Case("F.huber_loss", F.huber_loss, (ROWS, ROWS), 0),
    Case("nn.Softmin", nn.Softmin(dim=1), (ROWS,), 1),
    Case("nn.Softmax2d", nn.Softmax2d(), (IMAGE,), 3),
    Case("nn.Softmax", nn.Softmax(dim=1), (ROWS,), 1),
    Case("nn.LogSoftmax", nn.LogSoftmax(dim=-1), (ROWS,), 1),
    Case("softmax", method("softmax", -1), (ROWS,), 1),
    *(
        Case(f"{target.__module__}.{target.__name__}", function(target, dim=0), (ROWS,), 1)
        for target in (F.softmax, torch.softmax, F.log_softmax, torch.log_softmax, *SPECIAL)
    ),
    Case("normalize", lambda x: F.normalize(x), (ROWS,), 2),
    Case("normalize last", lambda x: F.normalize(x, dim=-1), (ROWS,), 2),
    Case(
        "guarded normalize",
        lambda x: guards.normalize(x, 2.0, 1, 1e-12, ((0, 3),)),
        (ROWS,),
        2,
        by_position=True,
    ),
    # attention and recurrence
    Case("attention", F.scaled_dot_product_attention, ((2, 3, 5, 4), (2, 3, 6, 4), (2, 3, 6, 2)), 5),
    Case(
        "attention with a mask",
        lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, m, scale=0.3),
        ((2, 3, 5, 4), (2, 3, 6, 4), (2, 3, 6, 2), (3, 5, 6)),
        5,
    ),
    Case("rnn cell", nn.RNNCell(4, 3), ((2, 4), (2, 3)), 2),
    Case("gru cell", nn.GRUCell(4, 3), ((2, 4), (2, 3)), 2),
    Case("lstm cell", LSTMCell(), ((2, 4), (2, 3), (2, 3)), 2),
    Case("lstm cell without a state", nn.LSTMCell(4, 3, bias=False), ((2, 4),), 2),
    Case("rnn", nn.RNN(4, 3, 2, batch_first=True), ((2, 5, 4),), 2),
    Case("gru", nn.GRU(4, 3, bidirectional=True), ((5, 2, 4),), 2),
    Case("lstm", nn.LSTM(4, 3, 2, bidirectional=True, bias=False), ((5, 2, 4),), 2),
    Case("lstm of packed sequences", OverPacked(), ((5, 2, 4),), 2),
    Case("packed", lambda x: rnn.pack_padded_sequence(x, torch.tensor([3, 3]), True), ((2, 3, 4),), 1),
    *(
        Case(
            f"padded with {value}",
            lambda x, value=value: rnn.pad_packed_sequence(
                packed_sequence(x, torch.tensor([2, 2])), padding_value=value, total_length=3
            ),
            ((4, 3),),
            1,
        )
        for value in (0.0, 0.5)
    ),
    # space
    Case("average pool 1d", nn.AvgPool1d(2), ((2, 4, 6),), 2),
    Case("average pool 2d", nn.AvgPool2d(2), (IMAGE,), 2),
    Case("average pool 3d", nn.AvgPool3d(2), ((2, 4, 2, 2, 2),), 2),
    Case("max pool 1d", nn.MaxPool1d(2), ((2, 4, 6),), 2),
    Case("max pool 2d", nn.MaxPool2d(2), (IMAGE,), 2),
    Case("max pool 3d", nn.MaxPool3d(2), ((2, 4, 2, 2, 2),), 2),
    *(
        Case(kind.__name__, kind(2), ((2, 4, *(4,) * rank),), 2)
        for rank, kinds in {
            1: (nn.AdaptiveAvgPool1d, nn.AdaptiveMaxPool1d),
            2: (nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d),
            3: (nn.AdaptiveAvgPool3d, nn.AdaptiveMaxPool3d),
        }.items()
        for kind in kinds
    ),
    *(
        Case(f"F.{target.__name__}", function(target, 2), ((2, 4, *(4,) * rank),), 2)
        for rank, targets in {
            1: (F.avg_pool1d, F.max_pool1d, F.adaptive_avg_pool1d, F.adaptive_max_pool1d),
            2: (F.avg_pool2d, F.max_pool2d, F.adaptive_avg_pool2d, F.adaptive_max_pool2d),
            3: (F.avg_pool3d, F.max_pool3d, F.adaptive_avg_pool3d, F.adaptive_max_pool3d),
        }.items()
        for target in targets
    ),
    *(Case(f"max unpool {rank}d", Unpooled(rank), ((2, 4, 6, 6, 6)[: rank + 2],), 2) for rank in (1, 2, 3)),
    *(
        Case(f"F.max_unpool{rank}d", lambda x, f=f, g=g: g(*f(x, 2, return_indices=True), 2), (size,), 2)
        for rank, f, g, size in (
            (1, F.max_pool1d, F.max_unpool1d, (2, 4, 6)),
            (2, F.max_pool2d, F.max_unpool2d, IMAGE),
            (3, F.max_pool3d, F.max_unpool3d, (2, 4, 2, 2, 2)),
        )
    ),
    Case("max pool with indices", nn.MaxPool2d(2, return_indices=True), (IMAGE,), 2),
    *(
        Case(
            f"F.{name}max_pool{rank}d with indices",
            lambda x, f=f: f(x, 2, return_indices=True),
            ((2, 4, *(4,) * rank),),
            2,
        )
        for rank in (1, 2, 3)
        for name in ("", "adaptive_")
        for f in (getattr(F, f"{name}max_pool{rank}d"),)
    ),
    Case("grid sample", lambda x, g: F.grid_sample(x, g, align_corners=False), (IMAGE, (2, 3, 3, 2)), 1),
    Case("affine grid", AffineGrid(), (IMAGE, (2, 2, 3)), 1),
    Case("affine grid in space", lambda t: F.affine_grid(t, [2, 4, 2, 3, 3], False), ((2, 3, 4),), 0),
    Case("affine grid generator", lambda t: torch.affine_grid_generator(t, (2, 4, 3, 5), True), ((2, 2, 3),), 0),
    Case("upsample", nn.Upsample(scale_factor=2), (IMAGE,), 2),
    Case("upsample bilinear", nn.UpsamplingBilinear2d(scale_factor=2), (IMAGE,), 2),
    Case("upsample nearest", nn.UpsamplingNearest2d(scale_factor=2), (IMAGE,), 2),
    Case("interpolate", lambda x: F.interpolate(x, size=(3, 3), mode="bicubic"), (IMAGE,), 2),
    *(
        Case(kind.__name__, kind(1, *((0.5,) if "Constant" in kind.__name__ else ())), ((2, 4, *(3,) * rank),), 2)
        for rank, kinds in {
            1: (nn.ZeroPad1d, nn.ConstantPad1d, nn.ReflectionPad1d, nn.ReplicationPad1d, nn.CircularPad1d),
            2: (nn.CircularPad2d,),
            3: (nn.ZeroPad3d, nn.ConstantPad3d, nn.ReflectionPad3d, nn.ReplicationPad3d, nn.CircularPad3d),
        }.items()
        for kind in kinds
    ),
    Case("zero pad", nn.ZeroPad2d(1), (IMAGE,), 2),
    Case("constant pad", nn.ConstantPad2d(1, 0.5), (IMAGE,), 2),
    Case("reflection pad", nn.ReflectionPad2d(1), (IMAGE,), 2),
    Case("replication pad", nn.ReplicationPad2d((1, 0, 0, 2)), (IMAGE,), 2),
    Case("F.pad", lambda x: F.pad(x, (0, 0, 1, 1), mode="replicate"), ((2, 3, 4),), 2),
    Case("F.pad with zeros", lambda x: F.pad(x, (0, 0, 2, 3)), ((2, 3, 4),), 5),
    Case("F.pad with zeros on two axes", lambda x: F.pad(x, (2, 0, 0, 3)), ((2, 3, 4),), 5),
    Case("F.pad with a value", lambda x: F.pad(x, (0, 1), value=0.5), (ROWS,), 1),
    Case("pixel shuffle", nn.PixelShuffle(2), ((2, 8, 3, 3),), 2),
    Case("F.pixel_shuffle", lambda x: F.pixel_shuffle(x, 2), ((2, 8, 3, 3),), 2),
    Case("pixel unshuffle", nn.PixelUnshuffle(2), (IMAGE,), 2),
    Case("F.pixel_unshuffle", lambda x: F.pixel_unshuffle(x, 2), (IMAGE,), 2),
    Case("nn.Unfold", nn.Unfold(3, padding=1, stride=2), (IMAGE,), 2),
    Case("F.unfold", lambda x: F.unfold(x, (2, 1)), (IMAGE,), 2),
    Case("nn.Fold", nn.Fold((3, 4), 2, padding=1, stride=2), ((2, 8, 6),), 2),
    Case("F.fold", lambda x: F.fold(x, (3, 3), 2), ((2, 8, 4),), 2),
    # timm and torchvision
    Case("timm batch norm and activation", layers.BatchNormAct2d(4), (IMAGE,), 1),
    Case("timm batch norm and sigmoid", layers.BatchNormAct2d(4, act_layer=nn.Sigmoid), (IMAGE,), 1),
    *helper_cases(),
    Case("deformable convolution", DeformConv2d(4, 5, 3), (IMAGE, (2, 18, 4, 4)), 2),
    Case("deformable in groups", DeformConv2d(4, 6, (1, 2), groups=2, bias=False), (IMAGE, (2, 4, 6, 5)), 3),
    Case("deformable by groups of offsets", DeformConv2d(4, 5, 1), (IMAGE, (2, 4, 6, 6)), 1),
    Case("F.deform_conv2d", Deformed(), (IMAGE, (2, 18, 6, 6), (5, 4, 3, 3), (5,), (2, 9, 6, 6)), 2),
    *(
        Case(name, Regions(name), ((2, 8, 6, 6),), 1)
        for name in ("roi_align", "roi_pool", "ps_roi_align", "ps_roi_pool")
    ),
    Case("bias table", BiasTable(), ((9, 3), torch.arange(16) % 9), 1),
    Case("shifted window attention", WindowAttention(), ((2, 4, 4, 6), (18, 6), (6, 6), (1, 3, 4, 4), (18,), (6,)), 3),
]
