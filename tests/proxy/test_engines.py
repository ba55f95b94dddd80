"""The engines by name, and that asking for one does not load the other."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import proxy
from proxy.config import flatten, parse
from proxy.engines import ENGINES, UNUSED_KEYS, engine_class, fixed_keys


def modules_after(code):
    shown = subprocess.run(
        [sys.executable, "-c", f"import sys; {code}; print(*sys.modules)"],
        capture_output=True,
        check=True,
        text=True,
        timeout=60,
    )
    return set(shown.stdout.split())


def test_the_names_are_those_of_the_config_and_each_has_a_service_of_that_name():
    assert set(ENGINES) == set(UNUSED_KEYS) == {"sherpa", "olla"}
    assert all(engine_class(name).engine == name for name in ENGINES)


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match="'nginx' is not one of sherpa, olla"):
        engine_class("nginx")


def test_knowing_the_names_loads_neither_engine():
    loaded = modules_after("import proxy.engines")
    assert not loaded & {"aiohttp", "httptools", "proxy.sherpa.service", "proxy.olla.service"}


def test_an_olla_process_never_loads_aiohttp():
    assert "aiohttp" not in modules_after("import proxy.worker; proxy.worker.engine_class('olla')")


def test_a_worker_carries_neither_the_supervisor_nor_the_admin_listener():
    loaded = modules_after("import proxy.cli")
    assert not loaded & {"proxy.supervisor", "proxy.control.admin", "prometheus_client"}


@pytest.mark.parametrize("engine", UNUSED_KEYS)
def test_a_key_that_is_said_to_be_unused_exists(engine):
    keys = [re.sub(r"\[0\]", "[]", key) for key in keys_of("endpoints: [{name: a, url: 'http://h'}]")]
    for unused in UNUSED_KEYS[engine]:
        assert [key for key in keys if key == unused or key.startswith(unused + ".")], unused


def keys_of(text):
    return [key for key, _ in flatten(parse(text).config.model_dump(mode="json"))]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_key_that_is_said_to_need_a_restart_exists(engine):
    config = parse(f"proxy: {{engine: {engine}}}\nendpoints: [{{name: a, url: 'http://h'}}]").config
    keys = keys_of("endpoints: [{name: a, url: 'http://h'}]")
    for fixed in fixed_keys(config):
        assert [key for key in keys if key == fixed or key.startswith(fixed + ".")], fixed


def test_with_a_canary_what_either_engine_cannot_change_stays():
    text = "server: {{workers: 2}}\ncanary: {{engine: {}, workers: 1}}\nendpoints: [{{name: a, url: 'http://h'}}]"
    assert "proxy.idle_conn_timeout" in fixed_keys(parse(text.format("sherpa")).config)
    assert "proxy.idle_conn_timeout" not in fixed_keys(parse(text.format("olla")).config)


def test_sherpas_page_is_short_and_shows_the_seeds_five_steps_in_order():
    folder = Path(str(proxy.__file__)).parent / "sherpa"
    service, relay = ((folder / name).read_text("utf-8") for name in ("service.py", "relay.py"))
    assert len(service.splitlines()) + len(relay.splitlines()) <= 300
    assert re.findall(r"# (\d\. [A-Z]\w+ \w+)", relay) == [
        "1. Select endpoint",
        "2. Clone request",
        "3. Copy headers",
        "4. Forward body",
        "5. Stream response",
    ]
