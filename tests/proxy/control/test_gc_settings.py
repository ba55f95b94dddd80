"""The collector's settings. Each test runs in a fresh interpreter: a freeze is for the whole process."""

import json
import subprocess
import sys


def settled(**settings):
    code = (
        "import gc, json; from proxy.control.gc_settings import apply\n"
        f"before = gc.get_threshold(); frozen = gc.get_freeze_count(); heap = apply(**{settings!r})\n"
        "tracked = sum(1 for o in gc.get_objects() if type(o) is dict and o.keys() == {'row'})\n"
        "print(json.dumps({'heap': heap.as_json(), 'tracked': tracked, 'before': before, "
        "'frozen': frozen, 'alive': len(heap.ballast)}))"
    )
    return json.loads(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=60).stdout)


def test_by_default_nothing_changes():
    seen = settled(ballast=0, thresholds=None, freeze=False)
    # CPython 3.12 begins with some hundred immortal objects in the permanent generation.
    assert seen["heap"] == {"ballast": 0, "frozen": seen["frozen"], "thresholds": seen["before"]}


def test_ballast_is_live_tracked_objects_that_the_collector_must_walk():
    seen = settled(ballast=1000, thresholds=None, freeze=False)
    assert (seen["tracked"], seen["alive"]) == (1000, 1000)


def test_a_freeze_takes_the_ballast_out_of_the_collectors_sight():
    seen = settled(ballast=1000, thresholds=(5000, 20, 30), freeze=True)
    assert seen["tracked"] == 0
    assert seen["alive"] == 1000
    assert seen["heap"]["frozen"] > 2000
    assert seen["heap"]["thresholds"] == [5000, 20, 30]
