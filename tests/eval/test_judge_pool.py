"""Judges at work: what is kept, who is asked, and that processes and batches say what one clip alone is told."""

from __future__ import annotations

import math
import os
import signal
import sys
import threading
from types import ModuleType

import numpy as np
import pytest
import torch
from tqdm import tqdm

from eval.judges._dnsmos import _pooled, windows
from eval.judges._onnx import read_tensors
from eval.judges.answers import Answers, answers_of, key_of
from eval.judges.base import Judge, JudgeRecord, in_equal_batches
from eval.judges.mos import Dnsmos, MosJudge, Utmos
from eval.judges.pool import Asked, JudgePool, Recipe, weighs_too_much
from eval.judges.speaker import SpeakerJudge, XVector
from eval.reconstruction.scoring import pool
from slm.errors import UsageError
from slm.types import AudioClip
from tests.tokenizers.speech import real_clips


class Meter(Judge):
    """Tells the level of a clip, who asked whom, and counts in this process."""

    def __init__(self, settings: str = "plain"):
        self.name, self.settings, self.heard = "meter", settings, []

    def record(self):
        return JudgeRecord("meter 1", "none", 8000, "whole clips", self.settings)

    def rate(self, clips):
        self.heard += [c.id for c in clips]
        return [{"level": float(np.abs(c.samples).max())} if len(c.samples) else None for c in clips]

    def embed(self, clips):
        return [np.outer(c.samples[:2], [1.0, math.pi]).astype(np.float32) for c in clips]

    def likelihoods(self, texts, before):
        return [(float(len(t)), len(b)) for t, b in zip(texts, before, strict=True)]


class Slow(JudgePool):
    """Gives no answer before it is waited for, as processes do."""

    def ask(self, judge, recipe, question, items):
        return lambda: getattr(judge, question)(items)


def test_what_is_being_asked_is_not_asked_again(tmp_path):
    """Whoever waits first; and once an answer could not be had it is asked for again."""
    judge = Meter()
    asked = Asked(judge, Slow(), folder=tmp_path)
    waits = [asked.begin("rate", clips(levels)) for levels in ([0.25, 0.5], [0.5, 0.75], [0.25])]
    assert [wait() for wait in waits[::-1]] == [
        [{"level": 0.25}], [{"level": 0.5}, {"level": 0.75}], [{"level": 0.25}, {"level": 0.5}]
    ]  # fmt: skip
    assert sorted(judge.heard) == ["c0", "c1", "c1"]
    assert len(next(tmp_path.glob("*.jsonl")).read_text().splitlines()) == 3
    rate, judge.rate = judge.rate, lambda clips: 1 / 0
    waits = [asked.begin("rate", clips([1.0])) for _ in range(2)]
    with pytest.raises(ZeroDivisionError):
        waits[0]()
    judge.rate = rate
    assert waits[1]() == asked.rate(clips([1.0])) == [{"level": 1.0}]


def clips(levels, length: int = 4000) -> list[AudioClip]:
    return [AudioClip(f"c{i}", np.full(length, level, np.float32), 8000) for i, level in enumerate(levels)]


def test_a_second_run_asks_only_about_what_is_new(tmp_path):
    asked = Asked(Meter(), JudgePool(), folder=tmp_path)
    assert asked.rate(clips([0.25, 0.5, 0.25])) == [{"level": 0.25}, {"level": 0.5}, {"level": 0.25}]
    assert asked.judge.heard == ["c0", "c1"]  # equal ones once
    again = Asked(Meter(), JudgePool(), folder=tmp_path)
    assert again.rate([*clips([0.5, 0.75]), AudioClip("empty", np.zeros(0, np.float32), 8000)]) == [
        {"level": 0.5}, {"level": 0.75}, None
    ]  # fmt: skip
    assert again.judge.heard == ["c1", "empty"]
    assert Asked(Meter(), JudgePool(), folder=tmp_path).rate(clips([0.75])) == [{"level": 0.75}]
    other = Asked(Meter("other settings"), JudgePool(), folder=tmp_path)
    assert other.rate(clips([0.5]))[0] == {"level": 0.5}
    assert other.judge.heard == ["c0"]


