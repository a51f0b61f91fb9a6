"""What each unit of each item got: the long table beside the sums, for conventions that look at a part of an item."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class FrameLikelihoods:
    """For each item: `log_probs [R, K]` of its units, nats, and `starts [R + 1]`, the frames at which they begin, and
    how many there are. `eos_sums`, `eos_counts` `[N, K]` are those of `Likelihoods`."""

    log_probs: tuple[np.ndarray, ...]
    starts: tuple[np.ndarray, ...]
    eos_sums: np.ndarray
    eos_counts: np.ndarray
    frame_rate_hz: float

    def within(self, rows: np.ndarray, seconds: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Sums, counts, eos_sums, eos_counts `[N, K]` of what begins within `seconds` from unit `rows [N]` on. The end
        of an item begins when its last frame is over."""
        sums, counts = np.zeros(self.eos_sums.shape), np.zeros(self.eos_sums.shape)
        ending = np.zeros((len(sums), 1))
        for i, (values, starts, row) in enumerate(zip(self.log_probs, self.starts, rows.tolist(), strict=True)):
            limit = starts[row] + seconds * self.frame_rate_hz - 1e-6
            upto = int(np.searchsorted(starts[:-1], limit))
            sums[i], counts[i] = values[row:upto].sum(axis=0), max(0, upto - row)
            ending[i] = starts[-1] < limit
        return sums, counts, self.eos_sums * ending, self.eos_counts * ending

    def to_table(self, items: tuple[str, ...]) -> pa.Table:
        """One row for each item, unit and codebook, and one for each end, whose frame is the number of frames."""
        import pyarrow as pa

        columns: dict[str, list[np.ndarray]] = {"codebook": [], "frame": [], "is_end": [], "log_prob_nats": []}
        lengths = []
        for i, (values, starts) in enumerate(zip(self.log_probs, self.starts, strict=True)):
            books, ends = values.shape[1], np.flatnonzero(self.eos_counts[i])
            columns["codebook"] += [np.tile(np.arange(books), len(values)), ends]
            columns["frame"] += [np.repeat(starts[:-1], books), np.repeat(starts[-1:], len(ends))]
            columns["is_end"] += [np.zeros(values.size, bool), np.ones(len(ends), bool)]
            columns["log_prob_nats"] += [values.reshape(-1).astype(np.float64), self.eos_sums[i, ends]]
            lengths.append(values.size + len(ends))
        types = {"codebook": np.int16, "frame": np.int32}
        item = pa.array(np.repeat(np.arange(len(items), dtype=np.int32), lengths))
        made = {name: np.concatenate(parts).astype(types.get(name, parts[0].dtype)) for name, parts in columns.items()}
        return pa.table({"item": pa.DictionaryArray.from_arrays(item, pa.array(items, pa.string())), **made})

    @classmethod
    def from_table(cls, table: pa.Table, counts: np.ndarray, eos_sums: np.ndarray, eos_counts: np.ndarray,
                   frame_rate_hz: float) -> FrameLikelihoods:  # fmt: skip
        """The inverse of `to_table`; `counts [N, K]` of units, `eos_sums` and `eos_counts` are those of the items."""
        frame, values = table.column("frame").to_numpy(), table.column("log_prob_nats").to_numpy()
        log_probs, starts, at = [], [], 0
        for units, books, ends in zip(
            counts[:, 0], [counts.shape[1]] * len(counts), eos_counts.sum(axis=1), strict=True
        ):
            upto = at + int(units) * books
            log_probs.append(values[at:upto].reshape(-1, books))
            # Without an end nothing says how long the last unit lasts, and nothing asks.
            last = frame[upto] if ends else frame[upto - 1] + 1
            starts.append(np.append(frame[at:upto:books], last).astype(np.int64))
            at = upto + int(ends)
        return cls(tuple(log_probs), tuple(starts), eos_sums, eos_counts, frame_rate_hz)
