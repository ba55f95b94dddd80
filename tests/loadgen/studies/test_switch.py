"""The command that prices one config key: what it reads, plans and concludes. wrk itself is not run here."""

from __future__ import annotations

import pytest

from loadgen.errors import MISSING, USAGE, UsageRefusal
from loadgen.studies import switch
from reports.compare import Comparison
from reports.schema import RunRecord
from reports.summarise import Facts, Value


def test_an_arm_is_one_or_several_keys_with_yaml_values():
    assert switch.settings_of("runtime.recorders=false") == {"runtime.recorders": False}
    assert switch.settings_of("proxy.buffer_size=8192,server.loop=asyncio") == {
        "proxy.buffer_size": 8192,
        "server.loop": "asyncio",
    }


@pytest.mark.parametrize("text", ["runtime.recorders", "=false", ""])
def test_an_arm_without_key_or_value_is_refused(text):
    with pytest.raises(UsageRefusal, match="KEY=VALUE"):
        switch.settings_of(text)


def test_the_engine_as_it_is_comes_first_and_each_arm_is_a_variant_of_it():
    first, second = switch.targets_of("olla", ["proxy.pools.buffers=false,server.loop=asyncio"])
    assert (first.name, first.kind) == ("olla", "engine")
    assert (second.kind, second.variant_of) == ("variant", "olla")
    assert second.settings["proxy.pools.buffers"] is False
    assert second.switches == {"proxy.pools.buffers": False, "server.loop": "asyncio"}


def campaign(*, cheaper: float, idle: float) -> Comparison:
    """Three drifting rounds of olla, of a variant that needs `cheaper` of its CPU, and of olla again."""
    valid = {}
    for name, share, idle_ns in (("olla", 1.0, 6e6), ("k=v", cheaper, idle), ("olla@aa", 1.0, 6e6)):
        runs = []
        for number, us in enumerate((10.0, 20.0, 15.0), 1):
            record = RunRecord(run=f"r{number}", scenario="w1", target=name, round=number, idle_cpu_ns_per_s=idle_ns)
            rate = 0.9 * 1e6 / (us * share)
            runs.append(Facts(record, {"throughput_rps": Value(rate)}, {"utilisation": 0.9}))
        valid["w1", name] = tuple(runs)
    return Comparison("olla", (), valid, {})


def test_the_change_is_paired_by_round_so_that_drift_of_the_machine_cancels():
    lines = switch.lines_of(campaign(cheaper=0.9, idle=1e6), "w1", "olla", ["k=v"])
    assert lines[0] == "olla: 14.42 us of CPU per request at 90% of its core, 0.60% of a core when idle"
    assert "per request -10.00% (95 % CI -10.00% .. -10.00%), 3 rounds" in lines[1]
    assert "when idle -0.50% of a core" in lines[1]
    assert "per request +0.00%" in lines[2]  # the engine against itself


def test_an_arm_without_a_valid_run_says_so():
    lines = switch.lines_of(Comparison("olla", (), {}, {}), "w1", "olla", ["k=v"])
    assert lines == ["olla: no valid run", "k=v: no valid run", "olla@aa: no valid run"]


def test_without_wrk_it_says_how_to_get_it(monkeypatch, capsys):
    monkeypatch.setattr(switch.wrk, "installed", lambda: False)
    assert switch.main(["runtime.recorders=false"]) == MISSING
    assert "wrk is not installed" in capsys.readouterr().err


def test_an_unknown_scenario_is_a_usage_error(capsys):
    assert switch.main(["runtime.recorders=false", "--scenario", "w9"]) == USAGE
    assert "w9" in capsys.readouterr().err
