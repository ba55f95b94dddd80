"""The config file: what it may say, what each wrong thing is answered with, and how it is shown."""

import re
import textwrap
from contextlib import suppress

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from proxy import config
from proxy.config import (
    Config,
    ConfigError,
    load,
    merge_reload,
    parse,
    parse_duration,
    parse_size,
    show_duration,
    show_size,
)
from proxy.config_go import _CALLED_HERE

ENDPOINTS = 'endpoints: [{name: a, url: "http://127.0.0.1:9001"}]\n'

# Verbatim from the seed, section "Configuration".
SEED_SHERPA = """\
proxy:
  engine: "sherpa"
  timeout: 300s
  max_idle_conns: 100
"""
SEED_OLLA = """\
proxy:
  engine: "olla"
  timeout: 300s
  max_idle_conns: 100
  max_conns_per_host: 50
  idle_conn_timeout: 90s
  circuit_breaker:
    failure_threshold: 5
    timeout: 30s
    half_open_requests: 3
"""


def refused(text):
    with pytest.raises(ConfigError) as caught:
        parse(textwrap.dedent(text), "f.yaml")
    return str(caught.value)


def test_the_seeds_sherpa_block_is_valid_as_it_stands():
    proxy = parse(SEED_SHERPA + ENDPOINTS).config.proxy
    assert (proxy.engine, proxy.timeout, proxy.max_idle_conns) == ("sherpa", 300.0, 100)


def test_the_seeds_olla_block_is_valid_as_it_stands():
    proxy = parse(SEED_OLLA + ENDPOINTS).config.proxy
    breaker = proxy.circuit_breaker
    assert (proxy.engine, proxy.max_conns_per_host, proxy.idle_conn_timeout) == ("olla", 50, 90.0)
    assert (breaker.failure_threshold, breaker.timeout, breaker.half_open_requests) == (5, 30.0, 3)


def test_only_endpoints_must_be_written():
    assert parse(ENDPOINTS).config == Config(endpoints=({"name": "a", "url": "http://127.0.0.1:9001"},))
    assert refused("") == "f.yaml: endpoints: is missing"


def test_a_key_with_nothing_after_it_is_its_default_at_any_depth():
    text = "server: {port: }\nproxy:\n  engine:\n  circuit_breaker:\nhealth:\n" + ENDPOINTS
    loaded = parse(text)
    assert loaded.config == parse(ENDPOINTS).config
    assert set(loaded.origins) == {"endpoints[0].name", "endpoints[0].url"}


# -- durations and sizes


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("300s", 300),
        ("50ms", 0.05),
        ("1.5m", 90),
        ("1h", 3600),
        ("0", None),
        (0, 0),
        ("0s", 0),
        (" 5 s ", 5),
        ("7d", None),
    ],
)
def test_a_duration_is_a_number_and_a_unit(text, seconds):
    if seconds is None:
        with pytest.raises(ValueError):
            parse_duration(text)
    else:
        assert parse_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("64KiB", 65536),
        ("100MiB", 100 * 2**20),
        ("1GB", 10**9),
        (512, 512),
        ("512", 512),
        (0, 0),
        ("1.5MiB", 3 * 2**19),
        ("64kib", 65536),
        (-1, None),
        ("-1", None),
        (True, None),
        ("64 apples", None),
        ("1,000,000", None),  # pydantic reads a 1 and stops
        ("1.5.5GiB", None),
        ("64KiB/s", None),
        (1.5, None),
    ],
)
def test_a_size_is_a_number_and_a_unit_or_bytes(text, size):
    if size is None:
        with pytest.raises(ValueError):
            parse_size(text)
    else:
        assert parse_size(text) == size


@given(st.one_of(st.integers(0, 600_000).map(lambda ms: ms / 1000), st.floats(0, 7 * 24 * 3600)))
def test_a_duration_is_shown_as_a_config_writes_it(seconds):
    assert parse_duration(show_duration(seconds)) == seconds


@given(st.integers(0, 2**40))
def test_a_size_is_shown_as_a_config_writes_it(size):
    assert parse_size(show_size(size)) == size


def test_durations_and_sizes_are_shown_canonically():
    assert [show_duration(s) for s in (300.0, 0.05, 1.5, 0.0, 0.0005)] == ["300s", "50ms", "1.5s", 0, "0.0005s"]
    assert [show_size(n) for n in (65536, 100 * 2**20, 1000, 0, 3 * 2**30)] == ["64KiB", "100MiB", 1000, 0, "3GiB"]


