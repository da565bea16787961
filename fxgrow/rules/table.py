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
from fxgrow.modules.holders import attribute
from fxgrow.opaque import packed_sequence
from fxgrow.rules import elementwise, pointwise, products, shape
from fxgrow.rules.attention import Attention
from fxgrow.rules.calls import LIKE
from fxgrow.rules.complexes import ComplexPart, Pairs, PartByName
from fxgrow.rules.contraction import Contraction, Gather, GatherBags
from fxgrow.rules.convolution import Convolution, Transposed
from fxgrow.rules.law import Fact, Holding
from fxgrow.rules.normalisation import BatchNorm, GroupNorm, GuardedReduction, OverUnits
from fxgrow.rules.picking import GetItem, IndexedWrite, Narrow, Select
from fxgrow.rules.pointwise import AddProduct, GatedUnit, ParametricRelu, Pointwise
from fxgrow.rules.products import CoreReadout, PatternProduct
from fxgrow.rules.recurrent import PackedParts, Packing, Recurrent, RecurrentCell
from fxgrow.rules.reduction import ALL, Across, Axes, Compared, CoreUnits, OverItsNorm, Reduction, kept_unless_filled
from fxgrow.rules.registry import both, named, ranked, rows, rule, rules
from fxgrow.rules.spatial import AffineGrid, Pad, Sampled, Spatial, Unpooled
from fxgrow.rules.stretching import Expand, NewTensors, Repeat, RepeatEach
from fxgrow.rules.weights import BatchNormFunction, Parametrized, Standardised, WeightNorm

# -- contractions --------------------------------------------------------------------------------------------

rules(
    (nn.Linear, nn.modules.linear.NonDynamicallyQuantizableLinear, F.linear),
    Contraction(("... i", "o i"), "... o", "o", attributes={"in_features": "i", "out_features": "o"}),
)
rules(
    (nn.Bilinear, F.bilinear),
    Contraction(
        ("... i", "... j", "o i j"),
        "... o",
        "o",
        given=("input1", "input2"),
        called="multilinear",
        attributes={"in1_features": "i", "in2_features": "j", "out_features": "o"},
    ),
)

_CHANNELS: dict[str, Any] = {
    "sizes": {"g": (6, "groups")},
    "attributes": {"in_channels": "(g i)", "out_channels": "(g o)", "groups": "g"},
}
rules(
    (*ranked(nn, "Conv"), *ranked(F, "conv")),
    Convolution(("... (g i) *s", "(g o) i *k"), "... (g o) *t", "(g o)", **_CHANNELS),
)
rules(
    (*ranked(nn, "ConvTranspose"), *ranked(F, "conv_transpose")),
    Transposed(("... (g i) *s", "(g i) o *k"), "... (g o) *t", "(g o)", **_CHANNELS),
)

rules((operator.matmul, *both("matmul")), PatternProduct(products.of_matrices, ("input", "other")))
rules(both("bmm mm"), PatternProduct(products.of_matrices, ("input", "mat2")))
rules(both("dot"), PatternProduct(products.of_matrices, ("input", "tensor")))
rules(both("mv"), PatternProduct(products.of_matrices, ("input", "vec")))
rule(torch.functional.einsum, PatternProduct(products.einsum, called="einsum"))
rule(torch.functional.tensordot, PatternProduct(products.tensordot, ("a", "b"), "sum of products"))
rules(both("inner"), PatternProduct(products.inner, ("input", "other"), "sum of products"))
rules(both("outer ger"), PatternProduct(products.outer, ("input", "vec2"), "sum of products"))
rules(both("addmm"), PatternProduct((("n k", "k m"), "n m", "n m"), ("mat1", "mat2"), added=True))
rules(both("baddbmm"), PatternProduct((("b n k", "b k m"), "b n m", "b n m"), ("batch1", "batch2"), added=True))
rules(both("addmv"), PatternProduct((("n k", "k"), "n", "n"), ("mat", "vec"), added=True))
rule(nn.EmbeddingBag, GatherBags())
rules((nn.Embedding, F.embedding), Gather())

# -- pointwise -----------------------------------------------------------------------------------------------

