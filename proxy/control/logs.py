"""Logs: one JSON object a line on stderr, and nothing in it that could forge a line or give a secret away.

`server.log_level` decides what is written. Fields given by `extra={"fields": {...}}` stand beside the message.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Mapping
from typing import Any

# Masked wherever they appear: credentials sent as a header, and query values whose name says that they are a key. The
# name stays, so that a line can still be read. Every repeat is bounded or anchored: the time is linear in the text.
_HEADER = re.compile(
    r"(?i)((?:proxy-)?authorization|x-api-key|api-key|(?:set-)?cookie)(['\"]?\s{0,8}[:=,]\s{0,8}['\"]?)[^\r\n,'\"}]+"
)
_SCHEME = re.compile(r"(?i)\b(bearer|basic)(\s{1,8})[A-Za-z0-9._~+/=-]{6,}")
_OPENAI_KEY = re.compile(r"\bsk-[A-Za-z0-9_-]{8,}")
_ASSIGNMENT = re.compile(r"(?<![\w.%-])([\w.%-]{1,64})=([^&\s\"'#;]+)")
_KEY_LIKE = re.compile(r"(?i)key|token|secret|passw(?:or)?d|signature|credential|auth")


def redact(text: str) -> str:
    """`text` with credentials and key-like query values masked."""
    text = _HEADER.sub(r"\1\2***", text)
    text = _SCHEME.sub(r"\1\2***", text)
    text = _OPENAI_KEY.sub("***", text)
    return _ASSIGNMENT.sub(_masked, text)


def _masked(assignment: re.Match[str]) -> str:
    return f"{assignment[1]}=***" if _KEY_LIKE.search(assignment[1]) else assignment[0]


def line(fields: Mapping[str, Any]) -> str:
    """One line of JSON. Control characters, also DEL and those of C1, are escaped; non-ASCII text is, too."""
    return json.dumps(fields, default=str, separators=(",", ":")).replace("\x7f", "\\u007f")


class JsonFormatter(logging.Formatter):
    """Formats a record as `{"time", "level", "logger", "message", ...fields}`. `constant` fields are on every line."""

    def __init__(self, constant: Mapping[str, Any]) -> None:
        super().__init__()
        self._constant = dict(constant)

    def format(self, record: logging.LogRecord) -> str:
        """One line; an exception's traceback, where there is one, is a field of it."""
        fields: dict[str, Any] = {
            "time": timestamp(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            **self._constant,
            "message": redact(record.getMessage()),
        }
        for name, value in getattr(record, "fields", {}).items():
            fields[name] = redact(value) if isinstance(value, str) else value
        if record.exc_info:
            fields["traceback"] = redact(self.formatException(record.exc_info))
        return line(fields)


def set_up(level: str, **constant: Any) -> None:
    """Send everything below the `proxy` logger, and asyncio's warnings, to stderr as JSON lines."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter(constant))
    for name, threshold in (("proxy", level), ("asyncio", "warning"), ("aiohttp", "warning")):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.propagate = False
        logger.setLevel(threshold.upper())


def timestamp(seconds: float) -> str:
    """`seconds` since 1970 as every line has them: RFC 3339, UTC, milliseconds."""
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{int(seconds % 1 * 1000):03d}Z"
