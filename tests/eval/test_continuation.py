"""The numbers about a continuation, by closed forms."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from eval.benchmarks.base import Generation, Setup
from eval.benchmarks.continuation import Continuation, _heard, describe_clip, describe_codes, prompt_seed, summarize
from eval.run import main
from slm.errors import UsageError
from slm.types import AudioClip, Codes
from tests.eval.material import config, write_level
from tests.fakes import ArithmeticTokenizer, tone


def test_the_level_of_a_tone_and_the_share_of_silence():
    """A sine of amplitude 0.3 has an RMS of 0.3 / sqrt 2; half a clip of nothing halves its power."""
    loud = tone(1.0)
    assert describe_clip(loud)["level_dbfs"] == pytest.approx(20 * math.log10(0.3 / math.sqrt(2)), abs=0.01)
    assert describe_clip(loud)["silence_share"] == 0.0
    half = AudioClip("x", np.concatenate([loud.samples, 0 * loud.samples]), 8000)
    found = describe_clip(half)
    assert found["level_dbfs"] == pytest.approx(20 * math.log10(0.3 / 2), abs=0.01)
    assert (found["duration_s"], found["silence_share"]) == (2.0, 0.5)
    quiet = np.repeat(10 ** (np.array([-49, -51] * 10) / 20), 160)  # 20 ms above -50 dB and 20 ms below, ten times
    assert describe_clip(AudioClip("x", quiet.astype(np.float32), 8000))["silence_share"] == 0.5
    nothing = describe_clip(AudioClip("x", np.zeros(0, np.float32), 8000))
    assert nothing == {"duration_s": 0.0, "level_dbfs": None, "silence_share": None}


def test_codes_are_compared_with_the_frame_before():
    """Prompt 1 2, then 2 2 3 2: the first two repeat."""
    spec = ArithmeticTokenizer(1).spec
    whole = Codes("x", np.array([[1], [2], [2], [2], [3], [2]], np.uint16), 960, spec)
    prompt = Codes("x", whole.codes[:2], 320, spec)
    assert describe_codes(prompt, whole) == {"frames": 4, "distinct_frames": 2, "repeated_share": 0.5}
    assert describe_codes(whole, whole) == {"frames": 0, "distinct_frames": 0, "repeated_share": None}


def test_a_prompts_seed_is_its_own():
    assert prompt_seed(0, "a") == prompt_seed(0, "a")
    assert len({prompt_seed(0, "a"), prompt_seed(0, "b"), prompt_seed(1, "a")}) == 3


def test_prompts_are_the_first_ids_in_order(tmp_path):
    for name in ("c", "a", "sub/b"):
        write_level(tmp_path / f"{name}.wav", 0.1)
    made = Continuation(Setup(tmp_path, prompts=str(tmp_path), generation=Generation(max_prompts=2)))
    assert [p.id for p in made.prompts] == ["a", "c"]
    assert len(Continuation(Setup(tmp_path, prompts=str(tmp_path), generation=Generation(max_prompts=0))).prompts) == 3


def test_the_prompt_of_a_segment_begins_where_that_does(tmp_path):
    write_level(tmp_path / "a.wav", 0.1, duration_s=4.0)
    lm = SimpleNamespace(spec=ArithmeticTokenizer(1).spec)
    made = Continuation(Setup(tmp_path, prompts=str(tmp_path)))
    for end_s, heard_s in ((None, 2.0), (3.5, 2.0), (1.5, 0.5)):
        clip = made._read(replace(made.prompts[0], start_s=1.0, end_s=end_s), lm)
        assert clip.duration_s == heard_s


def test_what_the_model_heard_is_told_in_hours():
    for hours, babble in ((9.5, True), (10.0, False)):
        statistics = SimpleNamespace(num_documents=1, frames=np.array([2, 1]) * hours * 3600 * 50 / 3)
        said = _heard(SimpleNamespace(statistics=statistics, spec=SimpleNamespace(frame_rate_hz=50.0)))
        assert f" {hours:.2f} hours " in said
        assert ("babble" in said) == babble


def test_numbers_are_means_over_the_prompts_that_have_them():
    made = [{"codes": {"repeated_share": share}} for share in (0.0, 0.1, None, 0.8)]
    [score] = summarize(made, "x")
    assert (score.item, score.metric, score.count) == ("continuation/prompts/codes", "repeated_share", 3)
    assert score.value == pytest.approx(0.3)


@pytest.mark.parametrize(
    "wrong", [{"prompt_s": 0}, {"continue_s": -1}, {"continue_s": float("nan")}, {"temperature": -0.1}, {"top_k": 0}]
)
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(UsageError, match="generation"):
        Generation(**wrong)


@pytest.mark.parametrize("wrong", [{"top_p": 1.5}, {"min_p": -1.0}, {"repetition_penalty": 0.0}, {"guidance": -1.0}])
def test_sampling_that_makes_no_sense_is_refused_before_any_model_is_loaded(tmp_path, wrong):
    write_level(tmp_path / "a.wav", 0.1)
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Continuation(Setup(tmp_path, prompts=str(tmp_path), generation=Generation(**wrong)))


def test_the_convention_names_every_setting_that_matters(tmp_path):
    write_level(tmp_path / "a.wav", 0.1)
    settings = Generation(temperature=0.8, top_p=0.9, min_p=0.05, repetition_penalty=1.1, guidance=2.0, may_stop=True)
    made = Continuation(Setup(tmp_path, prompts=str(tmp_path), generation=settings))
    assert made._convention(3) == (
        "prompts of up to 2 s, up to 3 s more, temperature 0.8, top-p 0.9, min-p 0.05, repetition penalty 1.1, "
        "guidance 2, seed 3"
    )
    plain = Continuation(Setup(tmp_path, prompts=str(tmp_path)))
    assert plain._convention(0) == "prompts of up to 2 s, 3 s more, temperature 1, all codes, seed 0"


def test_a_prompt_that_leaves_no_room_is_left_out_and_named(root, real_lm):
    """512 positions are 5.1 s of two codebooks at 50 Hz, one code after the other."""
    write_level(root / "said/long.wav", 0.1, duration_s=4.5)
    write_level(root / "said/short.wav", 0.1, duration_s=0.5)
    settings = {"benchmarks": "continuation", "generation": Generation(prompt_s=10, continue_s=1)}
    main(config(root, prompts=str(root / "said"), **settings))
    result = json.loads((root.parent / "out/results.json").read_text())["results"][0]
    [left_out] = result["left_out"]
    assert left_out["item"] == "long"
    assert "the model has 512 positions" in left_out["reason"]
    assert "\nLeft out: long (takes " in (root.parent / "out/results.md").read_text()
    assert [made["id"] for made in result["details"]["prompts"]] == ["short"]
    (root / "said/short.wav").unlink()
    with pytest.raises(UsageError, match=r"no prompt can be used; the first: long .* 512 positions"):
        main(config(root, prompts=str(root / "said"), **settings, out=str(root.parent / "none")))
    settings["generation"] = Generation(prompt_s=0.01)
    with pytest.raises(UsageError, match=r"first: long gives no frame in the 0.01 s .* \(generation.prompt_s 0.01\)"):
        main(config(root, prompts=str(root / "said"), **settings, out=str(root.parent / "none")))