# -- sentences

SENTENCES = [
    ("endpoints: []", "endpoints: at least one is needed"),
    ("endpoints: 3", "endpoints: 3 is not a list"),
    ("endpoints: {a: b}", "endpoints: {'a': 'b'} is not a list"),
    ("endpoints: [3]", "endpoints[0]: 3 is not a section; write its keys (name, url, priority ...) indented below it"),
    ("endpoints: [{name: a}]", "endpoints[0].url: is missing"),
    (
        "endpoints: [{name: a b, url: 'http://h'}]",
        "endpoints[0].name: 'a b' is not a name; use letters, digits and . _ -, at most 63, a letter or digit first",
    ),
    (
        "endpoints: [{name: a, url: 'ftp://h'}]",
        "endpoints[0].url: 'ftp://h' is refused: an endpoint's URL starts with http:// or https://",
    ),
    (
        "endpoints: [{name: a, url: 'http://user:secret@h'}]",
        "endpoints[0].url: 'http://***@h' is refused: credentials do not belong in an endpoint's URL",
    ),
    (
        "endpoints: [{name: a, url: 'http://gpu..local:1'}]",
        "endpoints[0].url: 'http://gpu..local:1' is refused: its host has an empty part: a dot too many",
    ),
    (
        f"endpoints: [{{name: a, url: 'http://{'x' * 64}.local'}}]",
        f"endpoints[0].url: 'http://{'x' * 49}... is refused: "
        "a host has at most 63 characters between dots and 253 in all",
    ),
    (
        "endpoints: [{name: a, url: 'http://$HOST:1'}]",
        "endpoints[0].url: 'http://$HOST:1' is refused: a host is letters, digits, dots, - and _",
    ),
    (
        "endpoints: [{name: a, url: 'http://${GPU_HOST}:1'}]",
        "endpoints[0].url: 'http://${GPU_HOST}:1' holds an unfilled ${...}; variables are not "
        "replaced here: write the value, or make the file from a template (envsubst)",
    ),
    (
        ENDPOINTS + 'server: {"a\\0b": "${\\n}"}',
        r"'server.a\x00b': '${\n}' holds an unfilled ${...}; variables are not replaced here: "
        "write the value, or make the file from a template (envsubst)",
    ),
    (
        ENDPOINTS + "server: {host: '${HOST}'}",
        "server.host: '${HOST}' holds an unfilled ${...}; variables are not replaced here: "
        "write the value, or make the file from a template (envsubst)",
    ),
    (
        "endpoints: [{name: a, url: 'http://h'}, {name: a, url: 'http://i'}]",
        "endpoints: two are called 'a'; names must differ",
    ),
    (
        ENDPOINTS + "proxy: olla",
        "proxy: 'olla' is not a section; write its keys (engine, load_balancer, timeout ...) indented below it",
    ),
    (ENDPOINTS + "proxy: {engine: ola}", "proxy.engine: 'ola' is not 'sherpa' or 'olla'"),
    (ENDPOINTS + "proxy: {engin: olla}", "proxy.engin: unknown key; did you mean engine?"),
    (ENDPOINTS + "prxy: {engine: olla}", "prxy: unknown key; did you mean proxy?"),
    (ENDPOINTS + "proxy: {max_body_size: 1}", "proxy.max_body_size: unknown key; it belongs to server"),
    (ENDPOINTS + "admin: {zzz: }", "admin.zzz: unknown key; known here are host, port"),
    (ENDPOINTS + "proxy: {1: 2}", "proxy[1]: 1 is not a key; keys are words"),
    (
        ENDPOINTS + "proxy: {load_balancer: fair}",
        "proxy.load_balancer: 'fair' is not a balancer; known are consistent-hash, least-connections, priority, "
        "round-robin",
    ),
    (
        ENDPOINTS + "proxy: {hash_header: x session}",
        "proxy.hash_header: 'x session' is not the name of a header field; write it like x-session-id",
    ),
    (
        ENDPOINTS + "proxy: {hash_header: X-Forwarded-For}",
        "proxy.hash_header: 'X-Forwarded-For' is refused: this field is not passed on as it came, so it is no session; "
        "use one like x-session-id",
    ),
    (
        ENDPOINTS + "proxy: {hash_header: Authorization, strip_credentials: true}",
        "proxy.hash_header: 'authorization' is dropped by strip_credentials; use another",
    ),
    (
        ENDPOINTS + "proxy: {timeout: 300}",
        "proxy.timeout: 300 is refused: a duration needs a unit: write 300s or 300ms",
    ),
    (ENDPOINTS + "proxy: {timeout: -1s}", "proxy.timeout: '-1s' is not a duration; write it like 300s, 50ms, 5m or 1h"),
    (ENDPOINTS + "proxy: {timeout: .nan}", "proxy.timeout: nan is not a duration; write it like 300s, 50ms, 5m or 1h"),
    (
        ENDPOINTS + "proxy: {timeout: 999h}",
        "proxy.timeout: '999h' is refused: longer than a week; write 0 for no limit",
    ),
    (
        ENDPOINTS + "server: {max_body_size: 9999GiB}",
        "server.max_body_size: '9999GiB' is refused: more than 1 TiB; write 0 for no limit",
    ),
    (
        ENDPOINTS + "server: {max_body_size: .inf}",
        "server.max_body_size: inf is not a size; write it like 64KiB, 100MiB or a number of bytes",
    ),
    (
        ENDPOINTS + "proxy: {buffer_size: 10}",
        "proxy.buffer_size: 10 is refused: a read buffer is between 1KiB and 16MiB",
    ),
    (ENDPOINTS + "server: {port: 70000}", "server.port: 70000 is more than 65535"),
    (ENDPOINTS + "server: {workers: 0}", "server.workers: 0 is less than 1"),
    (ENDPOINTS + "server: {workers: '2'}", "server.workers: '2' is not a whole number"),
    (ENDPOINTS + "server: {workers: true}", "server.workers: true is not a whole number"),
    (ENDPOINTS + "server: {host: 1}", "server.host: 1 is not text; put it in quotes"),
    (ENDPOINTS + "server: {access_log: 'on'}", "server.access_log: 'on' is not true or false"),
    (ENDPOINTS + "server: {loop: trio}", "server.loop: 'trio' is not 'uvloop' or 'asyncio'"),
    (
        ENDPOINTS + "health: {interval: 0s}",
        "health.interval: '0s' is refused: must be longer than 0; switch checks off with enabled: false",
    ),
    (ENDPOINTS + "health: {path: x}", "health.path: 'x' is refused: a path starts with / and holds no blanks"),
    (
        "endpoints: [{name: a, url: 'http://h', health: {path: \"/a\\nb\"}}]",
        r"endpoints[0].health.path: '/a\nb' is refused: a path starts with / and holds no blanks",
    ),
    (
        "endpoints: [{name: a, url: 'https://h', tls: {ca_file: /no/such.pem}}]",
        "endpoints[0].tls.ca_file: '/no/such.pem' is not a file that can be read",
    ),
    (ENDPOINTS + "runtime: {gc: {thresholds: [1, 2]}}", "runtime.gc.thresholds[2]: is missing"),
    (ENDPOINTS + "runtime: {gc: {thresholds: 7}}", "runtime.gc.thresholds: 7 is not a list"),
    (ENDPOINTS + "canary: {engine: ola}", "canary.engine: 'ola' is not 'sherpa' or 'olla'"),
    (
        ENDPOINTS + "canary: {workers: 1}",
        "canary.workers: says how many, but canary.engine does not say which engine",
    ),
    (ENDPOINTS + "canary: {engine: olla, workers: 2}", "canary.workers: 2 of 1 server.workers"),
    ("- 1", "a config is a mapping of sections like `proxy:` and `endpoints:`"),
]


