"""What stops a command before or while it works, as sentences for people, each with the exit code it ends in."""

from __future__ import annotations

import os
import signal

USAGE = os.EX_USAGE
BAD_INPUT = os.EX_DATAERR
MISSING = os.EX_UNAVAILABLE
INTERNAL = os.EX_SOFTWARE
INTERRUPTED = 128 + signal.SIGINT
NO_VALID_RUN = 3


class Refusal(Exception):
    """The command cannot go on. The message says what was wrong, where, and what to do; there is no traceback."""

    exit_code = INTERNAL


class UsageRefusal(Refusal):
    """What was typed makes no sense: an unknown target, options that contradict each other."""

    exit_code = USAGE


class BadInput(Refusal):
    """A file that was given cannot be used: it names file, key and value."""

    exit_code = BAD_INPUT


class Missing(Refusal):
    """Something needed is not there: a program, a trace, a free port, a folder."""

    exit_code = MISSING
