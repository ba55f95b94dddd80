"""--print-config, and which written keys an engine has no use for."""

import pytest

from proxy.config import parse
from proxy.control.print_config import printed, unused
from proxy.engines import UNUSED_KEYS, unused_keys

ENDPOINTS = 'endpoints: [{name: a, url: "http://h:1"}, {name: b, url: "https://h", max_idle_conns: 3}]\n'
OLLA_ONLY = (
    "proxy: {engine: sherpa, circuit_breaker: {timeout: 9s}, flush: {policy: every-read}, pools: {prewarm: 3}}\n"
)


def lines(text, overrides=None):
    loaded = parse(text, "f.yaml", overrides)
    out = printed(loaded, unused_keys(loaded.config))
    return {line.strip().removeprefix("- ") for line in out.splitlines()}


def test_every_value_is_shown_with_its_origin():
    shown = lines("server: {port: 9000}\n" + ENDPOINTS, {"proxy.engine": "olla"})
    assert "port: 9000  # f.yaml" in shown
    assert "engine: olla  # command line" in shown
    assert "timeout: 300s  # default" in shown
    assert "name: a  # f.yaml" in shown


def test_a_null_says_what_it_stands_for():
    shown = lines("proxy: {timeout: 7s}\nhealth: {interval: 1s}\n" + ENDPOINTS)
    assert "response_header_timeout: null  # default; proxy.timeout, 7s" in shown
    assert "buffer_size: null  # default; olla's own, 64KiB" in shown
    assert "freeze_after_start: null  # default; olla's own, true" in shown
    assert "interval: null  # default; health.interval, 1s" in shown
    assert "max_conns_per_host: null  # default; proxy.max_conns_per_host, 50" in shown
    assert "max_conns_per_host: null  # default; olla's own, 50" in shown
    assert "interval: null  # default; without effect; not used by olla" in shown
    assert "path: null  # default; found by asking /health, /v1/models, /api/version" in shown
    assert "max_duration: null  # default; no limit" in shown


def test_a_path_that_endpoints_inherit_is_shown_under_each():
    assert "path: null  # default; health.path, /up" in lines("health: {path: /up}\n" + ENDPOINTS)


def test_sherpas_limit_of_connections_is_its_own():
    assert "max_conns_per_host: null  # default; sherpa's own, 0" in lines("proxy: {engine: sherpa}\n" + ENDPOINTS)


def test_what_the_engine_does_not_use_says_so():
    shown = lines(OLLA_ONLY + ENDPOINTS)
    assert "policy: every-read  # f.yaml; not used by sherpa" in shown
    assert "max_idle_conns: 3  # f.yaml; not used by sherpa" in shown


def test_what_a_canary_s_engine_uses_is_used():
    canary = "server: {workers: 2}\ncanary: {engine: olla, workers: 1}\n"
    loaded = parse(canary + OLLA_ONLY + ENDPOINTS, "f.yaml")
    assert unused(loaded, unused_keys(loaded.config)) == []
    assert "policy: every-read  # f.yaml; not used by sherpa" in lines(canary + OLLA_ONLY + ENDPOINTS)


@pytest.mark.parametrize(
    "text",
    [
        ENDPOINTS,
        OLLA_ONLY + ENDPOINTS,
        "server: {workers: 3, host: '::1'}\ncanary: {engine: sherpa, workers: 1}\n" + ENDPOINTS,
        "runtime: {gc: {thresholds: [1, 2, 3]}}\nproxy: {max_conns_per_host: 9, engine: sherpa}\n" + ENDPOINTS,
        'server: {host: "yes"}\nproxy: {idle_timeout: 0, max_duration: 1.25s}\n' + ENDPOINTS,
    ],
)
def test_what_is_printed_is_a_config_that_means_the_same(text):
    before = parse(text)
    out = printed(before, {})
    after = parse(out).config
    assert after == before.config


def test_a_file_name_cannot_break_out_of_its_comment():
    loaded = parse(ENDPOINTS, "evil\nname.yaml")
    assert parse(printed(loaded, {})).config == loaded.config


def test_only_written_keys_are_announced_as_unused():
    assert unused(parse(ENDPOINTS), {"olla": UNUSED_KEYS["olla"]}) == []
    assert unused(parse(OLLA_ONLY + ENDPOINTS), {"sherpa": UNUSED_KEYS["sherpa"]}) == [
        "proxy.circuit_breaker.timeout",
        "proxy.flush.policy",
        "proxy.pools.prewarm",
        "endpoints[1].max_idle_conns",
    ]


def test_a_key_that_only_begins_like_an_unused_one_is_not_announced():
    loaded = parse("proxy: {max_conns_per_host: 1, engine: sherpa}\n" + ENDPOINTS)
    assert unused(loaded, {"olla": ("proxy.max_conns", "proxy.max")}) == []
