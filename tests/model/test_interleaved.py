"""Models of text and units as slamkit saves them: the log-probabilities of the plain transformers model on the ids that
slamkit's own way of writing, one string through the text tokenizer, gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen2Config

from slm.errors import UsageError
from slm.files import write_json
from slm.interleaved_lm import InterleavedLM
from slm.model.interleaved import SPEECH, TEXT, TextAndUnits, is_interleaved
from slm.spoken_lm import load_lm
from slm.types import Codes

UNITS = 20
STORY = "Ann lost her red ball. She looked for it in the garden, and then in the house. At last Bob found it!"


def text_tokenizer(begins: bool) -> PreTrainedTokenizerFast:
    """Byte pairs of a story, as GPT-2 has them; `begins`: `<s>` stands before every text, as Llama has it."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=["<pad>", "<s>"], initial_alphabet=letters)
    made.train_from_iterator([STORY], trainer)
    if begins:
        made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", pad_token="<pad>")


def save(folder, begins: bool = False, extra: int = 2, units: int = UNITS, positions: int = 128):
    """A random model as slamkit's trainer writes it: text, units and two markers; the tokenizer beside it."""
    folder.mkdir(parents=True)
    tokenizer = text_tokenizer(begins)
    tokenizer.save_pretrained(folder)
    size = len(tokenizer) + units + extra
    config = Qwen2Config(vocab_size=size, hidden_size=32, num_attention_heads=2, num_hidden_layers=2,
                         max_position_embeddings=positions, intermediate_size=48, num_key_value_heads=1,
                         tie_word_embeddings=True, pad_token_id=0, bos_token_id=1, eos_token_id=1)  # fmt: skip
    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    state = {f"lm.{n}": p.detach().clone() for n, p in model.state_dict().items() if n != "lm_head.weight"}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    write_json(folder / "config.json", {"model_type": "speech_language_model", "base_config": config.to_dict(),
                                        "base_model_name": "nobody/nothing", "vocab_size": size})  # fmt: skip
    return model


def plain(model, ids) -> np.ndarray:
    """ln P of each id but the first, float64."""
    ids = torch.tensor(ids)
    with torch.no_grad():
        logits = model.double()(ids[None]).logits[0]
    return torch.log_softmax(logits[:-1], -1)[torch.arange(len(ids) - 1), ids[1:]].numpy()


