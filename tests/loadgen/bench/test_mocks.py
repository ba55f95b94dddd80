"""What the mocks reach alone, and when it is measured anew."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from loadgen.bench import mocks


@pytest.mark.parametrize("left", ['{"key": "%s", "rps": 1}', '{"key": "another", "requests_per_s": 1}', "[]", "{"])
def test_a_cache_that_says_something_else_is_measured_anew(
    left: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was written by another version, for another machine, or not to its end."""

    def run(*_: object, **__: object) -> Any:
        return SimpleNamespace(stdout=json.dumps({"requests_per_cpu_s": 50_000, "events_per_cpu_s": 90_000}))

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(mocks, "_ceiling_key", lambda: "mine")
    cache = tmp_path / "mock-ceiling.json"
    cache.write_text(left.replace("%s", "mine"))
    assert mocks.ceiling(cache) == mocks.Ceiling(50_000, 90_000)
    assert json.loads(cache.read_text())["key"] == "mine"
