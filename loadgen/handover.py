"""Verbs of other packages: this process becomes one of them, so that an engine carries no harness in memory, and no
package imports another's command line."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from loadgen.errors import Missing

# Verb -> (module, the words before what was typed, help).
ELSEWHERE: dict[str, tuple[str, tuple[str, ...], str]] = {
    "serve": ("proxy", ("serve",), "Run an engine (Sherpa or Olla) in front of LLM servers."),
    "mock": ("mock_backends", (), "Run mock LLM servers with known bytes, times and faults."),
    "report": ("reports", ("report",), "Build the report of a campaign from its files."),
    "publish": ("reports", ("publish",), "Put a campaign where it is committed, and refresh the documents."),
    "choose": ("reports", ("choose",), "Advice which engine to use, from stored campaigns."),
}


def become(verb: str, arguments: Sequence[str]) -> NoReturn:
    """Replaces this process by the package that owns `verb`; `arguments` are passed on untouched."""
    module, words, _ = ELSEWHERE[verb]
    # -P: the current folder is not searched for modules. It usually holds a folder called `reports`.
    os.execv(sys.executable, [sys.executable, "-P", "-m", module, *words, *arguments])


def become_tool(module: str, arguments: Sequence[str]) -> NoReturn:
    """Replaces this process by a module of `tests`, which is not installed. Raises Missing outside a clone."""
    clone = Path(__file__).parents[1]
    if not clone.joinpath(*module.split(".")).with_suffix(".py").exists():
        raise Missing(f"{module} is not installed; clone the repository and run this there, from its .venv")
    os.chdir(clone)
    os.execv(sys.executable, [sys.executable, "-m", module, *arguments])
