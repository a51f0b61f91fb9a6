"""Clips packed in one tensor: where they lie, and that each is, at every kind of layer, as if it were alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from slm.tokenizers._batched import pack
from slm.tokenizers.networks.bigcodec import Activation
from slm.tokenizers.networks.clip_by_clip import run_clip_by_clip
from slm.tokenizers.networks.packed import PackedClips


@pytest.mark.parametrize("by_length", [False, True])
def test_batches_hold_their_clips_and_waste_little(by_length: bool) -> None:
    total, gap = 4800, 5
    frames = np.random.default_rng(0).integers(75, 1200, 500).tolist()
    batches = pack(frames, total, gap, by_length)
    assert sorted(i for batch in batches for i in batch.members) == list(range(500))
    for batch in batches:
        ends = [start + frames[i] for start, i in zip(batch.starts, batch.members, strict=True)]
        assert batch.starts[0] == 0
        assert all(start - end >= gap for start, end in zip(batch.starts[1:], ends, strict=False))
        assert ends[-1] <= total
        if by_length:
            assert len(batch.members) <= batch.num_rows
            assert all(frames[i] * batch.share <= total for i in batch.members)
            assert all(frames[i] * batch.share > total / 2 for i in batch.members) or batch.share == 16
    assert len(batches) * total < (1.13 if by_length else 1.02) * sum(frames)


def test_a_clip_shares_a_tensor_with_those_of_its_length() -> None:
    frames = [4800, 2401, 2400, 1201, 1200, 601, 600, 301, 300, 16]
    batches = pack(frames, 4800, 5, by_length=True)
    assert [(batch.share, [frames[i] for i in batch.members]) for batch in batches] == [
        (1, [4800]),
        (1, [2401]),
        (2, [2400, 1201]),
        (4, [1200, 601]),
        (8, [600, 301]),
        (16, [300, 16]),
    ]
    assert [len(batch.members) for batch in pack([16] * 100, 4800, 5, by_length=True)] == [64, 36]
    assert [len(batch.members) for batch in pack([16] * 100, 4800, 5, by_length=False)] == [100]


class Odd(nn.Module):
    """Each way of a layer to end a row that the codecs have: own zeros; zeros, reflection, repetition put before it."""

    def __init__(self, mode: str, stride: int, dilation: int):
        super().__init__()
        self.first = nn.Conv1d(1, 4, 7, padding=3)
        self.second = nn.Conv1d(4, 4, 5, stride, dilation=dilation)
        self.both = nn.LSTM(4, 3, num_layers=2, bidirectional=True)
        self.last = nn.Conv1d(6, 2, 3, padding="same", dilation=2)
        self.mode = mode

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x, stride = self.first(x), self.second.stride[0]
        around, extra = 4 * self.second.dilation[0] + 1 - stride, -x.shape[-1] % stride
        x = self.second(functional.pad(functional.elu(x), (around - 1, 1 + extra), self.mode))
        return self.last(self.both(x.permute(2, 0, 1))[0].permute(1, 2, 0))


@pytest.mark.parametrize("mode", ["constant", "reflect", "replicate"])
@pytest.mark.parametrize(("stride", "dilation"), [(1, 1), (1, 3), (3, 1)])
@pytest.mark.parametrize("share", [1, 4])
def test_clips_end_where_they_end_in_every_kind_of_layer(mode: str, stride: int, dilation: int, share: int) -> None:
    torch.manual_seed(0)
    model, lengths = Odd(mode, stride, dilation).double(), [60, 59, 58, 41, 30]
    signals = [torch.randn(length, dtype=torch.float64) for length in lengths]
    starts, batch = [0, 84, 168, 252, 330], torch.randn(1, 1, 360, dtype=torch.float64)
    for start, signal in zip(starts, signals, strict=True):
        batch[0, 0, start : start + len(signal)] = signal
    alone = [model(signal[None, None])[0] for signal in signals]
    with PackedClips(starts, lengths, 360, share=share, num_rows=7), torch.no_grad():
        together = model(batch.clone())[0]
    found = [together[:, s // stride :][:, : each.shape[1]] for s, each in zip(starts, alone, strict=True)]
    torch.testing.assert_close(found, alone)
    assert not torch.allclose(model(batch)[0][:, 252 // stride :][:, : alone[3].shape[1]], alone[3]), "of no matter"


@pytest.mark.parametrize(
    "layer",
    [
        nn.GRU(120, 2),
        nn.InstanceNorm1d(1),
        nn.ConvTranspose1d(1, 1, 4, 2),
        nn.MaxPool1d(2),
        nn.AvgPool1d(2, padding=1),
        nn.CircularPad1d(1),
        nn.Conv2d(1, 1, 1),
    ],
)
def test_what_looks_along_time_and_is_not_followed_is_refused(layer: nn.Module) -> None:
    with PackedClips([0, 64], [60, 40], 120), pytest.raises(RuntimeError, match="packed"):
        layer(torch.randn(1, 1, 120))


def test_an_activation_at_twice_the_rate_repeats_the_ends_of_each_clip() -> None:
    """Before it goes up, and again before it comes down."""
    torch.manual_seed(0)
    activation = Activation(1).double()
    lengths, starts = [30, 1, 29], [0, 42, 55]
    signals = [torch.randn(length, dtype=torch.float64) for length in lengths]
    batch = torch.randn(1, 1, 90, dtype=torch.float64)
    for start, signal in zip(starts, signals, strict=True):
        batch[0, 0, start : start + len(signal)] = signal
    with torch.no_grad():
        alone = [activation(signal[None, None])[0, 0] for signal in signals]
        with PackedClips(starts, lengths, 90):
            together = activation(batch)[0, 0]
    torch.testing.assert_close([together[s : s + n] for s, n in zip(starts, lengths, strict=True)], alone)


class Whole(nn.Module):
    """What looks along a whole clip: a norm over time, positions by a kernel far longer than a gap, attention."""

    def __init__(self, groups: int, kernel: int):
        super().__init__()
        self.norm = nn.GroupNorm(groups, 4)
        self.positions = nn.Conv1d(4, 4, kernel, padding=kernel // 2)
        self.attention = Attention()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(x.expand(-1, 4, -1) * torch.arange(1.0, 5.0, dtype=x.dtype)[:, None] + 1)
        return self.attention((x + self.positions(x)[..., : x.shape[-1]]).mT)[0].mT


class Attention(nn.Module):
    def forward(self, x: torch.Tensor, attention_mask: torch.Tensor | None = None) -> tuple[torch.Tensor, None]:
        scores = x @ x.mT if attention_mask is None else (x @ x.mT).masked_fill(~attention_mask[:, None], -torch.inf)
        return scores.softmax(dim=-1) @ x, None


@pytest.mark.parametrize("is_causal", [False, True])
def test_attention_of_pytorch_sees_one_clip(is_causal: bool) -> None:
    torch.manual_seed(0)
    lengths, starts = [30, 17, 29], [0, 31, 59]
    query, key, value = (torch.randn(1, 2, 90, 4, dtype=torch.float64) for _ in range(3))
    with PackedClips(starts, lengths, 90, share=3, num_rows=5):
        together = functional.scaled_dot_product_attention(query, key, value, is_causal=is_causal)
        windows = functional.scaled_dot_product_attention(*(x.view(1, 2, 9, 10, 4) for x in (query, key, value)))
        with pytest.raises(RuntimeError, match="attention by a mask"):
            functional.scaled_dot_product_attention(query, key, value, attn_mask=torch.ones(90, 90, dtype=torch.bool))
    torch.testing.assert_close(
        windows[0, 0, 1], (query[0, 0, 10:20] @ key[0, 0, 10:20].T / 2).softmax(-1) @ value[0, 0, 10:20]
    )
    for start, length in zip(starts, lengths, strict=True):
        clip = [x[0, :, start : start + length] for x in (query, key, value)]
        scores = clip[0] @ clip[1].mT / 2
        if is_causal:
            scores = scores.masked_fill(torch.ones(length, length).triu(1) > 0, -torch.inf)
        torch.testing.assert_close(together[0, :, start : start + length], scores.softmax(dim=-1) @ clip[2])


@pytest.mark.parametrize(("groups", "kernel"), [(1, 32), (4, 31)])
def test_what_looks_along_a_clip_sees_that_clip_alone(groups: int, kernel: int) -> None:
    torch.manual_seed(0)
    model, lengths, starts = Whole(groups, kernel).double(), [30, 17, 29], [0, 31, 59]
    run_clip_by_clip(model.positions, channels_first=True)
    run_clip_by_clip(model.attention, mask="bool")
    signals = [torch.randn(length, dtype=torch.float64) for length in lengths]
    batch = torch.full((1, 1, 90), torch.nan, dtype=torch.float64)
    for start, signal in zip(starts, signals, strict=True):
        batch[0, 0, start : start + len(signal)] = signal
    with torch.no_grad():
        alone = [model(signal[None, None])[0] for signal in signals]
        with PackedClips(starts, lengths, 90, share=3, num_rows=5):
            together = model(batch)[0]
    found = [together[:, s : s + n] for s, n in zip(starts, lengths, strict=True)]
    torch.testing.assert_close(found, alone)


def test_the_step_more_of_an_even_kernel_is_not_taken_for_padding() -> None:
    """Where nothing cuts it off again, a layer behind it cannot be followed."""
    layer = nn.Conv1d(1, 1, 4, padding=2)
    run_clip_by_clip(layer, channels_first=True)
    with PackedClips([0, 63], [60, 27], 90, num_rows=2), torch.no_grad():
        made = layer(torch.randn(1, 1, 90))
        assert made.shape == (1, 1, 91)
        with pytest.raises(RuntimeError, match="width 91, of which nothing is known"):
            functional.conv1d(made, torch.ones(1, 1, 3))


def test_layers_that_cannot_be_followed_are_refused() -> None:
    batch = torch.randn(1, 1, 120)
    with PackedClips([0, 78], [60, 10], 120):
        with pytest.raises(RuntimeError, match="whole windows"):
            functional.avg_pool1d(batch, 3)
        with pytest.raises(RuntimeError, match="nothing is known"):
            functional.conv1d(batch[..., :50], torch.ones(1, 1, 3))
        with pytest.raises(RuntimeError, match="too short"):
            functional.conv1d(functional.pad(batch, (11, 0), "reflect"), torch.ones(1, 1, 12))


def test_clips_that_lie_too_close_are_refused() -> None:
    batch = torch.randn(1, 1, 120)
    with PackedClips([0, 63], [60, 41], 120, share=3, num_rows=2):
        functional.conv1d(batch, torch.ones(1, 1, 7), padding=3)
        with pytest.raises(RuntimeError, match="clips lie 3 apart, where a layer needs 4"):
            functional.conv1d(batch, torch.ones(1, 1, 9), padding=4)
        with pytest.raises(RuntimeError, match="do not begin with a stride of 2"):
            functional.conv1d(batch, torch.ones(1, 1, 1), stride=2)
        with pytest.raises(RuntimeError, match="2 clips of up to 60 steps, but 2 x 40"):
            nn.LSTM(1, 2, batch_first=True)(batch.mT)
    with PackedClips([0, 63], [60, 41], 120), pytest.raises(RuntimeError, match="whose number is not known"):
        nn.LSTM(1, 2, batch_first=True)(batch.mT)
    with (
        PackedClips([0, 63], [60, 41], 120, share=7, num_rows=2),
        pytest.raises(RuntimeError, match="120 steps are not 7 x"),
    ):
        nn.LSTM(1, 2, batch_first=True)(batch.mT)