def test_arrays_and_rows_of_texts_are_kept_to_the_last_bit(tmp_path):
    first, second = Asked(Meter(), JudgePool(), folder=tmp_path), Asked(Meter(), JudgePool(), folder=tmp_path)
    made, kept = first.embed(clips([0.1])), second.embed(clips([0.1]))
    assert (made[0].dtype, made[0].shape) == (kept[0].dtype, kept[0].shape)
    assert np.array_equal(made[0], kept[0])
    for asked in (first, second):
        assert [tuple(a) for a in asked.likelihoods(["ab", "c"], ["", "xyz"])] == [(2.0, 0), (1.0, 3)]


def test_rate_and_samples_are_the_sound_and_the_name_is_not():
    x = np.arange(10, dtype=np.float32)
    assert key_of(AudioClip("a", x, 8000)) == key_of(AudioClip("b", x.astype(np.float64), 8000))
    assert len({key_of(AudioClip("a", y, rate)) for y, rate in ((x, 8000), (x, 16_000), (x[1:], 8000))}) == 3


def test_what_a_killed_run_left_unfinished_is_asked_again(tmp_path):
    """Also where the end of the file is half a line: the next answer begins a new one."""
    file = tmp_path / "a.jsonl"
    Answers(file).add({"x": 1.5, "y": "two"})
    whole = file.read_bytes()
    for end in range(len(whole) - 8, len(whole)):
        file.write_bytes(whole[:end])
        Answers(file).add({"z": None})
        known = Answers(file).known
        assert (known["x"], known["z"]) == (1.5, None)
        assert known.get("y", "two") == "two"


def test_other_weights_in_the_same_folder_are_another_judge(tmp_path):
    class Folder(Meter):
        def record(self):
            return JudgeRecord("meter 1", str(tmp_path / "weights"), 8000, "whole clips")

    (tmp_path / "weights").mkdir()
    files = []
    for content in ("a", "ab"):
        (tmp_path / "weights/model.safetensors").write_text(content)
        files.append(answers_of(Folder(), "rate", tmp_path).file)
    assert files[0] != files[1]
    assert answers_of(Folder(), "embed", tmp_path).file != files[1]


def _lock_of_progress_bars() -> str:
    """Of the system, it would be told of as lost where its process is killed."""
    return type(tqdm.get_lock()).__name__


def test_processes_say_what_one_says(tmp_path):
    """40 clips are worth two processes; the judge of this one hears none of them."""
    levels = np.random.default_rng(0).random(40)
    judge_pool = JudgePool(workers=2)
    beside = Asked(Meter(), judge_pool, Recipe(Meter), tmp_path)
    try:
        assert beside.rate(clips(levels, 800)) == Meter().rate(clips(levels, 800))
        assert beside.judge.heard == []
        assert judge_pool.busy_s > 0
        assert beside.rate(clips([2.0, *levels], 800))[0] == {"level": 2.0}
        assert beside.judge.heard == ["c0"]  # one is not worth a process
        assert judge_pool.processes is not None
        assert judge_pool.processes.submit(_lock_of_progress_bars).result() == type(threading.RLock()).__name__
    finally:
        judge_pool.close()
    assert len((next(tmp_path.glob("*.jsonl"))).read_text().splitlines()) == 41


class Fatal(Meter):
    """Its process is killed, as one is that wants too much memory."""

    def rate(self, clips):
        os.kill(os.getpid(), signal.SIGKILL)


def test_the_death_of_a_process_is_told_in_one_line():
    judge_pool = JudgePool(workers=2)
    try:
        with pytest.raises(UsageError, match=r"was killed, most likely for want of memory.*workers 1"):
            Asked(Fatal(), judge_pool, Recipe(Fatal)).rate(clips(np.arange(40.0), 80))
    finally:
        judge_pool.close()
    with pytest.raises(UsageError, match="was killed"), pool(2) as workers:
        workers.submit(os._exit, 9).result()


