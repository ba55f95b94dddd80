"""One start of each proxy that the user typed a command for, before anything is measured.

A wrong option ends such a program at once; without a trial that was found out after the calibration and a round of the
other targets (113 s), as a row that says "did not start".
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

from loadgen.bench.mocks import Backends
from loadgen.campaign.voice import Voice
from loadgen.targets.process import ProcessTarget
from loadgen.targets.target import Target, Wiring


def try_out(targets: Iterable[Target], voice: Voice) -> None:
    """Starts and stops them, each in front of a mock. Raises ChildError with the last words of one that does not."""
    typed = [target for target in targets if isinstance(target, ProcessTarget) and target.given]
    if not typed:
        return
    with tempfile.TemporaryDirectory(prefix="proxy-engines-") as folder:
        mocks = Backends.start(1, Path(folder), None)
        try:
            for target in typed:
                voice.step(f"trying out {target.name}")
                target.start(Wiring(backends=mocks.urls, folder=Path(folder))).stop()
        finally:
            mocks.stop()