@pytest.mark.parametrize(
    ("text", "sentence"), SENTENCES, ids=[s.split(" ")[0] + str(i) for i, (_, s) in enumerate(SENTENCES)]
)
def test_what_is_wrong_is_said_in_one_sentence_with_its_place(text, sentence):
    assert refused(text) == f"f.yaml: {sentence}"


@pytest.mark.parametrize(
    ("text", "place", "word"),
    [
        ("a: b: c", "f.yaml, line 1, column 5", "not valid YAML"),
        ("proxy: {}\nproxy: {}\n", "f.yaml, line 2, column 1", "'proxy' is written twice"),
        ("x: !!python/object/apply:os.system [id]", "f.yaml, line 1, column 4", "not valid YAML"),
        ("? [1]\n: 2", "f.yaml, line 1, column 3", "a key must be plain text"),
        ("x: 2001-99-99", "f.yaml", "not valid YAML"),
        ("x: !!timestamp soon", "f.yaml", "not valid YAML"),
        ("x: !!bool maybe", "f.yaml", "not valid YAML"),
        ("\0", "f.yaml", "not valid YAML"),
        ("a: &a [*a]", "f.yaml, line 1, column 4", "not valid YAML"),
        ("[" * 900, "f.yaml", "nested deeper"),
        ("x: " + "[" * 40 + "]" * 40, "f.yaml", "nested deeper"),
    ],
)
def test_what_is_not_yaml_is_said_with_line_and_column(text, place, word):
    sentence = refused(text)
    assert sentence.startswith(place + ":")
    assert word in sentence
    assert "\n" not in sentence


