"""x real time of the tokenizers that need no download, on the speech shipped here, beside reading alone.

    python -m bench.tokenizer_speed [threads]

Reading (decode, mix down, resample) is timed by itself; encoding is timed on clips already in memory.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from slm.audio import find_audio, read_audio
from slm.errors import UsageError
from slm.tokenizers import load_tokenizer
from slm.types import AudioClip

SPEECH = Path(__file__).parents[1] / "tests" / "data" / "speech"
TOKENIZERS = ["codec2-700c", "logmel-kmeans", "configs/tokenizers/whisper-tiny.en-l3-k100.yaml"]


def main(threads: int = 1) -> None:
    import torch

    torch.set_num_threads(threads)
    files = find_audio(SPEECH)
    print(f"{'tokenizer':<52} {'reading':>12} {'encoding':>12}   ({threads} thread{'s' if threads > 1 else ''})")
    for name in TOKENIZERS:
        try:
            tokenizer = load_tokenizer(name)
        except UsageError as error:
            print(f"{name:<52} left out: {error}")
            continue
        rate = tokenizer.spec.sample_rate_hz
        start = time.perf_counter()
        clips = [AudioClip(f.stem, read_audio(f, rate), rate) for f in files]
        read = time.perf_counter() - start
        audio_s = sum(c.duration_s for c in clips)
        tokenizer.encode(clips[:2])
        start = time.perf_counter()
        tokenizer.encode(clips)
        encoded = time.perf_counter() - start
        print(f"{name:<52} {audio_s / read:10,.0f} x {audio_s / encoded:10,.0f} x")


if __name__ == "__main__":
    main(*(int(a) for a in sys.argv[1:2]))
