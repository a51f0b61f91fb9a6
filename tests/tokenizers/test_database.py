"""The records of tokenizers, against the survey's list, the authors' published rates, and code that knows."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from slm.errors import UsageError
from slm.tokenizers import TOKENIZERS, load_tokenizer
from slm.tokenizers.codec2 import MODES
from slm.tokenizers.database import TokenizerRecord, find_records, read_record, records, taxonomy_of

ROOT = Path(__file__).parents[2]
SURVEY = (
    "APCodec AudioDec Best-RQ BigCodec DAC|Discrete SSL|Disen-TF-Codec dMel EnCodec ESC FACodec FunCodec HARP-Net "
    "HiFi-Codec HILCodec LaDiffCodec|Language Codec|LFSC LLMCodec LSCodec MDCTCodec Mimi MMM NAST NDVQ PAST PQ-VAE|"
    "Prompt Codec|RepCodec S-TFNet S3 SD-Codec SemantiCodec|Single Codec|SingOMD SNAC SOCODEC SoundStream|"
    "Spectral Codecs|SpeechTokenizer SQ-Codec TAAE TFNet Ti-Codec TS3-Codec USM Vocos WavTokenizer Wav2Vec-BERT "
    "WMCodec X-Codec XEUS"
)
FULL = ("adversarial", "feature-matching", "reconstruction", "vq")
SPACED = ("Discrete SSL", "Language Codec", "Prompt Codec", "Single Codec", "Spectral Codecs")


def record(name: str) -> TokenizerRecord:
    (found,) = [row for row in records() if row.name == name]
    return found


def test_all_52_of_the_survey_are_there() -> None:
    names = [n for part in SURVEY.split("|") for n in ([part] if part in SPACED else part.split())]
    assert len(names) == 52
    assert {row.survey for row in records()} - {None} == set(names)


@pytest.mark.parametrize(
    ("name", "facts"),
    [  # read from the survey's Table 1 by eye
        ("esc", ("T", "T", ("time-frequency",), "CSRVQ", ("reconstruction", "vq"), (), True, False, (150.0,))),
        ("hifi-codec", ("CNN+RNN", "CNN+RNN", ("time",), "GVQ", FULL, (), True, False, (50.0, 75.0, 100.0))),
        ("usm", ("CNN+T", "none", ("time-frequency",), "PQ", ("masked-prediction",), (), False, False, (25.0,))),
        (
            "s-tfnet",
            (
                "CNN+RNN",
                "CNN",
                ("time-frequency",),
                "CSRVQ",
                ("adversarial", "reconstruction", "vq"),
                (),
                True,
                False,
                None,
            ),
        ),
    ],
)
def test_what_the_survey_says(name: str, facts: tuple[object, ...]) -> None:
    row = record(name)
    told = (row.encoder, row.decoder, row.inputs, row.quantizer, row.objectives, row.auxiliary, row.joint)
    assert (*told, row.streamable, row.frame_rates_hz) == facts


@pytest.mark.parametrize(
    ("name", "kbps"),
    [  # bitrates as their authors publish them
        ("snac-24khz", 0.98),
        ("snac-32khz", 1.9),
        ("snac-44khz", 2.6),
        ("bigcodec", 1.04),
        ("neucodec", 0.8),
        ("higgs-audio-v2", 2.0),
        ("wavtokenizer-40hz", 0.48),
        ("wavtokenizer-75hz", 0.9),
        ("encodec-24khz", 24.0),
        ("encodec-32khz", 2.2),
        ("dac-44khz", 7.75),
        ("mimi", 4.4),
    ],
)
def test_bitrates_follow_from_sizes_and_rates(name: str, kbps: float) -> None:
    assert record(name).bitrate_bps == pytest.approx(1000 * kbps, rel=0.02)


def test_what_does_not_follow_stays_unknown() -> None:
    assert record("funcodec").bitrate_bps is None
    assert record("s-tfnet").frame_rates_hz is None


@pytest.mark.parametrize("name", MODES)
def test_codec2_is_as_its_code_says(name: str) -> None:
    row, mode = record(name), MODES[name]
    assert row.codebook_sizes == mode.codebook_sizes
    assert (row.hop_samples, row.sample_rate_hz) == (mode.hop_samples, 8000)


def test_encodec_and_mimi_are_as_transformers_builds_them() -> None:
    from transformers import EncodecConfig, MimiConfig

    encodec, mimi = EncodecConfig(), MimiConfig(frame_rate=12.5)
    row = record("encodec-24khz")
    assert (row.sample_rate_hz, row.hop_samples) == (encodec.sampling_rate, encodec.hop_length)
    assert row.codebook_sizes == (encodec.codebook_size,) * encodec.num_quantizers
    row = record("mimi")
    assert row.codebook_sizes == (mimi.codebook_size,) * mimi.num_quantizers
    assert row.frame_rates_hz == (12.5,)


def test_every_tokenizer_has_a_record_and_every_tokenizer_file_is_one() -> None:
    assert set(TOKENIZERS.names()) - {row.loads for row in records()} == set()
    for file in sorted(ROOT.glob("configs/tokenizers/*.yaml")):
        given = yaml.safe_load(file.read_text())
        rows = [row for row in records() if row.loads == given["name"]]
        # Centroids and vocoder are the user's choice; all else must be what some record loads.
        settings = [{k: v for k, v in row.settings if k not in ("centroids", "vocoder")} for row in rows]
        assert any(wanted.items() <= given.items() for wanted in settings), file


def test_a_taxonomy_says_only_what_holds_for_the_checkpoint() -> None:
    assert taxonomy_of("encodec", "facebook/encodec_32khz")["streamable"] == "no"
    assert taxonomy_of("encodec", "facebook/encodec_24khz")["streamable"] == "yes"
    somebodys = taxonomy_of("encodec", "/weights/of/mine")
    assert somebodys["quantizer"] == "RVQ"
    assert not {"streamable", "domains"} & set(somebodys)  # the releases differ in them
    assert taxonomy_of("codec2-700c")["domains"] == "speech"
    assert taxonomy_of("mimi", "/weights/of/mine") == taxonomy_of("mimi")


def test_finding_one() -> None:
    assert [row.name for row in find_records("mimi")] == ["mimi"]
    assert [row.name for row in find_records("dac")] == ["dac-16khz", "dac-24khz", "dac-44khz"]
    assert [row.name for row in find_records("Ti-Codec")] == ["ticodec"]
    with pytest.raises(UsageError, match=r"^unknown tokenizer 'mimmi'; did you mean 'mimi'"):
        find_records("mimmi")


def test_names_that_are_not_those_to_load_by_lead_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"^tokenizer 'hubert-base-l9' is not loaded by this name: .* -m"):
        load_tokenizer("hubert-base-l9")
    (tmp_path / "configs/tokenizers").mkdir(parents=True)
    (tmp_path / "configs/tokenizers/whisper-l3.yaml").write_text("name: ssl-kmeans\n")
    with pytest.raises(UsageError, match=r"did you mean configs/tokenizers/whisper-l3\.yaml\?$"):
        load_tokenizer("whisper-l3")


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ({"quantizer": "RQV"}, "RQV is not in the vocabulary"),
        ({"encoder": "CNN+LSTM"}, "LSTM is not in the vocabulary"),
        ({"sizes": 3}, "fields that do not exist or are missing: sizes"),
        ({"codebooks": "1024 times 8"}, "write them as"),
    ],
)
def test_a_wrong_record_is_refused(wrong: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        read_record({"name": "x", "family": "X", **wrong})
