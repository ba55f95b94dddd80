"""Runs one command so that it cannot outlive the process that started it, on the cores it was given.

    python -I -S leash.py PARENT_PID CORES COMMAND...        CORES: `0,2`, or `-` for all

A program of its own because Popen's `preexec_fn` is not safe in a process with threads, and because what is set here is
kept over `execve`: the command gets this process's pid. Standard library only; it costs about 20 ms.
"""

import ctypes
import os
import resource
import signal
import sys

_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Never returns: becomes the command, or exits with 127 and a sentence on stderr."""
    parent, cores, *command = arguments
    # The kernel sends SIGTERM (so that a master stops its workers) when the thread that started us is gone.
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(parent):  # gone before the line above took effect
        sys.exit(1)
    # 2,000 streams are 4,000 sockets in a proxy; the usual soft limit of 1,024 files is not the subject here.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if cores != "-":
        os.sched_setaffinity(0, {int(core) for core in cores.split(",")})
    try:
        os.execvp(command[0], command)
    except OSError as exc:
        sys.stderr.write(f"{command[0]}: cannot be started: {exc.strerror}\n")
        sys.exit(127)


if __name__ == "__main__":
    main(sys.argv[1:])