def test_an_endpoint_may_begin_with_the_keys_of_another_one():
    text = """
endpoints:
  - &gpu {name: a, url: "http://h:1", priority: 7, health: {interval: 9s}}
  - {<<: *gpu, name: b, url: "http://h:2"}
"""
    first, second = parse(text).config.endpoints
    assert (second.name, second.url, second.priority, second.health) == ("b", "http://h:2", 7, first.health)


def test_a_key_that_is_written_twice_beside_a_merge_is_still_refused():
    text = "health: &h {path: /up}\nserver:\n  <<: *h\n  port: 1\n  port: 2\n"
    assert "'port' is written twice" in refused(text)


def test_aliases_that_blow_up_are_refused_before_anything_walks_them():
    lines = ["l0: &l0 [" + ", ".join(["x"] * 10) + "]"]
    lines += [f"l{i}: &l{i} [" + ", ".join([f"*l{i - 1}"] * 10) + "]" for i in range(1, 9)]
    assert "more values" in refused("\n".join(lines))


def test_several_mistakes_are_all_said_but_not_endlessly():
    sentences = refused(ENDPOINTS + "server: {port: x, workers: x}").splitlines()
    assert [s.split(":")[1].strip() for s in sentences] == ["server.port", "server.workers"]
    many = refused("endpoints: [" + "1, " * 100 + "]").splitlines()
    assert len(many) == 21
    assert many[-1] == "f.yaml: ... and 80 more"


@given(st.text(max_size=200))
def test_no_text_shows_a_traceback(text):
    with suppress(ConfigError):
        parse(text)


plain = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(["300s", "1KiB", "olla"]),
)
nested = st.recursive(
    plain,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([*Config.model_fields, "x"]), nested), st.data())
def test_no_mapping_shows_a_traceback_and_every_refusal_names_the_file(data, draw):
    for section, model in (
        ("server", config.ServerConfig),
        ("proxy", config.ProxyConfig),
        ("health", config.HealthConfig),
    ):
        if draw.draw(st.booleans()):
            keys = st.sampled_from(sorted(model.model_fields))
            data[section] = draw.draw(st.dictionaries(keys, nested, max_size=4))
    try:
        parse(yaml.safe_dump(data), "f.yaml")
    except ConfigError as exc:
        assert all(line.startswith("f.yaml") and line.isprintable() for line in str(exc).split("\n"))


# -- files


def test_a_file_that_cannot_be_read_is_said(tmp_path):
    missing, folder, binary, huge = (tmp_path / name for name in ("missing", "folder", "binary", "huge"))
    folder.mkdir()
    binary.write_bytes(b"\xff\xfe\x00")
    huge.write_bytes(b"#" * (2**20 + 1))
    for path, word in (
        (missing, "No such file"),
        (folder, "directory"),
        (binary, "UTF-8"),
        (huge, "larger than 1 MiB"),
        ("a\0b", "cannot be read"),
    ):
        with pytest.raises(ConfigError, match=word):
            load(path)


