"""A folder of hostile input, in which each entry has an outcome."""

from tests.corpus.hostile import broken, entries, formats
from tests.corpus.hostile.base import CASES, Heard, LevelTokenizer

for put_cases in (
    formats.depths_channels_and_rates, formats.formats_of_sndfile, formats.formats_of_ffmpeg, broken.headers_that_lie,
    broken.cut_and_damaged, broken.around_an_mp3, broken.samples_that_are_none, broken.no_audio, entries.names,
    entries.entries, entries.three_hours,
):  # fmt: skip
    put_cases()

__all__ = ["CASES", "Heard", "LevelTokenizer"]
