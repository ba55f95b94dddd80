"""What holds for all tests: none depends on speed, and which of them need the machine's cores for themselves."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# No test fails because a machine is slow; what hangs is ended by pytest-timeout.
settings.register_profile("any-machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any-machine")

HERE = Path(__file__).parent

# These hold times of their own against times of the machine, or load real model servers.
ALONE = (
    "end_to_end/test_recorders.py",
    "loadgen/driver/test_driver.py",
    "real",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what must run alone; `make test` runs the rest in parallel, and then these."""
    alone = tuple(HERE / name for name in ALONE)
    for item in items:
        if any(item.path == place or place in item.path.parents for place in alone):
            item.add_marker(pytest.mark.alone)
