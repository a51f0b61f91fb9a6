"""A part of the shards of a corpus, for runs that share the work without knowing of each other."""

from __future__ import annotations

from dataclasses import dataclass

from slm.errors import UsageError


@dataclass(frozen=True)
class Part:
    """Part `index` (from 0) of `count`: every `count`-th shard."""

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Part:
        """`"2/8"`; UsageError for anything else."""
        index, _, count = text.partition("/")
        if not (index.isdecimal() and count.isdecimal() and int(index) < int(count)):
            raise UsageError(f"--shard_range {text} is no i/n with i from 0 to n - 1: give 0/8 to 7/8 for eight parts")
        return cls(int(index), int(count))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @property
    def file_name(self) -> str:
        return f"{self.index}-of-{self.count}"

    def has(self, shard: int) -> bool:
        return shard % self.count == self.index
