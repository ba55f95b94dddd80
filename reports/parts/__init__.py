"""The eight parts of a report, one module each: `part(study)` says what stands in it.

A part reads a `Study` and returns blocks of `reports.page`; both writers do the rest. A new part is one module and its
line in `PARTS`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from reports.page import Figure, Part
from reports.parts import answer, claims, cost, faults, latency, memory, method, trust
from reports.study import Study

PARTS: Final[tuple[Callable[[Study], Part], ...]] = (
    answer.part,
    cost.part,
    latency.part,
    memory.part,
    faults.part,
    claims.part,
    trust.part,
    method.part,
)
"""Always all of them, always in this order; what was not measured says why."""


def figure(study: Study, name: str) -> Figure:
    """One figure of the report by name, for notebooks. KeyError if the campaign has no such figure."""
    for make in PARTS:
        for block in make(study).blocks:
            if isinstance(block, Figure) and block.name == name:
                return block
    raise KeyError(f"{name}: this campaign has no figure of that name")
