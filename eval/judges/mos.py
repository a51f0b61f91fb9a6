"""Predictors of mean opinion scores: DNSMOS and DistillMOS out of installed packages, UTMOS by torch.hub.

None of them was trained on continuations of language models: they judge how clean and natural a recording sounds.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import contextmanager, redirect_stdout
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from eval.judges._dnsmos import FILES, DnsmosNetworks
from eval.judges.base import (
    Judge,
    JudgeRecord,
    MissingJudgeError,
    at_rate,
    in_equal_batches,
    need,
    tool,
)
from slm.types import AudioClip

if TYPE_CHECKING:
    from collections.abc import Iterator

RATE_HZ = 16_000
SHORTEST_S = 0.25
DISTILLMOS_WINDOW = 122_880  # samples: 7.68 s


class MosJudge(Judge):
    """`rate` gives one mapping a clip, from what is rated to its value; None for clips below `SHORTEST_S`. Clips of
    one length are rated together: padding would be heard."""

    batch_size = 8

    def rate(self, clips: Sequence[AudioClip]) -> list[dict[str, float] | None]:
        samples = [at_rate(clip, RATE_HZ).clip(-1, 1) for clip in clips]
        heard = [i for i, one in enumerate(samples) if len(one) >= SHORTEST_S * RATE_HZ]
        made: list[dict[str, float] | None] = [None] * len(clips)
        for batch in in_equal_batches([samples[i] for i in heard], self.batch_size):
            places = [heard[b] for b in batch]
            rated = self._rate(np.stack([samples[i] for i in places]))
            for place, one in zip(places, rated, strict=True):
                made[place] = one
        return made

    def _rate(self, samples: np.ndarray) -> list[dict[str, float]]:
        """Of each row of `[B, N]`."""
        raise NotImplementedError


class Dnsmos(MosJudge):
    """DNSMOS P.835 (overall, signal, background) and P.808, by the weights in Microsoft's own package."""

    def __init__(self, source: str = "", device: str = "cpu"):
        self.name, self.device = "dnsmos", device
        module = need("speechmos", "DNSMOS", "pip install --no-deps speechmos==0.0.1.1")
        self.networks = DnsmosNetworks(Path(module.__path__[0], "dnsmos_models"), device)

    def record(self) -> JudgeRecord:
        return JudgeRecord(tool("speechmos"), " and ".join(FILES), RATE_HZ,
                           "windows of 9.01 s by 1 s, averaged; shorter clips repeated")  # fmt: skip

    def _rate(self, samples: np.ndarray) -> list[dict[str, float]]:
        found = [self.networks.rate(one) for one in samples]
        return [{f"dnsmos_{part}": value for part, value in one.items()} for one in found]


class DistillMos(MosJudge):
    """DistillMOS (arXiv 2502.05356), by Microsoft's own package."""

    def __init__(self, source: str = "", device: str = "cpu"):
        self.name, self.device = "distillmos", device
        install = "pip install --no-deps distillmos==0.9.1 xls-r-sqa"
        with _torchaudio_or_stub(), open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
            self.model = need("distillmos", "DistillMOS", install).ConvTransformerSQAModel().to(device).eval()
        self.model.segmenting_in_forward = False

    def record(self) -> JudgeRecord:
        return JudgeRecord(tool("distillmos"), "distill_mos_v7", RATE_HZ,
                           "windows of 7.68 s by 1 s at most, averaged; shorter clips padded")  # fmt: skip

    def _rate(self, samples: np.ndarray) -> list[dict[str, float]]:
        """Window after window, at the places where the package has them: all at once, a minute would take 4 GB."""
        import torch

        beyond = max(0, samples.shape[1] - DISTILLMOS_WINDOW)
        samples = np.pad(samples, ((0, 0), (0, max(0, DISTILLMOS_WINDOW - samples.shape[1]))))
        starts = (np.linspace(0, 1, -(-beyond // RATE_HZ) + 1) * beyond).astype(int).tolist()
        with torch.inference_mode():
            heard = torch.from_numpy(samples).to(self.device)
            found = [self.model(heard[:, start : start + DISTILLMOS_WINDOW]).reshape(-1) for start in starts]
        return [{"distillmos": value} for value in torch.stack(found).mean(dim=0).tolist()]


class Utmos(MosJudge):
    """UTMOS (utmos22_strong, arXiv 2204.02152): a clone of github.com/tarepan/SpeechMOS, or what torch.hub has in its
    cache; `tarepan/SpeechMOS:v1.2.0`, given by name, is fetched. It is code of others that runs, so only then."""

    def __init__(self, source: str = "", device: str = "cpu"):
        import torch

        self.name, self.device = "utmos", device
        self.source = source or str(Path(torch.hub.get_dir(), "tarepan_SpeechMOS_v1.2.0"))
        how = "--judges.utmos tarepan/SpeechMOS:v1.2.0 (on line), or git clone https://github.com/tarepan/SpeechMOS DIR"
        is_local = Path(self.source).is_dir()
        if not source and not is_local:
            raise MissingJudgeError(f"UTMOS needs {how} and --judges.utmos DIR")
        try:
            where = "local" if is_local else "github"
            with _torchaudio_or_stub(), _without("speechmos"):
                made = torch.hub.load(self.source, "utmos22_strong", source=where, trust_repo=True, verbose=False)
        except (OSError, ImportError, RuntimeError, ValueError, KeyError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise MissingJudgeError(f"UTMOS needs {how} and --judges.utmos DIR ({reason})") from None
        self.model = made.to(device).eval()

    def record(self) -> JudgeRecord:
        return JudgeRecord("torch.hub", f"utmos22_strong of {self.source}", RATE_HZ, "whole clips")

    def _rate(self, samples: np.ndarray) -> list[dict[str, float]]:
        import torch

        with torch.inference_mode():
            found = self.model(torch.from_numpy(samples).to(self.device), RATE_HZ).reshape(len(samples))
        return [{"utmos": value} for value in found.tolist()]


MOS_JUDGES: dict[str, type[Dnsmos] | type[DistillMos] | type[Utmos]] = {
    "dnsmos": Dnsmos, "distillmos": DistillMos, "utmos": Utmos
}  # fmt: skip


@contextmanager
def _torchaudio_or_stub() -> Iterator[None]:
    """DistillMOS imports torchaudio to read files, UTMOS to resample; neither is needed here. Where it does not import,
    a module of that name stands in for it, for as long as the import takes. Left there, it would mislead others."""
    try:
        import torchaudio  # noqa: F401
    except (ImportError, OSError):
        stub = ModuleType("torchaudio")
        stub.__spec__ = ModuleSpec("torchaudio", None)  # torch.hub looks for it
        stub.functional = SimpleNamespace(resample=_at_one_rate)  # type: ignore[attr-defined]
        sys.modules["torchaudio"] = stub
        try:
            yield
        finally:
            sys.modules.pop("torchaudio", None)
    else:
        yield


def _at_one_rate(wave: Any, orig_freq: int, new_freq: int) -> Any:
    assert orig_freq == new_freq == RATE_HZ
    return wave


@contextmanager
def _without(package: str) -> Iterator[None]:
    """Another package of that name may be imported inside: UTMOS's code is called as DNSMOS's package is."""

    def named() -> list[str]:
        return [name for name in sys.modules if name == package or name.startswith(f"{package}.")]

    before = {name: sys.modules.pop(name) for name in named()}
    try:
        yield
    finally:
        for name in named():
            del sys.modules[name]
        sys.modules.update(before)
