"""Transformers' table of weights that a checkpoint lacks, left out where a line of ours says it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

_LOGGER = "transformers.modeling_utils"
_TITLE = "LOAD REPORT"


@contextmanager
def refused_in_a_line(*refusals: type[Exception]) -> Iterator[None]:
    """Keeps the table back until it is known what becomes of the checkpoint: it is left out where one of `refusals` is
    raised for its own sake, and comes where all goes well, or what went wrong was an error of transformers, which may
    point to it. Nothing else that is logged waits."""
    refused, kept = False, list[logging.LogRecord]()
    try:
        with _kept_back(kept):
            yield
    except refusals as error:
        refused = error.__cause__ is None
        raise
    finally:
        for record in [] if refused else kept:
            logging.getLogger(_LOGGER).handle(record)


@contextmanager
def without_table() -> Iterator[None]:
    """Leaves it out: of a model that is meant to be loaded in part."""
    with _kept_back([]):
        yield


@contextmanager
def _kept_back(kept: list[logging.LogRecord]) -> Iterator[None]:
    logger = logging.getLogger(_LOGGER)

    def passes(record: logging.LogRecord) -> bool:
        if _TITLE not in record.getMessage():
            return True
        kept.append(record)
        return False

    logger.addFilter(passes)
    try:
        yield
    finally:
        logger.removeFilter(passes)
