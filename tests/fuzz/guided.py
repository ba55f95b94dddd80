"""Coverage-guided fuzzing of the wire code and of the load generator's parsers, with atheris.

    pip install atheris              (Linux, CPython; no dependency of the project)
    python -m tests.fuzz.guided [--seconds 900] [--corpus DIR] [PROPERTY ...]

The seconds are shared among the properties of tests/fuzz/properties.py. The kept corpus is in tests/fuzz/corpus; what
libFuzzer finds new goes to `--corpus` (a temporary folder if it is not given). A finding is written there as
`PROPERTY-crash-...`, and makes the exit code 1. Kept inputs are run by `pytest tests/fuzz`, without atheris.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

KEPT = Path(__file__).parent / "corpus"
MODULES = (
    "proxy.http1.heads",
    "proxy.http1.chunked",
    "proxy.http1.gate",
    "proxy.http1.recall",
    "loadgen.wire.stream",
    "loadgen.wire.whole",
    "loadgen.workload.trace",
    "loadgen.workload.trace_file",
    "loadgen.workload.trace_format",
    "tests.fuzz.strict",
)


def fuzz(name: str, arguments: Sequence[str]) -> None:
    """Fuzz one property in this process. libFuzzer ends the process itself."""
    import atheris  # only here: everything else works without it

    with atheris.instrument_imports(include=list(MODULES)):
        from tests.fuzz.properties import PROPERTIES
    check = PROPERTIES[name]
    atheris.Setup([sys.argv[0], *arguments], check)
    atheris.Fuzz()


def main(argv: Sequence[str] | None = None) -> int:
    """Run each property in a process of its own, one after the other."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.guided", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("properties", nargs="*", metavar="PROPERTY", help="default: all")
    parser.add_argument("--seconds", type=int, default=900, help="for all of them together (default: 900)")
    parser.add_argument("--corpus", type=Path, help="where new inputs and findings are kept")
    parser.add_argument("--inside", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.inside:
        fuzz(options.inside[0], options.inside[1:])
        return 0
    try:
        import atheris  # noqa: F401  # said here once, not five times below
    except ImportError:
        parser.error("atheris is not installed: pip install atheris")
    from tests.fuzz.properties import PROPERTIES

    names = options.properties or list(PROPERTIES)
    if unknown := [name for name in names if name not in PROPERTIES]:
        parser.error(f"{unknown[0]}: no such property; there are {', '.join(PROPERTIES)}")
    folder = options.corpus or Path(tempfile.mkdtemp(prefix="fuzz-"))
    found = []
    for name in names:
        new = folder / name
        new.mkdir(parents=True, exist_ok=True)
        (KEPT / name).mkdir(parents=True, exist_ok=True)
        limits = [f"-max_total_time={max(1, options.seconds // len(names))}", "-max_len=4096", "-timeout=20"]
        command = [sys.executable, "-m", "tests.fuzz.guided", "--inside", name, str(new), str(KEPT / name), *limits]
        code = subprocess.run([*command, f"-artifact_prefix={folder / name}-"], check=False).returncode
        if code:
            found.append(name)
    print(f"{len(names) - len(found)} of {len(names)} properties held; inputs are in {folder}")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
