"""Headers with keys for targets that run already: the values come from the environment or a file, and go nowhere else.

What was typed is kept in campaign.json and in the shell's history, so a value is never typed: `$NAME` stands for a
variable, `@FILE` for the first line of a file. The driver gets the values through its environment; no file holds them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from loadgen.errors import Missing, UsageRefusal
from loadgen.workload.job import RESERVED_HEADERS

VARIABLE: Final = "PROXY_ENGINES_HEADERS"
"""The driver's environment: a JSON object of headers for every request."""

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_PLACE = re.compile(r"\$(\w+)|@(\S+)$")
_FORM = "write 'NAME: ... $VARIABLE' in single quotes, or 'NAME: ... @FILE'"


def headers(texts: Sequence[str], variables: Mapping[str, str]) -> dict[str, str]:
    """`--header 'Authorization: Bearer $KEY'`. Raises UsageRefusal or Missing; no message repeats a value."""
    found: dict[str, str] = {}
    for text in texts:
        name, colon, value = text.partition(":")
        if not colon or not _NAME.fullmatch(name.strip()):
            raise UsageRefusal(f"--header: {_FORM}")
        name = name.strip()
        if name.lower() in RESERVED_HEADERS:
            raise UsageRefusal(f"--header {name}: is set by the driver itself")
        if not _PLACE.search(value):
            raise UsageRefusal(f"--header {name}: a value typed here would be kept in files; {_FORM}")
        if name.lower() in {known.lower() for known in found}:
            raise UsageRefusal(f"--header {name}: is given twice")
        found[name] = _filled(name, value.strip(), variables)
    return found


def _filled(name: str, value: str, variables: Mapping[str, str]) -> str:
    def place(match: re.Match[str]) -> str:
        variable, file = match[1], match[2]
        if variable is not None:
            if not variables.get(variable):
                raise Missing(f"--header {name}: the variable {variable} is not set")
            return variables[variable]
        try:
            return Path(file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as exc:
            raise Missing(f"--header {name}: {file}: cannot be read: {exc}") from exc

    filled = _PLACE.sub(place, value)
    if not filled.isascii() or any(ord(letter) < 32 or ord(letter) == 127 for letter in filled):
        raise UsageRefusal(f"--header {name}: its value holds letters that no header may have, or several lines")
    return filled


def handed_over(found: Mapping[str, str]) -> dict[str, str]:
    """The environment of a driver that sends these headers."""
    return {VARIABLE: json.dumps(dict(found))} if found else {}
