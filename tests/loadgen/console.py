"""The console script in this process."""

from __future__ import annotations

from unittest import mock

from loadgen import cli


def console(words: list[str]) -> int:
    """Its exit code."""
    with mock.patch("sys.argv", ["proxy-engines", *words]):
        try:
            cli.main()
        except SystemExit as exc:
            return exc.code if isinstance(exc.code, int) else 1


def gate(words: list[str]) -> int:
    """The exit code of `proxy-engines gate`."""
    return console(["gate", *words])