_POINTWISE: dict[Any, list[Any]] = {
    "linear": [
        *(nn.Identity, *named(nn, "Dropout Dropout1d Dropout2d Dropout3d")),
        *(operator.neg, *named(F, "dropout dropout1d dropout2d dropout3d"), guards.multiplied),
        *named(torch, "clone detach"),
        *("contiguous", "clone", "detach", "to", "float", "double", "half", "bfloat16", "type"),
        *("cpu", "cuda", "cfloat", "cdouble"),
    ],
    "zero": [
        *named(nn, "ReLU ReLU6 LeakyReLU ELU CELU SELU GELU SiLU Mish Tanh Hardswish Hardtanh Softsign Tanhshrink"),
        *named(nn, "Hardshrink Softshrink RReLU"),
        *named(F, "relu relu6 leaky_relu elu celu selu gelu silu mish hardswish hardtanh softsign tanhshrink"),
        *named(F, "hardshrink softshrink rrelu leaky_relu_ elu_ celu_ selu_ hardtanh_ rrelu_"),
        *(*named(torch, "celu rrelu"), *both("relu relu_"), torch.fake_quantize_per_tensor_affine),
    ],
    "other": [
        *named(nn, "Sigmoid Hardsigmoid Softplus LogSigmoid Threshold AlphaDropout FeatureAlphaDropout"),
        *named(F, "hardsigmoid softplus logsigmoid threshold threshold_ alpha_dropout feature_alpha_dropout"),
        *named(operator, "eq ne lt le gt ge invert and_ or_ xor"),
        *both("bitwise_not bitwise_and bitwise_or bitwise_xor"),
        *("bitwise_not_", "bitwise_and_", "bitwise_or_", "bitwise_xor_", "__iand__", "__ior__", "__ixor__"),
        *LIKE,
        *(*both("where bernoulli"), *("masked_fill", "masked_fill_", "bool", "long", "int")),
        *("bernoulli_", "normal_", "uniform_", "exponential_"),
    ],
    "add": [*named(operator, "add sub iadd isub"), *both("add add_ sub sub_")],
    "multiply": [*named(operator, "mul imul"), *both("mul mul_")],
    "divide": [*named(operator, "truediv itruediv"), *both("div div_")],
    pointwise.power: [operator.pow, *both("pow pow_")],
    pointwise.lerp: [torch.lerp, "lerp", "lerp_"],
    pointwise.clamp: [*named(torch, "clamp clamp_"), "clamp", "clamp_", "clip"],
}
for _law, _targets in _POINTWISE.items():
    rules(_targets, Pointwise(_law))
for _target, _kind in elementwise.rows(set(rows())):
    rule(_target, Pointwise(_kind))
rules((nn.GLU, F.glu), GatedUnit())
rule(nn.PReLU, ParametricRelu())
rules(both("addcmul"), AddProduct())

# -- shape ---------------------------------------------------------------------------------------------------

rules(both("permute transpose swapaxes swapdims movedim moveaxis t adjoint"), shape.Permute())
rule(getattr, PartByName())
rules((torch.real, torch.imag), ComplexPart())
rule(torch.view_as_real, Pairs())
rule(torch.view_as_complex, Pairs(inverse=True))
rules(both("view reshape"), shape.Reshape(shape.listed_sizes))
rules((nn.Flatten, *both("flatten squeeze unsqueeze reshape_as view_as ravel")), shape.Reshape())
rules(both("unflatten"), shape.Reshape(shape.unflattened_sizes))
rules(both("expand expand_as broadcast_to"), Expand())
for _name in ("chunk", "split", "unbind", "tensor_split"):
    rules(both(_name), shape.Cut(_name))
rules((operator.getitem, attribute), GetItem())
rules(both("select"), Select())
rules(both("narrow"), Narrow())
rule(operator.setitem, IndexedWrite())
rules(named(torch, "cat concat concatenate"), shape.Concatenate())
rules(named(torch, "hstack column_stack"), shape.Concatenate(1))
rule(torch.vstack, shape.Concatenate(0))
rule(torch.stack, shape.Stack())
rules((nn.ChannelShuffle, F.channel_shuffle), shape.Shuffled())
rules(both("repeat tile"), Repeat())
rules(both("repeat_interleave"), RepeatEach())
rule("unfold", shape.Windows())
rules(named(torch, "zeros ones full"), NewTensors())
rules(("new_zeros", "new_ones", "new_full"), NewTensors(first=1))
rules((*named(torch, "rand randn randint randperm empty"), "new_empty"), NewTensors("its entries are drawn"))
rules(named(torch, "arange linspace eye"), NewTensors("its entries go by their position"))
rule("new_tensor", NewTensors("its entries are given"))
rules(both("roll"), shape.Passing((2, "dims")))
rules(both("flip"), shape.Passing((1, "dims")))
rules(both("as_strided"), Holding("reads memory by strides, which are others at another size"))
rules(named(F, "mse_loss l1_loss smooth_l1_loss huber_loss"), Holding("is averaged over it"))

# -- normalisation -------------------------------------------------------------------------------------------

rules((*ranked(nn, "BatchNorm InstanceNorm"), nn.SyncBatchNorm, F.instance_norm), BatchNorm())
rule(F.batch_norm, BatchNormFunction())
rules((nn.LayerNorm, F.layer_norm), OverUnits(Fact.MEAN, "layer_norm", 1e-5))
rules((nn.RMSNorm, F.rms_norm), OverUnits(Fact.ZERO, "rms_norm"))
rules((nn.GroupNorm, F.group_norm), GroupNorm())
rule(guards.layer_norm, GuardedReduction())
rule(guards.rms_norm, GuardedReduction(core=(4, "core")))
rule(guards.group_norm, GuardedReduction(axis=1, grouped=True))
rule(guards.standardize, Standardised())
rule(guards.core, CoreUnits())
rule(guards.readout, CoreReadout(products.readout, ("x", "weight")))
rule(nn.utils.parametrize.ParametrizationList, Parametrized())
rule(torch._weight_norm, WeightNorm())

