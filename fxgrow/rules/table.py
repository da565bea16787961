"""Which law each op of torch obeys. To teach fxgrow an op, add a row.

A row is (target, law): a module class, a function, or the name of a tensor method. Rows hold no logic. An op
without a row is never guessed at: its dimensions stay fixed, and the plan says so.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from fxgrow import guards
from fxgrow.rules import elementwise, pointwise, shape
from fxgrow.rules.attention import Attention
from fxgrow.rules.comparing import Compared
from fxgrow.rules.complexes import Attribute, Pairs, Part
from fxgrow.rules.contraction import (
    Contraction,
    Einsum,
    MatrixProduct,
)
from fxgrow.rules.convolution import Convolution, Transposed
from fxgrow.rules.gated import GatedUnit
from fxgrow.rules.law import Fact, Holding
from fxgrow.rules.lookup import Gather, GatherBags
from fxgrow.rules.normalisation import BatchNorm, GroupNorm, Guarded, OverUnits
from fxgrow.rules.parametrized import Parametrized
from fxgrow.rules.picking import GetItem, Narrow, Select, Written
from fxgrow.rules.pointwise import AddProduct, ParametricRelu, Pointwise
from fxgrow.rules.products import AddedProduct, Lettered, inner, outer, tensordot
from fxgrow.rules.readout import Readout
from fxgrow.rules.recurrent import Recurrent, RecurrentCell
from fxgrow.rules.reduction import ALL, Across, Axes, CoreUnits, OverItsNorm, Reduction, kept_unless_filled
from fxgrow.rules.registry import rows, rule, rules
from fxgrow.rules.spatial import Pad, PixelShuffle, Sampled, Spatial, Unfold
from fxgrow.rules.standardisation import BatchNormFunction, Standardised
from fxgrow.rules.stretching import Expand, Made, Repeat, RepeatEach

# -- contractions --------------------------------------------------------------------------------------------

rules(
    (nn.Linear, nn.modules.linear.NonDynamicallyQuantizableLinear, F.linear),
    Contraction(("... i", "o i"), "... o", "o", attributes={"in_features": "i", "out_features": "o"}),
)
rule(
    nn.Bilinear,
    Contraction(
        ("... i", "... j", "o i j"),
        "... o",
        "o",
        lambda op: [op.tensor(0, "input1"), op.tensor(1, "input2"), op.parameter("weight"), op.parameter("bias")],
        attributes={"in1_features": "i", "in2_features": "j", "out_features": "o"},
    ),
)

_CHANNELS: dict[str, Any] = {
    "sizes": {"g": (6, "groups")},
    "attributes": {"in_channels": "(g i)", "out_channels": "(g o)", "groups": "g"},
}
rules(
    (nn.Conv1d, nn.Conv2d, nn.Conv3d, F.conv1d, F.conv2d, F.conv3d),
    Convolution(("... (g i) *s", "(g o) i *k"), "... (g o) *t", "(g o)", **_CHANNELS),
)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
rules(
    (*_TRANSPOSED, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d),
    Transposed(("... (g i) *s", "(g i) o *k"), "... (g o) *t", "(g o)", **_CHANNELS),
)

rules((operator.matmul, torch.matmul, torch.bmm, torch.mm, "matmul", "bmm", "mm"), MatrixProduct())
rules((torch.dot, torch.mv, "dot", "mv"), MatrixProduct())
rule(torch.functional.einsum, Einsum())
rule(torch.functional.tensordot, Lettered(tensordot, "dims", 2))
rules((torch.inner, "inner"), Lettered(inner))
rules((torch.outer, "outer", torch.ger, "ger"), Lettered(outer))
rules((torch.addmm, "addmm"), AddedProduct("nk", "km", "nm"))
rules((torch.baddbmm, "baddbmm"), AddedProduct("bnk", "bkm", "bnm"))
rules((torch.addmv, "addmv"), AddedProduct("nk", "k", "n"))
rule(nn.EmbeddingBag, GatherBags())
rule(nn.Embedding, Gather())
rule(F.embedding, Gather())

# -- pointwise -----------------------------------------------------------------------------------------------

_POINTWISE: dict[Any, list[Any]] = {
    "linear": [
        *(nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d),
        *(F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, operator.neg, torch.clone),
        *("contiguous", "clone", "detach", "to", "float", "double", "half", "bfloat16", "type", "type_as"),
        *("cpu", "cuda", "cfloat", "cdouble"),
    ],
    "zero": [
        *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Tanh),
        *(nn.Hardswish, nn.Hardtanh, nn.Softsign, nn.Tanhshrink, nn.Hardshrink, nn.Softshrink, nn.RReLU),
        *(F.relu, F.relu6, F.leaky_relu, F.elu, F.celu, F.selu, F.gelu, F.silu, F.mish, F.hardswish),
        *(F.softshrink, F.hardshrink, F.rrelu, F.hardtanh, F.softsign, F.tanhshrink),
        *(torch.relu, torch.relu_, "relu", "relu_", torch.lerp, "lerp"),
    ],
    "other": [
        *(nn.Sigmoid, nn.Hardsigmoid, nn.Softplus, nn.LogSigmoid, nn.Threshold),
        *(F.hardsigmoid, F.softplus, F.logsigmoid, F.threshold, torch.where, "where", "masked_fill", "masked_fill_"),
        *(operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge, operator.invert),
        *("bool", "long", "int", torch.zeros_like, torch.ones_like, torch.full_like, torch.empty_like),
        *(torch.rand_like, torch.randn_like, torch.bernoulli, "bernoulli", "bernoulli_", "normal_", "uniform_"),
        *("exponential_", nn.AlphaDropout, nn.FeatureAlphaDropout, F.alpha_dropout, F.feature_alpha_dropout),
    ],
    "add": [
        *(operator.add, operator.sub, operator.iadd, operator.isub, torch.add, torch.sub),
        *("add", "add_", "sub", "sub_"),
    ],
    "multiply": [operator.mul, operator.imul, torch.mul, "mul", "mul_"],
    "divide": [operator.truediv, operator.itruediv, torch.div, "div", "div_"],
    pointwise.power: [operator.pow, torch.pow, "pow", "pow_"],
    pointwise.clamp: [torch.clamp, "clamp", "clamp_", "clip"],
}
for _law, _targets in _POINTWISE.items():
    rules(_targets, Pointwise(_law))
for _target, _kind in elementwise.rows(set(rows())):
    rule(_target, Pointwise(_kind))
rules((nn.GLU, F.glu), GatedUnit())
rule(nn.PReLU, ParametricRelu())
rules((torch.addcmul, "addcmul"), AddProduct())

# -- shape ---------------------------------------------------------------------------------------------------

rules(("permute", torch.permute), shape.Permute(shape.permutation))
rules(
    ("transpose", torch.transpose, "swapaxes", torch.swapaxes, "swapdims", torch.swapdims),
    shape.Permute(shape.transposition),
)
rules(("t", torch.t, "adjoint", torch.adjoint), shape.Permute(shape.last_two))
rules(("movedim", torch.movedim, "moveaxis", torch.moveaxis), shape.Permute(shape.moved))
rule(getattr, Attribute())
rules((torch.real, torch.imag), Part())
rule(torch.view_as_real, Pairs())
rule(torch.view_as_complex, Pairs(inverse=True))
rules(("view", "reshape", torch.reshape), shape.Reshape(shape.listed_sizes))
rules(
    (
        *("flatten", "squeeze", "unsqueeze", "reshape_as", "view_as"),
        *(torch.flatten, torch.squeeze, torch.unsqueeze, nn.Flatten, "ravel", torch.ravel),
    ),
    shape.Reshape(),
)
rules(("unflatten", torch.unflatten), shape.Reshape(shape.unflattened_sizes))
rules(("expand", "expand_as", "broadcast_to", torch.broadcast_to), Expand())
for _name, _targets in {
    "chunk": ["chunk", torch.chunk],
    "split": ["split", torch.split, torch.functional.split],
    "unbind": ["unbind", torch.unbind],
    "tensor_split": ["tensor_split", torch.tensor_split],
}.items():
    rules(dict.fromkeys(_targets), shape.Cut(_name))
rule(operator.getitem, GetItem())
rules(("select", torch.select), Select())
rules(("narrow", torch.narrow), Narrow())
rule(operator.setitem, Written())
rules((torch.cat, torch.concat, torch.concatenate), shape.Concatenate())
rules((torch.hstack, torch.column_stack), shape.Concatenate(1))
rule(torch.vstack, shape.Concatenate(0))
rule(torch.stack, shape.Stack())
rules((nn.ChannelShuffle, F.channel_shuffle), shape.Shuffled())
rules(("repeat", "tile", torch.tile), Repeat())
rules((torch.repeat_interleave, "repeat_interleave"), RepeatEach())
rule("unfold", shape.Windows())
rules((torch.zeros, torch.ones, torch.full), Made())
rules(("new_zeros", "new_ones", "new_full"), Made(first=1))
rules((torch.rand, torch.randn, torch.randint, torch.randperm, torch.empty), Made("its entries are drawn"))
rules((torch.arange, torch.linspace, torch.eye), Made("its entries go by their position"))
rules((torch.roll, "roll"), shape.Passing((2, "dims")))
rules((torch.flip, "flip"), shape.Passing((1, "dims")))
rules((torch.as_strided, "as_strided"), Holding("reads memory by strides, which are others at another size"))
rules((F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss), Holding("is averaged over it"))

# -- normalisation -------------------------------------------------------------------------------------------

rules((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), BatchNorm())
rule(nn.SyncBatchNorm, BatchNorm())
rules((nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d, F.instance_norm), BatchNorm())
rule(F.batch_norm, BatchNormFunction())
rules((nn.LayerNorm, F.layer_norm), OverUnits(Fact.MEAN, "layer_norm", 1e-5))
rules((nn.RMSNorm, F.rms_norm), OverUnits(Fact.ZERO, "rms_norm"))
rules((nn.GroupNorm, F.group_norm), GroupNorm())
rule(guards.layer_norm, Guarded())
rule(guards.rms_norm, Guarded(core=(4, "core")))
rule(guards.group_norm, Guarded(axis=1, grouped=True))
rule(guards.standardize, Standardised())
rule(guards.core, CoreUnits())
rule(guards.readout, Readout())
rule(nn.utils.parametrize.ParametrizationList, Parametrized())
rule(guards.multiplied, Pointwise("linear"))

# -- reductions ----------------------------------------------------------------------------------------------

rules(("sum", torch.sum), Reduction("sum"))
rules(("mean", torch.mean), Reduction("mean"))
rules(("norm", torch.norm, torch.linalg.vector_norm), Reduction("other", (2, "dim")))
rules(("amax", "amin", torch.amax, torch.amin, "var", torch.var, "std", torch.std), Reduction("other"))
rules(("max", "min", torch.max, torch.min, "median", torch.median, "prod", torch.prod), Reduction("other"))
rules((torch.var_mean, torch.std_mean, torch.aminmax, "aminmax"), Reduction("other"))
_NOT_ZERO = Reduction("other", keeps_zero=False)
rules(("logsumexp", torch.logsumexp, "argmax", "argmin", torch.argmax, torch.argmin), _NOT_ZERO)
rules(("all", "any", torch.all, torch.any), _NOT_ZERO)
rules((nn.Softmax, F.softmax, torch.softmax, "softmax", nn.LogSoftmax, F.log_softmax, torch.log_softmax), Across())
rules((nn.Softmin, F.softmin, "log_softmax"), Across())
rule(nn.Softmax2d, Across(default=-3))
rules(("cumsum", torch.cumsum), Across("linear"))
rules(("cumprod", torch.cumprod, "cummax", torch.cummax, "cummin", torch.cummin), Across("zero"))
rules(("logcumsumexp", torch.logcumsumexp), Across())
rules(("sort", torch.sort, "argsort", torch.argsort), Across("zero", default=-1))
rules(("topk", torch.topk), Across("zero", (2, "dim"), default=-1))
rules(("diff", torch.diff), Across("linear", (2, "dim"), default=-1))
_FOURIER: dict[str, Axes] = {"": -1, "2": (-2, -1), "n": ALL}
for _axes, _default in _FOURIER.items():
    _transforms = (f"{_inverse}{_kind}fft{_axes}" for _inverse in ("", "i") for _kind in ("", "r", "h"))
    rules((getattr(torch.fft, _name) for _name in _transforms), Across("linear", (2, "dim"), _default))
rules((torch.fft.fftshift, torch.fft.ifftshift), shape.Passing((1, "dim")))
rules(("index_select", torch.index_select), Across("linear"))
rules(("index_add", torch.index_add, "index_copy", torch.index_copy), Across("linear"))
rules(
    ("gather", torch.gather, "scatter_add", torch.scatter_add, "scatter_reduce", torch.scatter_reduce), Across("zero")
)
rules(("index_fill", torch.index_fill, "scatter", torch.scatter), Across(kept_unless_filled))
rules((F.normalize, guards.normalize), OverItsNorm())
rules((F.cosine_similarity, nn.CosineSimilarity), Compared())
rules((F.pairwise_distance, nn.PairwiseDistance), Compared(default=-1))
rule(torch.cdist, Compared(default=-1, pairs=True))

# -- attention and recurrence --------------------------------------------------------------------------------

rule(F.scaled_dot_product_attention, Attention())
rule(nn.RNN, Recurrent(1))
rule(nn.GRU, Recurrent(3))
rule(nn.LSTM, Recurrent(4))
rule(nn.RNNCell, RecurrentCell(1))
rule(nn.GRUCell, RecurrentCell(3))
rule(nn.LSTMCell, RecurrentCell(4))

# -- space ---------------------------------------------------------------------------------------------------

_AVERAGING: dict[int, list[Any]] = {
    1: [nn.AvgPool1d, nn.AdaptiveAvgPool1d, F.avg_pool1d, F.adaptive_avg_pool1d],
    2: [nn.AvgPool2d, nn.AdaptiveAvgPool2d, F.avg_pool2d, F.adaptive_avg_pool2d],
    3: [nn.AvgPool3d, nn.AdaptiveAvgPool3d, F.avg_pool3d, F.adaptive_avg_pool3d],
}
_PICKING: dict[int, list[Any]] = {
    1: [nn.MaxPool1d, nn.AdaptiveMaxPool1d, F.max_pool1d, F.adaptive_max_pool1d],
    2: [nn.MaxPool2d, nn.AdaptiveMaxPool2d, F.max_pool2d, F.adaptive_max_pool2d],
    3: [nn.MaxPool3d, nn.AdaptiveMaxPool3d, F.max_pool3d, F.adaptive_max_pool3d],
}
for _rank in (1, 2, 3):
    rules(_AVERAGING[_rank], Spatial("linear", _rank))
    rules(_PICKING[_rank], Spatial("zero", _rank))
    rules((getattr(F, f"{_name}max_pool{_rank}d_with_indices") for _name in ("", "adaptive_")), Spatial("zero", _rank))
rules((nn.Upsample, nn.UpsamplingBilinear2d, nn.UpsamplingNearest2d, F.interpolate), Spatial("linear"))
rules((nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d, nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d), Pad())
rules((nn.ReflectionPad1d, nn.ReflectionPad2d, nn.ReflectionPad3d), Pad())
rules((nn.ReplicationPad1d, nn.ReplicationPad2d, nn.ReplicationPad3d), Pad())
rules((nn.CircularPad1d, nn.CircularPad2d, nn.CircularPad3d), Pad())
rule(F.pad, Pad())
rule(F.grid_sample, Sampled())
rules((nn.PixelShuffle, F.pixel_shuffle), PixelShuffle())
rules((nn.PixelUnshuffle, F.pixel_unshuffle), PixelShuffle(inverse=True))
rules((nn.Unfold, F.unfold), Unfold())
rules((nn.Fold, F.fold), Unfold(inverse=True))
