"""The page about tokenizers is current: its table is the generated one, and it has the frame rule of each."""

from __future__ import annotations

import re
from pathlib import Path

from slm.tokenizers._catalogue import markdown
from slm.tokenizers.database import records

PAGE = Path(__file__).parents[1] / "docs" / "tokenizers.md"
MARKS = re.compile(r"(<!-- table: python -m slm.tokenizers --markdown -->\n)(.*?)(<!-- end of the table -->)", re.S)


def test_the_table_is_the_generated_one() -> None:
    found = MARKS.search(PAGE.read_text(encoding="utf-8"))
    assert found
    expected = "\n".join(["", *markdown(records()), "", ""])
    assert found[2] == expected, "renew the table in docs/tokenizers.md: python -m slm.tokenizers --markdown"


def test_each_tokenizer_has_a_frame_rule() -> None:
    rules = PAGE.read_text(encoding="utf-8").split("## How many frames")[1].split("\n## ")[0]
    named = set(re.findall(r"[\w-]+", " ".join(line.split("|")[1] for line in rules.splitlines() if "|" in line)))
    assert {row.loads.split("-")[0] if row.family == "Codec2" else row.loads for row in records() if row.loads} <= named