# -- reductions ----------------------------------------------------------------------------------------------

rules(both("sum"), Reduction("sum"))
rules(both("mean"), Reduction("mean"))
rules((*both("norm quantile nanquantile"), *named(torch.linalg, "norm vector_norm")), Reduction("other", (2, "dim")))
rule(torch.linalg.matrix_norm, Reduction("other", (2, "dim"), default=(-2, -1)))
rules(both("amax amin var std max min median prod var_mean std_mean aminmax"), Reduction("other"))
rules(both("nansum nanmean nanmedian count_nonzero"), Reduction("other"))
rules(both("kthvalue"), Reduction("other", (2, "dim"), default=-1))
rules(both("mode"), Reduction("other", default=-1))
rules((*both("logsumexp argmax argmin all any"), torch.special.logsumexp), Reduction("other", keeps_zero=False))
rules((*named(nn, "Softmax LogSoftmax Softmin"), *named(F, "softmax log_softmax softmin")), Across())
rules((*both("softmax log_softmax logcumsumexp"), *named(torch.special, "softmax log_softmax")), Across())
rule(nn.Softmax2d, Across(default=-3))
rules(both("cumsum index_select index_add index_copy"), Across("linear"))
rules(both("cumprod cummax cummin gather scatter_add scatter_reduce index_reduce"), Across("zero"))
rules(both("sort argsort"), Across("zero", default=-1))
rules(both("topk"), Across("zero", (2, "dim"), default=-1))
rules(both("diff"), Across("linear", (2, "dim"), default=-1))
rules(both("index_fill scatter"), Across(kept_unless_filled))
_FOURIER: dict[str, Axes] = {"": -1, "2": (-2, -1), "n": ALL}
for _axes, _default in _FOURIER.items():
    _transforms = (f"{_inverse}{_kind}fft{_axes}" for _inverse in ("", "i") for _kind in ("", "r", "h"))
    rules((getattr(torch.fft, _name) for _name in _transforms), Across("linear", (2, "dim"), _default))
rules((torch.fft.fftshift, torch.fft.ifftshift), shape.Passing((1, "dim")))
rules((F.normalize, guards.normalize), OverItsNorm())
rules((F.cosine_similarity, nn.CosineSimilarity), Compared())
rules((F.pairwise_distance, nn.PairwiseDistance), Compared(default=-1))
rule(torch.cdist, Compared(default=-1, pairs=True))

# -- attention and recurrence --------------------------------------------------------------------------------

rule(F.scaled_dot_product_attention, Attention())
rule(nn.RNN, Recurrent(1))
rule(nn.GRU, Recurrent(3))
rule(nn.LSTM, Recurrent(4))
rule(torch._VF._pack_padded_sequence, Packing())
rule(torch._VF._pad_packed_sequence, Packing(back=True))
rule(packed_sequence, PackedParts())
rule(nn.RNNCell, RecurrentCell(1))
rule(nn.GRUCell, RecurrentCell(3))
rule(nn.LSTMCell, RecurrentCell(4))

# -- space ---------------------------------------------------------------------------------------------------

for _rank in (1, 2, 3):
    rules((getattr(nn, f"{_name}AvgPool{_rank}d") for _name in ("", "Adaptive")), Spatial("linear", _rank))
    rules((getattr(F, f"{_name}avg_pool{_rank}d") for _name in ("", "adaptive_")), Spatial("linear", _rank))
    rules((getattr(nn, f"{_name}MaxPool{_rank}d") for _name in ("", "Adaptive")), Spatial("zero", _rank))
    rules((getattr(nn, f"MaxUnpool{_rank}d"), getattr(F, f"max_unpool{_rank}d")), Unpooled("zero", _rank))
    for _ending in ("", "_with_indices"):
        rules((getattr(F, f"{_name}max_pool{_rank}d{_ending}") for _name in ("", "adaptive_")), Spatial("zero", _rank))
rules((nn.Upsample, nn.UpsamplingBilinear2d, nn.UpsamplingNearest2d, F.interpolate), Spatial("linear"))
rules((F.pad, *ranked(nn, "ZeroPad ConstantPad ReflectionPad ReplicationPad CircularPad")), Pad())
rule(F.grid_sample, Sampled("linear"))
rules((F.affine_grid, torch.affine_grid_generator), AffineGrid())
rules((nn.PixelShuffle, F.pixel_shuffle), Spatial("linear", pattern="... (c r) h w -> ... c y x", moves=True))
rules((nn.PixelUnshuffle, F.pixel_unshuffle), Spatial("linear", pattern="... c h w -> ... (c r) y x", moves=True))
rules((nn.Unfold, F.unfold), Spatial("zero", pattern="... c h w -> ... (c k) windows"))
rules((nn.Fold, F.fold), Spatial("zero", pattern="... (c k) windows -> ... c y x"))
