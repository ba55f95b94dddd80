"""The command that prices one config key: what it reads, sends and concludes. wrk itself is not run here."""

from __future__ import annotations

import math

import pytest

from loadgen import switch
from loadgen.driver.job import PROMPT_MARK, Expect, Template
from loadgen.errors import MISSING, USAGE, UsageRefusal
from loadgen.switch import AGAIN, AS_IT_IS, Run


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


def test_the_script_sends_the_scenarios_request_whatever_bytes_it_holds():
    template = Template("/v1/x", "POST", {"X-Quote": 'a"b\\'}, f'{{"p":"{PROMPT_MARK}"}}', False, Expect(200))
    script = switch.script_of(template, 3)
    assert 'wrk.method = "POST"' in script
    assert r"\123\034p\034:\034xxx\034\125" in script  # {"p":"xxx"} as decimal escapes
    assert r'wrk.headers["X-Quote"] = "a\034b\092"' in script


def runs(*us: float, idle: float = 0.005) -> list[Run]:
    return [Run(1000, 2000.0, round(one * 1e6), 0.02, idle) for one in us]


def test_the_change_is_paired_by_round_so_that_drift_of_the_machine_cancels():
    found = switch.change({AS_IT_IS: runs(10, 20, 15), "k=v": runs(11, 22, 16.5)}, "k=v")
    assert math.exp(found.mean) == pytest.approx(1.1)
    assert found.half_width == pytest.approx(0, abs=1e-6)


def test_the_result_says_change_utilisation_and_the_idle_constant_apart():
    measured = {
        AS_IT_IS: runs(10, 20, 15, idle=0.006),
        "runtime.recorders=false": runs(9, 18, 13.5, idle=0.001),
        AGAIN: runs(10, 20, 15, idle=0.006),
    }
    lines = switch.lines_of(measured, idle=True)
    assert "runtime.recorders=false: 12.98 us of CPU per request, 68% of its core busy; change -10.00%" in lines[1]
    assert lines[3] == "idle, as it is: 0.600% of a core"
    assert lines[4].startswith("idle, runtime.recorders=false: 0.100%, difference -0.500% of a core (95 % CI")
    assert len(switch.lines_of(measured, idle=False)) == 3


def test_without_wrk_it_says_how_to_get_it(monkeypatch, capsys):
    monkeypatch.setattr(switch.shutil, "which", lambda name: None)
    assert switch.main(["runtime.recorders=false"]) == MISSING
    assert "apt install wrk" in capsys.readouterr().err


def test_an_unknown_scenario_is_a_usage_error(monkeypatch, capsys):
    monkeypatch.setattr(switch.shutil, "which", lambda name: "/usr/bin/wrk")
    assert switch.main(["runtime.recorders=false", "--scenario", "w9"]) == USAGE
    assert "w9" in capsys.readouterr().err
