"""Help of every verb: one form, and the same words for the same option. `help.txt` is what people see, 100 wide.

After a change on purpose: UPDATE_HELP=1 pytest tests/loadgen/test_help.py
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

VERBS = [
    "", "compare", "limit", "trace", "micro", "serve", "mock", "report", "publish", "choose",
    "gate", "gate trend",
    "verify", "verify driver", "verify overload", "verify mocks", "verify sensitivity", "verify crosscheck",
    "verify calibration", "scenarios", "scenarios list", "scenarios show", "scenarios pin",
]  # fmt: skip
TRANSCRIPT = Path(__file__).with_name("help.txt")
PLAIN = {"COLUMNS": "100", "TERMINAL_WIDTH": "100", "NO_COLOR": "1", "TERM": "dumb", "PYTHONPATH": ""}


HEADING = "$ proxy-engines "


def page_of(verb: str) -> str:
    """The help of a verb, as a person sees it."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "loadgen", *verb.split(), "--help"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **PLAIN},
    )
    assert done.returncode == 0, done.stderr
    return "\n".join(line.rstrip() for line in done.stdout.strip("\n").splitlines()) + "\n"


@pytest.fixture
def pages() -> dict[str, str]:
    """Verb -> its help, from the transcript: that it is what people see is the first test's."""
    told = TRANSCRIPT.read_text(encoding="utf-8").removeprefix(HEADING).split(f"\n{HEADING}")
    found = {}
    for page in told:
        typed, _, text = page.partition("\n")
        found[typed.removesuffix("--help").strip()] = text
    assert list(found) == VERBS
    return found


def test_each_verbs_help_is_the_one_in_the_transcript() -> None:
    text = "\n".join(f"{HEADING}{' '.join([*verb.split(), '--help'])}\n{page_of(verb)}" for verb in VERBS)
    if os.environ.get("UPDATE_HELP"):
        TRANSCRIPT.write_text(text, encoding="utf-8")
    assert text == TRANSCRIPT.read_text(encoding="utf-8")


def test_each_verbs_help_begins_with_how_it_is_typed_and_says_what_it_does(pages: dict[str, str]) -> None:
    for verb, page in pages.items():
        blocks = [block.strip() for block in page.split("\n\n") if block.strip()]
        assert f"{blocks[0]} ".startswith(f"Usage: proxy-engines {verb}".rstrip() + " "), verb
        says = blocks[1].partition("╭")[0].strip()
        assert says[0].isupper(), (verb, says)
        assert says[-1] in ".?;", (verb, says)
        assert "Show this message and exit." in page, verb


def options_of(page: str) -> dict[str, str]:
    """Option -> the first line of its words."""
    found = re.findall(r"^[│ *]+(?:-h, )?(--[a-z-]+) +(?:(?:<[^>]*>|[A-Z_=]{2,}) +)?(.*?)[│ ]*$", page, re.MULTILINE)
    return {option: words.strip() for option, words in found}


def test_an_option_is_told_in_the_same_words_wherever_it_is_the_same(pages: dict[str, str]) -> None:
    for option in ("--help", "--resume", "--dry-run", "--json"):
        told = {known[option] for page in pages.values() if option in (known := options_of(page))}
        assert len(told) == 1, (option, told)
