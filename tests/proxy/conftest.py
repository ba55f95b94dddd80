"""What the tests of the proxy share."""

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """`serve` sets up logging for the whole process, with a handler on the stderr of that moment."""
    loggers = [logging.getLogger(name) for name in ("proxy", "asyncio", "aiohttp")]
    before = [(logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    yield
    for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
        logger.handlers[:], logger.level, logger.propagate = handlers, level, propagate