def slamkit_ids(folder, text: str, units: int = UNITS) -> list[int]:
    """As `InterleavingTokeniser` is set up, and does."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    tokenizer.add_tokens([f"<Un{x}>" for x in range(units)] + ["<speech>", "<text>"])
    return tokenizer(text, add_special_tokens=True)["input_ids"]


def clip(spec, units) -> Codes:
    return Codes("c", np.array(units, np.uint16)[:, None], 640 * len(units), spec)


@pytest.mark.parametrize("begins", [False, True])
def test_text_and_speech_are_scored_as_the_plain_model_does(tmp_path, begins):
    model = save(tmp_path / "m", begins)
    lm = load_lm(tmp_path / "m")
    assert isinstance(lm, InterleavedLM)
    assert lm.spec.codebook_sizes == (UNITS,)
    speech, ending = clip(lm.spec, [3, 3, 19, 0, 7]), clip(lm.spec, [5, 5, 6])
    cases = {
        "<text>She looked for it.<speech><Un3><Un19><Un0><Un7>": [(TEXT, "She looked for it."), (SPEECH, speech)],
        "<speech><Un5><Un6><text>Bob found it!": [(SPEECH, ending), (TEXT, "Bob found it!")],
        "<text>Ann lost it.Bob  found it!": [(TEXT, "Ann lost it."), (TEXT, "Bob  found it!")],
        "<speech><Un3><Un19><Un0><Un7>": [(SPEECH, speech)],
    }
    mixed = [lm.mix(text, parts) for text, parts in cases.items()]
    for c, made in zip(mixed, lm.score_codes(mixed), strict=True):
        ids = slamkit_ids(tmp_path / "m", c.id)
        assert c.codes[:, 0].tolist() == ids
        expected = plain(model, ids)
        assert made.log_probs.shape == (len(ids) - 1, 1)
        assert np.abs(made.log_probs[:, 0] - expected).max() < 1e-5
        assert made.eos_log_probs.shape == (0,)
    assert [c.duration_s for c in mixed] == [5 / 25, 3 / 25, 0, 5 / 25]


@pytest.mark.parametrize("begins", [False, True])
def test_a_clip_alone_begins_as_text_does_or_with_the_marker(tmp_path, begins):
    model = save(tmp_path / "m", begins)
    lm = load_lm(tmp_path / "m")
    made = lm.score_codes([clip(lm.spec, [3, 3, 19, 0])])[0]
    ids = slamkit_ids(tmp_path / "m", f"{'' if begins else '<speech>'}<Un3><Un19><Un0>")
    assert np.abs(made.log_probs[:, 0] - plain(model, ids)).max() < 1e-5
    assert len(made.log_probs) == 3


def test_every_id_may_come_next_and_nothing_else(tmp_path):
    model = save(tmp_path / "m")
    lm = load_lm(tmp_path / "m")
    size = lm.text.size
    ids = torch.tensor([[5, 9, size - 1]])
    with torch.no_grad():
        there = torch.softmax(model(ids).logits[0, -1], -1)
        hidden = lm.model.hidden_states(ids[..., None])[:, -1]
        here = torch.softmax(lm.model.stream_logits(hidden, torch.zeros(1, 0, dtype=torch.int64))[0], -1)
    assert torch.allclose(here[:size], there, atol=1e-6)
    assert here[size:].tolist() == [0, 0, 0]


def test_batches_and_order_change_nothing(tmp_path):
    save(tmp_path / "m")
    lm = load_lm(tmp_path / "m")
    rng = np.random.default_rng(0)
    mixed = [lm.mix(f"{i}", [(TEXT, STORY[: 10 + 9 * i]), (SPEECH, clip(lm.spec, rng.integers(0, UNITS, 4 + i)))])
             for i in range(6)]  # fmt: skip
    whole = lm.score_codes(mixed)
    alone = [lm.score_codes([c], max_steps=1)[0] for c in mixed[::-1]][::-1]
    for a, b in zip(whole, alone, strict=True):
        assert np.abs(a.log_probs - b.log_probs).max() < 1e-5
    other = lm.untrained(1).score_codes(mixed[:1])[0]
    assert np.abs(other.log_probs - whole[0].log_probs).max() > 1e-3


def test_what_does_not_fit_is_refused(tmp_path, monkeypatch):
    save(tmp_path / "few", extra=2 - UNITS - 5)
    with pytest.raises(UsageError, match=r"is not that of units beside the \d+ tokens of .*; put the text tokenizer"):
        load_lm(tmp_path / "few")
    save(tmp_path / "m")
    lm = load_lm(tmp_path / "m")
    long = lm.mix("long", [(SPEECH, clip(lm.spec, [1, 2] * 100))])
    with pytest.raises(UsageError, match="long takes 201 steps, but the model has 128 positions"):
        lm.score_codes([long])
    with pytest.raises(UsageError, match="scored, but not continued"):
        lm.continue_codes(clip(lm.spec, [1]), 1.0, 0)
    config = (tmp_path / "m/config.json").read_text()
    for file in (tmp_path / "m").glob("*token*"):
        file.unlink()
    (tmp_path / "m/config.json").write_text(config.replace(f'"vocab_size": {lm.text.size}', '"vocab_size": 152000'))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match=r"a model of text and units, whose text tokenizer is that of nobody/nothing"):
        load_lm(tmp_path / "m")


def test_units_may_be_in_the_tokenizer_already(tmp_path):
    save(tmp_path / "m")
    plainly = TextAndUnits.read(tmp_path / "m")
    plainly.tokenizer.save_pretrained(tmp_path / "m")
    assert is_interleaved(tmp_path / "m")
    again = TextAndUnits.read(tmp_path / "m")
    assert (again.num_units, again.fingerprint) == (UNITS, plainly.fingerprint)


def test_a_tokenizer_of_units_alone_does_not_make_it_one_of_text(tmp_path):
    save(tmp_path / "m")
    words = Tokenizer(models.WordLevel({f"<Un{u}>": u + 2 for u in range(UNITS)} | {"<pad>": 0, "<S>": 1}))
    words.save(str(tmp_path / "m/tokenizer.json"))
    assert not is_interleaved(tmp_path / "m")


def test_the_text_tokenizer_may_be_that_of_a_folder_that_the_model_names(tmp_path):
    save(tmp_path / "m")
    first = TextAndUnits.read(tmp_path / "m")
    text_tokenizer(False).save_pretrained(tmp_path / "text")
    for file in (tmp_path / "m").glob("*token*"):
        file.unlink()
    config = (tmp_path / "m/config.json").read_text()
    (tmp_path / "m/config.json").write_text(config.replace("nobody/nothing", str(tmp_path / "text")))
    assert TextAndUnits.read(tmp_path / "m").fingerprint == first.fingerprint
