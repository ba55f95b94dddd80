"""`proxy-engines scenarios pin`: asks fresh mocks for every scenario's replies and pins the digests in pins.json.

With the pins a mock and a proxy cannot be wrong together: a mock whose replies changed is noticed by the first check of
any campaign, and by the tests. Run it when a change of replies is meant, and look at the difference.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

from loadgen.bench.child import ChildError
from loadgen.bench.mocks import Backends
from loadgen.bench.reply import ask_once, what_is_wrong
from loadgen.errors import BadInput
from loadgen.workload.scenario import FOLDER, PINS, Reply, Scenario, catalogue

Pin = dict[str, str | int] | None


def ask(scenario: Scenario, backends: Backends) -> list[Pin]:
    """What each request of `scenario` is answered with; None where replies differ from request to request.

    Raises BadInput if the mocks refuse the scenario, or if a reply is not what the mock itself says it is.
    """
    try:
        backends.behave(scenario.mock)
    except ChildError as exc:
        raise BadInput(f"{scenario.id}: mock: the mocks refuse it: {exc}") from exc
    pins: list[Pin] = []
    for request in scenario.requests:
        if not request.always_the_same:
            pins.append(None)
            continue
        # The expectations of the old pins are left out: this is where new ones come from.
        template = request.model_copy(update={"expect": Reply(status=request.expect.status)}).template()
        reply = ask_once(backends.urls[0], template, scenario.prompt_bytes or 64, scenario.output_tokens or 8)
        wrong = what_is_wrong(reply, template, from_mock=True)
        if wrong is not None:
            raise BadInput(f"{scenario.id}: {wrong}")
        pins.append({"digest": reply.digest, "events": reply.events})
    return pins


def ask_all() -> dict[str, list[Pin]]:
    """The pins of every scenario of the catalogue, from mocks started for it."""
    with tempfile.TemporaryDirectory() as folder:
        backends = Backends.start(64, Path(folder), None)
        try:
            return {scenario.id: ask(scenario, backends) for scenario in catalogue().values()}
        finally:
            backends.stop()


def write() -> str:
    """Writes the file; returns what was done, for people."""
    path = FOLDER / PINS
    pins = ask_all()
    path.write_text(json.dumps(pins, indent=1) + "\n", encoding="utf-8")
    return f"{path}: {sum(pin is not None for each in pins.values() for pin in each)} replies pinned"