def test_large_weights_stay_in_one_place(monkeypatch):
    judge = Meter()
    judge.model = torch.nn.Linear(100, 100)
    assert not weighs_too_much(judge, 2)
    monkeypatch.setattr("os.sysconf", lambda name: 1000 if "PAGES" in name else 64)
    assert weighs_too_much(judge, 2)
    judge_pool = JudgePool(workers=2)
    try:
        assert Asked(judge, judge_pool, Recipe(Meter)).rate(clips(np.arange(40.0) / 64))[32] == {"level": 0.5}
        assert len(judge.heard) == 40  # asked from a thread
        assert judge_pool.processes is None
    finally:
        judge_pool.close()


def test_batches_of_one_length_hold_everything_once():
    found = in_equal_batches(["aa", "b", "cc", "d", "ee", "f", "gg"], 3)
    assert found == [[0, 2, 4], [6], [1, 3, 5]]


class Sum(MosJudge):
    name = "sum"

    def record(self):
        return JudgeRecord("sum 1", "none", 16_000, "whole clips")

    def _rate(self, samples):
        return [{"sum": float(row.sum()), "rows": len(samples)} for row in samples]


class First(SpeakerJudge):
    def record(self):
        return JudgeRecord("first 1", "none", 16_000, "whole clips")

    def _embed(self, clips):
        return [None if clip[0] > 0.8 else clip[:1] for clip in clips]


def test_clips_find_their_own_answer_whatever_was_heard_with_them():
    lengths = [8000, 3999, 8000, 9000, 8000]
    given = [AudioClip(f"{i}", np.full(n, (i + 1) / 8, np.float32), 16_000) for i, n in enumerate(lengths)]
    rated = Sum().rate(given)
    assert rated[1] is None
    assert [r["sum"] for r in rated if r] == [1000.0, 3000.0, 4500.0, 5000.0]
    assert [r["rows"] for r in rated if r] == [3, 3, 1, 3]
    silent = AudioClip("s", np.zeros(8000, np.float32), 16_000)
    assert First().embed([given[0], silent, given[1], given[2]]) == [0.125, None, None, 0.375]


def test_x_vectors_of_a_batch_are_those_of_each_alone(tmp_path):
    """Group norm over time: padding would change every frame, so only clips of one length are heard together."""
    from transformers import Wav2Vec2FeatureExtractor, WavLMConfig, WavLMForXVector

    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16,
             "conv_dim": (8, 8), "conv_stride": (10, 32), "conv_kernel": (10, 32), "num_feat_extract_layers": 2,
             "num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "tdnn_dim": (8, 8),
             "tdnn_kernel": (3, 1), "tdnn_dilation": (1, 1), "xvector_output_dim": 6}  # fmt: skip
    torch.manual_seed(0)
    WavLMForXVector(WavLMConfig(**small)).save_pretrained(tmp_path)
    Wav2Vec2FeatureExtractor().save_pretrained(tmp_path)
    judge, rng = XVector(str(tmp_path)), np.random.default_rng(0)
    given = [AudioClip(f"{n}", rng.normal(0, 0.1, n).astype(np.float32), 16_000) for n in (8000, 9600, 8000, 4800)]
    together, alone = judge.embed(given), [judge.embed([clip])[0] for clip in given]
    np.testing.assert_allclose(together, alone, atol=1e-5)
    with torch.inference_mode():
        heard = torch.from_numpy((given[1].samples - given[1].samples.mean()) / given[1].samples.std())[None]
        np.testing.assert_allclose(together[1], judge.model(heard).embeddings[0], atol=1e-4)


HUB = 'dependencies = ["torch", "torchaudio"]\nfrom speechmos.utmos22 import Strong as utmos22_strong\n'
STRONG = '''
import torch
import torchaudio


class Strong(torch.nn.Module):
    """As utmos22_strong is called: waves [B, N] and their rate -> [B]."""

    def __init__(self, progress=True, pretrained=True):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(2.0))

    def forward(self, wave, sr):
        wave = torchaudio.functional.resample(wave, orig_freq=sr, new_freq=16000)
        return 1 + self.scale * wave.abs().mean(dim=1)
'''


