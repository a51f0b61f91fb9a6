"""Where the clips of a corpus come from. `open_source(location)` finds the kind; each kind is one file."""

from slm.corpus.sources.base import SOURCES, Source, SourceClip, check_unique, list_clips, open_source, readable

__all__ = ["SOURCES", "Source", "SourceClip", "check_unique", "list_clips", "open_source", "readable"]
