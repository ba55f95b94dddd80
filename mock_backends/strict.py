"""What all data read from people has in common: unknown keys are refused, and errors are sentences."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator


class Refused(Exception):
    """Input that cannot be used. The message is for people: what was wrong, where, what to do."""


class Strict(BaseModel):
    """A frozen model that names the nearest known key when it meets an unknown one."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _known_keys_only(cls, data: Any) -> Any:
        if isinstance(data, Mapping):
            for key in data:
                if key not in cls.model_fields:
                    raise ValueError(f"unknown key {key!r}; {nearest(str(key), cls.model_fields)}")
        return data


def nearest(word: str, known: Mapping[str, Any] | list[str]) -> str:
    """ "did you mean ..." or, with nothing near, all that is known."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"did you mean {close[0]!r}?" if close else f"known are {', '.join(known)}"


def sentences(error: ValidationError, source: str) -> str:
    """One line for each thing wrong: `source: key.path: what`."""
    lines = []
    for item in error.errors(include_url=False):
        path = ".".join(str(part) for part in item["loc"])
        what = item["msg"].removeprefix("Value error, ")
        lines.append(f"{source}: {path}: {what}" if path else f"{source}: {what}")
    return "\n".join(dict.fromkeys(lines))