def test_utmos_is_loaded_beside_a_package_of_the_same_name(tmp_path, monkeypatch):
    """Its code lies in a folder `speechmos`, as DNSMOS's package is called; torchaudio need not be there."""
    other = ModuleType("speechmos")
    monkeypatch.setitem(sys.modules, "speechmos", other)
    (tmp_path / "speechmos").mkdir()
    (tmp_path / "speechmos/__init__.py").touch()
    (tmp_path / "speechmos/utmos22.py").write_text(STRONG)
    (tmp_path / "hubconf.py").write_text(HUB)
    judge = Utmos(str(tmp_path))
    assert sys.modules["speechmos"] is other
    assert "speechmos.utmos22" not in sys.modules
    given = [AudioClip("a", np.full(8000, v, np.float32), 16_000) for v in (0.5, -0.25)]
    assert judge.rate([*given, AudioClip("b", np.ones(100, np.float32), 16_000)]) == [
        {"utmos": 2.0}, {"utmos": 1.5}, None
    ]  # fmt: skip
    assert str(tmp_path) in judge.record().sentence()
    assert not judge.model.training


@pytest.mark.thorough
def test_dnsmos_is_what_its_own_command_says():
    """Also where two windows share what is computed of both, and where a clip is doubled to fill one."""
    package = pytest.importorskip("speechmos.dnsmos", reason="pip install --no-deps speechmos==0.0.1.1")
    speech = np.tile(np.concatenate([clip.samples for clip in real_clips(16_000, 2)]).clip(-1, 1), 3)
    for length in (181_003, 75_500):  # 11.3 s, and 4.7 s, which twice are one window
        (found,) = Dnsmos().rate([AudioClip("x", speech[:length], 16_000)])
        said = package.run(speech[:length], 16_000)
        assert found == {f"dnsmos_{part}": pytest.approx(said[f"{part}_mos"], abs=1e-5)
                         for part in ("ovrl", "sig", "bak", "p808")}  # fmt: skip


@pytest.mark.parametrize("shape", [(1, 3, 7, 9), (2, 1, 8, 6), (1, 2, 1, 5)])
def test_pooling_is_that_of_torch(shape):
    h = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    if shape[2] > 1:
        assert torch.equal(_pooled(h), torch.nn.functional.max_pool2d(h, 2))
    assert _pooled(h).shape == (*shape[:2], shape[2] // 2, shape[3] // 2)


def test_windows_of_dnsmos():
    """One a second, of 9.01 s; a shorter clip is doubled, and again."""
    starts, heard = windows(np.arange(11 * 16_000 + 7, dtype=np.float32))
    assert (starts, len(heard)) == ([0, 100], 16_000 + 144_160)
    starts, heard = windows(np.arange(2.5 * 16_000, dtype=np.float32))  # 2.5, 5, 10 s
    assert (starts, len(heard)) == ([0], 144_160)
    assert heard[40_000:40_003].tolist() == [0, 1, 2]


def test_weights_are_read_out_of_an_onnx_file(tmp_path):
    """The bytes as the format has them: graph (7) with a tensor (5) of shape [2], float32, its name, its bytes."""

    def field(number, data):
        return bytes([number << 3 | 2, len(data)]) + data

    floats = np.array([1.5, -2.0], "<f4").tobytes()
    tensor = bytes([1 << 3, 2, 2 << 3, 1]) + field(8, b"weights") + field(9, floats)
    whole_numbers = bytes([1 << 3, 1, 2 << 3, 7]) + field(8, b"shape") + field(9, bytes(8))
    file = tmp_path / "model.onnx"
    file.write_bytes(bytes([1 << 3, 8]) + field(7, field(1, b"node") + field(5, tensor) + field(5, whole_numbers)))
    found = read_tensors(file)
    assert {name: array.tolist() for name, array in found.items()} == {"weights": [1.5, -2.0]}
    for wrong in (b"version https://git-lfs", b"", bytes([7 << 3 | 2, 200])):
        file.write_bytes(wrong)
        with pytest.raises(ValueError, match=r"ONNX|no weights"):
            read_tensors(file)
