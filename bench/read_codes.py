"""Reading codes for training: the mapped view of `slm.data.store` against `datasets`' own row access (numpy format).

    python -m bench.read_codes [--clips 2000]

Both read every clip of one corpus once, in the same random order; the sums of all codes must agree.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from datasets import load_from_disk

from slm.data.store import CodeStore
from tests.fakes import ArithmeticTokenizer, random_codes, write_corpus


def main(clips: int) -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(50, 1500, clips).tolist()
    order = rng.permutation(clips).tolist()
    with tempfile.TemporaryDirectory() as folder:
        path = write_corpus(Path(folder) / "corpus", random_codes(ArithmeticTokenizer(8, 1024), lengths))
        rows = load_from_disk(str(path)).with_format("numpy")
        timings = {}
        for name, opened, read in [
            ("slm.data.store", lambda: CodeStore(path), lambda store, i: store.codes(i)),
            ("datasets, numpy format", lambda: rows, lambda data, i: np.stack(data[i]["codes"])),
        ]:
            start = time.perf_counter()
            source = opened()
            total = sum(int(read(source, i).sum()) for i in order)
            timings[name] = (time.perf_counter() - start, total)
    assert len({total for _, total in timings.values()}) == 1, "the two readers disagree"
    ours = timings["slm.data.store"][0]
    print(f"{clips} clips, {sum(lengths):,} frames x 8 codebooks, random order")
    for name, (seconds, _) in timings.items():
        print(f"{name:<24} {seconds * 1e6 / clips:10.1f} us a clip   x{seconds / ours:.1f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=2000, help="of the corpus (default: 2000)")
    main(parser.parse_args().clips)
