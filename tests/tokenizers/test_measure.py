"""What `--measure` counts, against hand calculations and published figures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import DacConfig, DacModel, EncodecConfig, EncodecModel, MimiConfig, MimiModel

from slm.errors import UsageError
from slm.tokenizers._catalogue import catalogue
from slm.tokenizers._measure import _macs, measure, measure_tokenizer, report
from slm.tokenizers.base import TOKENIZERS
from slm.tokenizers.dac import DacTokenizer
from slm.tokenizers.database import find_records
from slm.tokenizers.encodec import EncodecTokenizer
from slm.tokenizers.networks.qwen3_tts import Decoder as Qwen3Decoder
from slm.tokenizers.networks.s3tokenizer import Encoder as S3Encoder
from slm.tokenizers.qwen3_tts import DECODER
from tests.fakes import ArithmeticTokenizer


@pytest.mark.parametrize(
    ("layer", "signal", "macs", "surveyed"),
    [  # (multiply-accumulates for each output) x (outputs)
        (nn.Conv1d(3, 5, 4, stride=2), (1, 3, 12), 3 * 4 * 5 * 5, 3 * 4 * 5 * 5),
        # Each of 6 inputs touches 4 outputs in each of 5 channels; the survey's tool: each of 14 outputs, 4 inputs.
        (nn.ConvTranspose1d(3, 5, 4, stride=2), (1, 3, 6), 6 * 3 * 4 * 5, 14 * 3 * 4 * 5),
        (nn.Linear(7, 2), (1, 9, 7), 9 * 7 * 2, 9 * 7 * 2),
        # Two layers of four gates, each of the input and of the state; 9 steps.
        (nn.LSTM(6, 6, 2), (9, 1, 6), 9 * 2 * 4 * (36 + 36), 9 * 2 * 4 * (36 + 36)),
    ],
)
def test_operations_are_those_done(layer: nn.Module, signal: tuple[int, ...], macs: int, surveyed: int) -> None:
    values = torch.randn(signal)

    def run() -> None:
        with torch.inference_mode():
            layer(values)

    assert _macs(run) == (macs, surveyed)


@pytest.mark.parametrize("name", ["dac-16khz", "dac-24khz", "dac-44khz"])
def test_the_survey_s_figures_come_out_for_the_published_architectures(name: str) -> None:
    """A second there and back, as ptflops counts (Table 2 of arXiv 2506.10274); the last frame is filled up."""
    row = find_records(name)[0]
    config = DacConfig(**{**DacTokenizer.published, **dict(row.untrained)})
    with torch.device("meta"):  # shapes are all that is counted
        model = DacModel(config).eval()
        second = torch.zeros(1, 1, -(-row.sample_rate_hz // config.hop_length) * config.hop_length)

    def there_and_back() -> None:
        with torch.inference_mode():
            model.decode(quantized_representation=model.encode(second).quantized_representation)

    done, surveyed = _macs(there_and_back)
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(row.parameters, rel=2e-3)
    assert surveyed == pytest.approx(row.macs_per_s, rel=3e-3)
    assert done < 0.75 * surveyed


@pytest.mark.parametrize("name", ["encodec-24khz", "encodec-32khz", "encodec-audiogen-16khz"])
def test_what_is_written_untrained_is_of_the_published_size(name: str) -> None:
    row = find_records(name)[0]
    with torch.device("meta"):
        model = EncodecModel(EncodecConfig(**{**EncodecTokenizer.published, **dict(row.untrained)}))
    assert sum(p.numel() for p in model.parameters()) == pytest.approx(row.parameters, rel=4e-3)


def test_records_count_parameters_as_measuring_does() -> None:
    """Without what training filled otherwise, such as a codebook of running means."""
    with torch.device("meta"):
        mimi = MimiModel(MimiConfig())
        made: dict[str, list[nn.Parameter]] = {
            "qwen3-tts-12hz": [
                *(p for name, p in mimi.named_parameters() if not name.startswith(("decoder", "upsample"))),
                *Qwen3Decoder(DECODER).parameters(),
            ],
            "s3tokenizer-v1-50hz": [*S3Encoder(128, 1280, 5120, 6, 1, 1500, None).parameters()],
        }
    for name, parameters in made.items():
        [row] = [row for row in find_records(name) if row.name == name]
        assert sum(p.numel() for p in parameters) == pytest.approx(row.parameters, rel=1e-3)


def test_without_a_checkpoint_random_weights_are_measured_and_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    wrote: list[int] = []

    def write_small(cls: type, folder: Path, seed: int = 0, **changes: object) -> None:
        wrote.append(seed)
        shrunk = {"encoder_hidden_size": 4, "decoder_hidden_size": 32, "codebook_size": 16, "n_codebooks": 2}
        written(folder, seed=seed, **{**shrunk, "downsampling_ratios": [2, 4, 5, 8], "upsampling_ratios": [8, 5, 4, 2]})

    written = DacTokenizer.write_untrained
    monkeypatch.setattr(DacTokenizer, "write_untrained", classmethod(write_small))
    made = measure(find_records("dac-16khz")[0], "cpu", 0.5, seed=3)
    told = report(made)
    assert wrote == [3]
    assert told["weights"].startswith("random (seed 3); cannot load the dac checkpoint 'descript/dac_16khz'")
    assert {"parameters", "operations", "speed"} <= set(told)
    one_way = report(replace(made, decode_macs_per_s=None, decode_speed=None))
    assert "no decoder, in multiply-accumulates" in one_way["operations"]
    assert "both" not in one_way["as surveyed"]
    other = replace(find_records("dac-44khz")[0], untrained=())
    with pytest.raises(UsageError, match=r"dac-44khz cannot be measured without its weights: .*hf download"):
        measure(other, "cpu", 0.5)  # of another architecture than the one that is written by default


def test_a_plug_in_that_writes_untrained_weights_is_measured_without_a_record(monkeypatch: pytest.MonkeyPatch) -> None:
    class PlugIn(ArithmeticTokenizer):
        def __init__(self, checkpoint: str, device: str = "cpu"):
            self.written = Path(checkpoint, "weights").read_text()
            super().__init__()
            self.spec = replace(self.spec, name="plug-in", settings={"checkpoint": checkpoint})

        @classmethod
        def write_untrained(cls, folder: Path, seed: int = 0) -> None:
            folder.mkdir()
            (folder / "weights").write_text(str(seed))

    monkeypatch.setitem(TOKENIZERS._classes, "plug-in", PlugIn)
    (row,) = [row for row in catalogue() if row.name == "plug-in"]
    told = report(measure(row, "cpu", 0.5, seed=7))
    assert told["weights"] == "random (seed 7); tokenizer 'plug-in' needs the setting 'checkpoint'"


def test_what_has_no_network_has_a_speed_alone() -> None:
    told = report(measure_tokenizer(ArithmeticTokenizer(), "none", "cpu", 0.5))
    assert "speed" in told
    assert not {"operations", "parameters"} & set(told)
    with pytest.raises(UsageError, match="too short for a frame"):
        measure_tokenizer(ArithmeticTokenizer(), "none", "cpu", 1e-4)