def test_a_byte_order_mark_is_not_part_of_the_first_key(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_bytes(b"\xef\xbb\xbf" + ENDPOINTS.encode())
    assert load(file).config.endpoints[0].name == "a"


def test_the_command_line_overrides_the_file_and_is_named_as_the_origin(tmp_path):
    file = tmp_path / "c.yaml"
    file.write_text("proxy: {engine: sherpa}\n" + ENDPOINTS)
    loaded = load(file, {"proxy.engine": "olla", "server.port": 0})
    assert (loaded.config.proxy.engine, loaded.config.server.port) == ("olla", 0)
    assert loaded.origins["proxy.engine"] == loaded.origins["server.port"] == "command line"
    assert loaded.origins["endpoints[0].name"] == str(file)
    file.write_text(ENDPOINTS)
    assert loaded.again().config.proxy.engine == "olla"


def test_an_override_into_something_that_is_no_section_leaves_the_word_to_the_file():
    with pytest.raises(ConfigError, match="proxy: 3 is not a section"):
        parse("proxy: 3\n" + ENDPOINTS, "f.yaml", {"proxy.engine": "olla"})


# -- what the values come to


def test_an_endpoint_inherits_what_it_does_not_say():
    text = """
        proxy: {max_conns_per_host: 7}
        health: {interval: 9s, path: /up}
        endpoints:
          - {name: a, url: "https://h/x"}
          - {name: b, url: "http://h", max_conns_per_host: 0, health: {interval: 1s, enabled: false}}
        """
    a, b = parse(textwrap.dedent(text)).config.endpoint_specs()
    assert (a.scheme, a.port, a.prefix, a.max_conns, a.health_interval, a.health_path) == (
        "https",
        443,
        "/x",
        7,
        9.0,
        "/up",
    )
    assert (b.max_conns, b.health_interval, b.health_path, b.health_enabled) == (0, 1.0, "/up", False)


def test_the_engines_own_defaults_apply_where_the_file_says_null():
    proxy = parse(ENDPOINTS).config.proxy
    assert (proxy.read_buffer("sherpa"), proxy.read_buffer("olla")) == (8192, 65536)
    assert (proxy.head_wait, proxy.idle_wait) == (300.0, 300.0)
    gc = parse(ENDPOINTS).config.runtime.gc
    assert (gc.freezes("sherpa"), gc.freezes("olla")) == (False, True)
    written = parse(
        "proxy: {buffer_size: 16KiB, response_header_timeout: 1s, idle_timeout: 0}\n" + ENDPOINTS
    ).config.proxy
    assert (written.read_buffer("olla"), written.head_wait, written.idle_wait) == (16384, 1.0, 0.0)


def test_a_reload_that_cannot_change_sherpas_limit_leaves_it_without_one():
    """A value kept through a reload was kept as if it were written: a restarted worker then had a limit of 50."""
    old = parse("proxy: {engine: sherpa}\n" + ENDPOINTS).config
    new = parse("proxy: {engine: sherpa, max_conns_per_host: 7}\n" + ENDPOINTS).config
    merged, refused_ = merge_reload(old, new, ("proxy.max_conns_per_host",))
    assert refused_ == ["proxy.max_conns_per_host: 7 needs a restart; until then it stays unset"]
    assert parse(merged.as_written()).config.proxy.connection_limit("sherpa") == 0


def test_an_endpoint_inherits_its_engines_own_limit():
    assert [
        parse(f"proxy: {{engine: {e}}}\n" + ENDPOINTS).config.endpoint_specs()[0].max_conns for e in ("sherpa", "olla")
    ] == [0, 50]


def test_sherpa_limits_connections_only_if_the_file_asks_for_it():
    assert parse(ENDPOINTS).config.proxy.connection_limit("sherpa") == 0
    assert parse(ENDPOINTS).config.proxy.connection_limit("olla") == 50
    assert parse("proxy: {max_conns_per_host: 50}\n" + ENDPOINTS).config.proxy.connection_limit("sherpa") == 50


def test_the_digest_tells_configs_apart_but_not_addresses():
    def digest(text):
        return parse(text).config.digest()

    base = digest(ENDPOINTS)
    assert base == digest(ENDPOINTS.replace("9001", "9555") + "server: {port: 0}\nadmin: {port: 1}")
    assert base == digest(ENDPOINTS + "proxy: {timeout: 5m}")
    assert base != digest(ENDPOINTS + "proxy: {timeout: 6m}")
    assert base != digest(ENDPOINTS.replace("http://127.0.0.1:9001", "http://127.0.0.1:9001/v1"))
    assert re.fullmatch(r"[0-9a-f]{64}", base)


WHOLE = """
server: {port: 0, header_timeout: 2500ms, max_body_size: 3MiB}
proxy: {engine: sherpa, max_conns_per_host: 3, flush: {interval: 0}}
runtime: {gc: {thresholds: [700, 10, 10]}}
canary: {engine: olla, workers: 1}
"""


@pytest.mark.parametrize("text", [ENDPOINTS, SEED_OLLA + ENDPOINTS, WHOLE + ENDPOINTS])
def test_a_config_as_written_reads_back_equal(text):
    before = parse(text).config
    assert parse(before.as_written()).config == before


# The shape of the Go product's own file, shortened.
GO_PRODUCT = """
server: {host: localhost, port: 40114, read_timeout: 20s, write_timeout: 0s, request_logging: true,
         request_limits: {max_body_size: 52428800}, rate_limits: {burst_size: 50}}
proxy: {engine: sherpa, connection_timeout: 40s, response_timeout: 900s, read_timeout: 300s, max_retries: 3,
        load_balancer: least-connections, stream_buffer_size: 8192}
discovery:
  type: static
  static:
    endpoints: [{url: "http://localhost:11434", name: local-ollama, type: ollama, priority: 100}]
logging: {level: info}
engineering: {show_nerdstats: false}
"""


def test_a_file_of_the_go_product_is_refused_with_what_each_key_is_called_here():
    said = refused(GO_PRODUCT).splitlines()
    assert "f.yaml: endpoints: is missing" in said
    unknown = dict(line.removeprefix("f.yaml: ").split(": unknown key; ") for line in said if "unknown key" in line)
    assert unknown["discovery"] == "discovery.static.endpoints is `endpoints` here, a list at the top of the file"
    assert unknown["proxy.connection_timeout"] == "proxy.connect_timeout here"
    assert unknown["proxy.stream_buffer_size"] == "proxy.buffer_size here"
    assert unknown["server.request_logging"] == "server.access_log here"
    assert not [line for line in unknown.values() if line.startswith(("did you mean", "known here"))]


def test_the_go_products_keys_of_an_endpoint_have_their_names_here():
    said = refused(
        "endpoints: [{name: a, url: 'http://h', type: ollama, health_check_url: /, check_interval: 2s, zzz: 1}]"
    ).splitlines()
    assert said[:3] == [
        "f.yaml: endpoints[0].type: unknown key; leave it out: requests are passed on as they are",
        "f.yaml: endpoints[0].health_check_url: unknown key; "
        "endpoints[].health.path here; left out, the check finds its own",
        "f.yaml: endpoints[0].check_interval: unknown key; endpoints[].health.interval here",
    ]
    assert "known here are name" in said[3]


def test_a_key_below_a_section_of_both_products_has_its_hint_too():
    assert refused(ENDPOINTS + "proxy: {retry: {enabled: true}}") == (
        "f.yaml: proxy.retry.enabled: unknown key; proxy.retry.max_attempts of 1 switches retries off here"
    )


def test_every_key_that_a_hint_for_the_go_product_names_exists_here_and_its_own_does_not():
    known = {re.sub(r"\[0\]", "", key) for key, _ in config.flatten(parse(ENDPOINTS).config.model_dump(mode="json"))}
    for theirs, hint in _CALLED_HERE.items():
        assert theirs not in known
        for ours in re.findall(r"\b(?:server|proxy)\.[a-z_.]+[a-z]|endpoints\[\]\.[a-z.]+[a-z]", hint):
            assert ours.replace("[]", "") in known, hint


def test_a_reload_takes_what_a_running_proxy_can_change_and_says_the_rest():
    old = parse("server: {port: 1000}\n" + ENDPOINTS).config
    new = parse(
        "server: {port: 2000, header_timeout: 1s}\nproxy: {engine: sherpa, timeout: 9s}\nruntime: {gc: {ballast: 5}}\n"
        + ENDPOINTS.replace("name: a", "name: b")
    ).config
    merged, refused_ = merge_reload(old, new, ("server.port", "proxy.engine", "runtime"))
    assert (merged.server.port, merged.proxy.engine, merged.runtime.gc.ballast) == (1000, "olla", 0)
    assert (merged.server.header_timeout, merged.proxy.timeout, merged.endpoints[0].name) == (1.0, 9.0, "b")
    assert refused_ == [
        "server.port: 2000 needs a restart; until then it stays 1000",
        "proxy.engine: 'sherpa' needs a restart; until then it stays 'olla'",
        "runtime.gc.ballast: 5 needs a restart; until then it stays 0",
    ]


def test_a_reload_of_the_same_file_changes_nothing_and_says_nothing():
    one = parse(WHOLE + ENDPOINTS).config
    assert merge_reload(one, parse(WHOLE + ENDPOINTS).config, ("server", "proxy")) == (one, [])
