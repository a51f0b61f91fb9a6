"""What a step keeps for its backward pass: as the dry run counts it, and with layers made again."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import train_lm
from slm.errors import UsageError
from slm.model.acoustic_lm import AcousticLM
from slm.model.backbone import checkpoint_activations
from slm.model.memory import activation_bytes
from slm.training.config import ModelConfig
from slm.training.setup import load_data, make_loader, make_model, make_pattern
from tests.fakes import TINY_BACKBONE
from tests.training.runs import config

DEPTH = {**TINY_BACKBONE, "hidden_size": 16, "num_hidden_layers": 3}
GROUPED = {"model_type": "qwen2", "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
           "num_key_value_heads": 2, "intermediate_size": 48}  # fmt: skip


def step(model: AcousticLM, c) -> tuple[int, torch.Tensor]:
    """A real step on real rows: the bytes that autograd took beside the model's own, and the loss."""
    data = load_data(c)
    batch = make_loader(c, data, make_pattern(c, data), 0, 1).batches(0)[0]
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(*map(torch.as_tensor, (batch.ids, batch.loss_mask, batch.positions))).weighted_nll
    own = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers())}
    return sum(storage.nbytes() for place, storage in kept.items() if place not in own), loss


def counted_bytes(model: AcousticLM, c, half: bool = False) -> int | None:
    return activation_bytes(model, c.rows_per_batch, c.row_length, half, c.model.activation_checkpointing)


def made(c) -> AcousticLM:
    return make_model(c, make_pattern(c, load_data(c))).train()


@pytest.mark.parametrize(
    ("backbone", "depth", "attention"),
    [(GROUPED, {}, "auto"), (TINY_BACKBONE, {}, "eager"), (TINY_BACKBONE, DEPTH, "auto")],
)
def test_activations_are_counted_as_a_step_keeps_them_and_layers_made_again_keep_fewer(
    corpora, tmp_path, backbone, depth, attention
):
    model = ModelConfig(backbone=backbone, depth=depth, attention=attention)
    plain = config(corpora["two"], tmp_path / "run", model=model, rows_per_batch=16)
    again = replace(plain, model=replace(model, activation_checkpointing=True))
    first, second = made(plain), made(again)
    (kept, loss), (kept_again, loss_again) = step(first, plain), step(second, again)
    counted = counted_bytes(first, plain)
    assert counted == pytest.approx(kept, rel=0.07)  # rows that are all predicted, and attended to in one piece
    assert 0.6 * counted < counted_bytes(first, plain, half=True) < 0.8 * counted  # norms are in 32 bits
    one_layer = (kept - kept_again) / backbone["num_hidden_layers"]
    assert counted_bytes(second, again) == pytest.approx(kept_again + one_layer, rel=0.07)
    assert kept_again < kept - one_layer
    loss.backward()
    loss_again.backward()
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one.grad, other.grad)


def test_of_a_depth_transformer_the_activations_of_one_chunk_are_counted(corpora, tmp_path, monkeypatch):
    c = config(corpora["two"], tmp_path / "run", model=ModelConfig(backbone=TINY_BACKBONE, depth=DEPTH))
    whole = counted_bytes(made(c), c)
    without = config(corpora["two"], tmp_path / "run", model=ModelConfig(backbone=TINY_BACKBONE))
    body = counted_bytes(made(without), without)
    monkeypatch.setattr("slm.model.depth.CHUNK_TOKENS", 256)  # of 8 x 64 steps x 2 streams
    monkeypatch.setattr("slm.model.memory.CHUNK_TOKENS", 256)
    assert counted_bytes(made(c), c) == pytest.approx(body + (whole - body) / 4, rel=0.1)


def test_what_cannot_be_counted_or_made_again_is_said(corpora, tmp_path, capsys, monkeypatch):
    experts = {"model_type": "mixtral", **{k: v for k, v in TINY_BACKBONE.items() if k != "model_type"},
               "num_key_value_heads": 2, "num_local_experts": 2}  # fmt: skip
    c = config(corpora["two"], tmp_path / "run", model=ModelConfig(backbone=experts), dry_run=True)
    train_lm.main(c)
    assert "activations not counted: the layers of this family" in capsys.readouterr().out
    refused = {"model_type": "mpt", "d_model": 32, "n_heads": 2, "n_layers": 1}  # when it is trained
    train_lm.main(replace(c, model=ModelConfig(backbone=refused)))
    assert "activations not counted: the layers of this family" in capsys.readouterr().out
    monkeypatch.setattr("slm.training.setup.use_liger", lambda body: None)
    train_lm.main(replace(c, model=ModelConfig(backbone=TINY_BACKBONE, kernels="liger")))
    assert "activations not counted, fewer than with model.kernels torch" in capsys.readouterr().out
    body = made(c).causal_lm
    type(body.base_model).supports_gradient_checkpointing = False
    try:
        with pytest.raises(UsageError, match="activation_checkpointing: transformers' 'mixtral' cannot"):
            checkpoint_activations(body)
    finally:
        del type(body.base_model).supports_gradient_checkpointing
