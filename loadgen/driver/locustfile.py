"""A plain locustfile: Locust's own command line and web page drive a job, in one process.

    PROXY_ENGINES_JOB=JOB.json locust -f loadgen/driver/locustfile.py --headless

`PROXY_ENGINES_OUT` is where the rows go, instead of the job's own `out`. How many users there are and when the test
ends follows from the job.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from locust import events
from locust.runners import LocalRunner

from loadgen.driver.conductor import Conductor, DriverUser, JobShape
from loadgen.workload.job import JobError, load_job
from loadgen.workload.plan import load_plan

__all__ = ["DriverUser", "JobShape"]

if "PROXY_ENGINES_JOB" not in os.environ:
    sys.exit("set PROXY_ENGINES_JOB to the JOB.json that shall be driven")
try:
    _job = load_job(Path(os.environ["PROXY_ENGINES_JOB"]))
    _plan = None if _job.plan is None else load_plan(_job.plan, _job)
except JobError as exc:
    sys.stderr.write(f"{exc}\n")
    sys.exit(65)


@events.init.add_listener  # type: ignore[untyped-decorator]  # Locust has no type information
def _conduct(environment: Any, **_: Any) -> None:
    if not isinstance(environment.runner, LocalRunner):
        sys.exit("a job is driven by one process: leave out --master, --worker and --processes")
    Conductor(environment, _job, _plan, Path(os.environ.get("PROXY_ENGINES_OUT", _job.out)))
