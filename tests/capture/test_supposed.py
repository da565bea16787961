"""Models whose ops ask for values of an input: lengths of sequences, targets, counts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence, pad_packed_sequence

import fxgrow
from fxgrow.errors import UntraceableError
from fxgrow.proof.certificate import Verdict
from tests.checks import worst_error

X, LENGTHS = torch.randn(2, 5, 4, dtype=torch.float64), torch.tensor([3, 5])
LONGER = torch.randn(3, 7, 4, dtype=torch.float64), torch.tensor([7, 1, 4])


class Tagger(nn.Module):
    """Reads sequences of several lengths forwards and backwards, twice, and looks at their last states."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(4, 8), nn.Linear(8, 3)
        self.one = nn.LSTM(8, 4, batch_first=True, bidirectional=True)
        self.two = nn.GRU(8, 8, batch_first=True)

    def forward(self, x: Tensor, lengths: Tensor) -> Any:
        packed = pack_padded_sequence(self.enter(x), lengths.cpu(), batch_first=True, enforce_sorted=False)
        y, order = self.one(packed)[0], packed.sorted_indices
        h, last = self.two(PackedSequence(y.data.relu(), y.batch_sizes, order), hx=x.new_zeros(1, x.shape[0], 8))
        rows, counts = pad_packed_sequence(h, batch_first=True, padding_value=0.5)
        return self.leave(rows), self.leave(last[-1]), counts


@pytest.mark.parametrize("init", ["zero", "mirror", "replicate"])
def test_recurrent_layers_grow_over_packed_sequences(init: Any) -> None:
    torch.manual_seed(0)
    model = Tagger().double()
    grown = fxgrow.grow(model, 2, init=init, example_inputs=(X, LENGTHS))
    assert isinstance(grown, Tagger) and (grown.enter.out_features, grown.two.hidden_size) == (16, 16)
    certificate = fxgrow.certify(grown, model)
    assert certificate.verdict is Verdict.PROVED
    assert "how long sequences are that are packed" in str(certificate)
    for inputs in ((X, LENGTHS), LONGER):
        assert all(worst_error(model, grown, inputs, training) <= 1e-10 for training in (False, True))


def test_graphs_hold_packed_sequences() -> None:
    model = Tagger().double()
    grown = fxgrow.grow(model, 2, example_inputs=(X, LENGTHS), form="graph")
    assert fxgrow.report(grown).certificate.verdict is Verdict.PROVED
    assert worst_error(model, grown, LONGER, True) <= 1e-10


class Listed(nn.Module):
    """Sequences packed one by one, which are the output too."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.read, self.leave = nn.Linear(4, 8), nn.RNN(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> PackedSequence:
        h = self.enter(x)
        packed = self.read(pack_sequence([h[0], h[1, :3]]))[0]
        return packed._replace(data=self.leave(packed.data))


def test_sequences_are_packed_one_by_one() -> None:
    model = Listed().double()
    grown = fxgrow.grow(model, 2, example_inputs=X)
    assert isinstance(grown(X), PackedSequence) and grown.enter.out_features == grown.read.hidden_size == 16
    assert fxgrow.report(grown).certificate.verdict is Verdict.PROVED
    torch.testing.assert_close(grown(X).data, model(X).data)


class Counted(nn.Module):
    """A loss over alignments of words, weighted by how often these come; all of them as an input says."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(4, 8), nn.Linear(8, 6)

    def forward(self, x: Tensor, words: Tensor) -> Tensor:
        h = self.leave(self.enter(x).relu()).log_softmax(-1)
        often = torch.bincount(words.flatten(), minlength=6)[:6] + 1
        steps, said = torch.full((len(x),), x.shape[1]), torch.full((len(x),), words.shape[1])
        return F.ctc_loss((h + often.log()).log_softmax(-1).transpose(0, 1), words, steps, said)


def test_losses_of_alignments_and_counts_grow_what_they_read() -> None:
    torch.manual_seed(0)
    model, words = Counted().double(), torch.tensor([[1, 2], [4, 1]])
    grown = fxgrow.grow(model, 2, example_inputs=(X, words))
    assert isinstance(grown, Counted) and (grown.enter.out_features, grown.leave.out_features) == (16, 6)
    assert fxgrow.report(grown).certificate.verdict is Verdict.PROVED
    torch.testing.assert_close(grown(X, words + 1), model(X, words + 1))


def test_a_count_without_an_end_is_refused() -> None:
    class Endless(Counted):
        def forward(self, x: Tensor, words: Tensor) -> Tensor:
            return self.leave(self.enter(x)).sum() + torch.bincount(words.flatten()).sum()

    with pytest.raises(UntraceableError, match="bincount needs the values of a tensor"):
        fxgrow.grow(Endless().double(), 2, example_inputs=(X, torch.tensor([[1, 2]])))
