"""Continuations of held-out clips while training: what the model says so far."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator

from slm.audio import write_wav
from slm.data.documents import Documents
from slm.errors import AudioError, UsageError
from slm.files import atomic_directory
from slm.generation import Sampling
from slm.model.backbone import from_config
from slm.model.checkpoint import ModelRecord
from slm.model.statistics import CodeStatistics
from slm.spoken_lm import SpokenLM, check_positions
from slm.tokenizers import Tokenizer, load_tokenizer
from slm.training.config import SamplesConfig
from slm.training.engine import full_weights, is_sharded
from slm.types import Codes


class Sampler:
    """Continues the first `count` clips of `documents` that are long enough, always with the same seeds.

    Writes `OUT/samples/step-N/ID.wav` where the tokenizer has a decoder that can be loaded, else `ID.npy` (codes
    `[T, K]`); the prompt is part of each. UsageError where the model has too few positions for them.
    """

    def __init__(self, accelerator: Accelerator, out: Path, model: Any, record: ModelRecord, documents: Documents,
                 statistics: Callable[[], CodeStatistics], config: SamplesConfig):  # fmt: skip
        self.accelerator, self.out, self.model, self.record = accelerator, out, model, record
        self.statistics, self.config = statistics, config
        spec = record.tokenizer
        frames = max(1, round(config.prompt_s * spec.frame_rate_hz))
        store = documents.store
        long = [int(i) for i in documents.indices if store.num_frames[int(i)] >= frames][: config.count]
        self.prompts = [
            Codes(store[i].id, np.asarray(store.codes(i)[:frames]), frames * spec.hop_samples, spec) for i in long
        ]
        if record.bpe is None:
            extra, pattern = round(config.seconds * spec.frame_rate_hz), record.make_pattern().full()
            for p in self.prompts:  # now, not hours later
                units = record.units.apply(p.codes)
                check_positions(accelerator.unwrap_model(model).causal_lm.config, pattern, p.id, len(units) + extra)
        self._tokenizer: Tokenizer | None = None
        self._decodes = spec.has_decoder
        if not long:
            accelerator.print(f"no samples: no held-out clip lasts {config.prompt_s:g} s")

    def write(self, step: int) -> None:
        """By the main process; all take part, since weights may have to be gathered."""
        sharded = is_sharded(self.accelerator)
        weights = full_weights(self.accelerator, self.model) if sharded else {}
        if not self.accelerator.is_main_process or not self.prompts:
            return
        inner = self.accelerator.unwrap_model(self.model)
        causal_lm = inner.causal_lm
        if sharded:
            causal_lm = from_config(causal_lm.config, seed=0)
            causal_lm.load_state_dict({name.removeprefix("causal_lm."): w for name, w in weights.items()})
        lm = SpokenLM(causal_lm, self.record, self.statistics(), str(self.accelerator.device))
        with atomic_directory(self.out / "samples" / f"step-{step:07d}") as folder:
            made = lm.continue_many(self.prompts, self.config.seconds, 0, Sampling(self.config.temperature))
            for number, codes in enumerate(made):
                self._write_one(folder / f"{number:02d}-{_file_name(codes.id)}", codes)
        inner.train()

    def _write_one(self, stem: Path, codes: Codes) -> None:
        if (tokenizer := self._decoder()) is not None:
            try:
                return write_wav(stem.with_name(stem.name + ".wav"), tokenizer.decode(codes))
            except (ValueError, AudioError) as error:  # a decoder's fault, such as NaN, is not to end the training
                self.accelerator.print(f"samples are codes, not audio: {error}")
                self._tokenizer, self._decodes = None, False
        np.save(stem.with_name(stem.name + ".npy"), codes.codes)

    def _decoder(self) -> Tokenizer | None:
        if self._tokenizer is None and self._decodes:
            try:
                self._tokenizer = load_tokenizer(self.record.tokenizer, str(self.accelerator.device))
            except (UsageError, OSError) as error:
                self.accelerator.print(f"samples are codes, not audio: {error}")
                self._decodes = False
        return self._tokenizer


def _file_name(id: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in id)[:80]
