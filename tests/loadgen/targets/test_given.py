"""NAME=WHAT: what users type for their own proxies becomes a target, or one sentence that says what is wrong.

U10, U11, U12 and U13 of the review are pinned here, each by its id.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from loadgen.bench.child import ChildError
from loadgen.campaign.plan import Asked, plan
from loadgen.campaign.trial import try_out
from loadgen.campaign.voice import Silent
from loadgen.errors import BadInput, Missing, Refusal, UsageRefusal
from loadgen.targets import given
from loadgen.targets.catalogue import choose
from loadgen.targets.direct import Given
from loadgen.targets.process import ProcessTarget
from loadgen.targets.target import Wiring


@pytest.fixture
def url() -> Iterator[str]:
    """Something listens there."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_a_url_is_a_target_with_or_without_a_pid() -> None:
    assert given.parse("mine=http://127.0.0.1:8080/") == Given("mine", "http://127.0.0.1:8080")
    own = os.getpid()
    assert given.parse(f"mine=http://127.0.0.1:8080/x,pid={own}") == Given("mine", "http://127.0.0.1:8080/x", own)
    absent = given.parse("mine=http://127.0.0.1:1")
    assert "nothing listens" in (absent.missing() or "")
    assert [target.name for target in choose(["direct"], [absent])] == ["direct", "mine"]


def test_u10_a_command_is_a_target_of_compare(tmp_path: Path) -> None:
    target = given.parse("mine=./proxy --listen {port} --to {backends}")
    assert isinstance(target, ProcessTarget)
    assert (target.name, target.command) == ("mine", ("./proxy", "--listen", "{port}", "--to", "{backends}"))
    assert target.has_process  # so it is pinned and watched as ours are
    assert target.missing() == "mine: proxy is no program"


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("no-such-program --port {port}", "there is no program no-such-program on PATH"),
        ("./no-such-program --port {port}", "no-such-program is no program"),
        ("/etc/passwd {port}", "/etc/passwd is no program"),
    ],
)
def test_u10_a_mistyped_program_is_found_before_anything_runs(command: str, says: str) -> None:
    with pytest.raises(Missing, match=says):
        plan(Asked(targets=("sherpa",), given=(f"mine={command}",)))


def test_u10_a_program_that_ends_at_once_is_found_out_before_anything_is_measured(tmp_path: Path) -> None:
    words = "import sys; print('unknown option', sys.argv[1], file=sys.stderr); sys.exit(2)"
    target = given.parse(f'mine={{python}} -c "{words}" {{port}}')
    with pytest.raises(ChildError, match=r"mine ended with exit code 2 before it listened: unknown option \d+"):
        try_out([target], Silent())
    works = given.parse("mine={python} -m loadgen.targets.aiohttp_min --port {port} {backends}")
    try_out([works], Silent())


def test_u10_a_program_starts_in_its_folder_with_its_own_neighbours(tmp_path: Path) -> None:
    """A script that imports the module beside it, in a folder with a space; backends in one word and in several."""
    home = tmp_path / "my proxy"
    home.mkdir()
    (home / "neighbour.py").write_text("import http.server as server\n")
    (home / "proxy.py").write_text(
        "import sys\nfrom neighbour import server\n"
        "assert sys.argv[2:] == ['--to=a,b', 'a', 'b', '{\"k\": 1}'], sys.argv\n"
        "server.HTTPServer(('127.0.0.1', int(sys.argv[1])), server.SimpleHTTPRequestHandler).serve_forever()\n"
    )
    target = given.parse("mine={python} proxy.py {port} --to={backends} {backends} '{\"k\": 1}'")
    assert isinstance(target, ProcessTarget)
    running = replace(target, cwd=home).start(Wiring(backends=("a", "b"), folder=tmp_path))
    try:
        assert running.alive() and running.pid is not None
    finally:
        running.stop()


@pytest.mark.parametrize(
    "text",
    [
        "a=http://user:secret@127.0.0.1:1",
        "a=http://127.0.0.1:1/?key=secret",
        "a=http://:secret@x:1,pid=1",
        "a=ftp://u:secret@x",
    ],
)
def test_u11_a_password_or_key_in_a_url_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(UsageRefusal) as refused:
        given.parse(text)
    assert "secret" not in str(refused.value)
    assert "secret" not in given.shown(f"--target {text}")


def test_u12_two_targets_of_one_name_are_refused(url: str) -> None:
    with pytest.raises(UsageRefusal, match="two targets are called a"):
        given.all_of([f"a={url}", f"a={url}"])


def test_u12_a_pid_that_is_not_there_is_refused(url: str) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    with pytest.raises(UsageRefusal, match="there is no such process"):
        given.parse(f"a={url},pid={gone.pid}")


@pytest.mark.parametrize("name", ["olla", "sherpa", "nginx", "direct"])
def test_u12_the_name_of_a_target_of_ours_is_refused(name: str, url: str) -> None:
    with pytest.raises(UsageRefusal, match=f"{name} is a target of ours already"):
        given.all_of([f"{name}={url}"])


def test_u13_braces_that_name_nothing_of_ours_stay(tmp_path: Path) -> None:
    target = given.parse("""mine=/bin/true {port} '{"a": {"b": 1}}' {nonsense} {}""")
    assert isinstance(target, ProcessTarget)
    words = target._command(Wiring(backends=("http://x",), folder=tmp_path), 7, None)
    assert words == ["/bin/true", "7", '{"a": {"b": 1}}', "{nonsense}", "{}"]


def test_u13_a_config_in_a_folder_with_a_space_and_an_accent_is_read(tmp_path: Path) -> None:
    path = tmp_path / "meu tráfego" / "proxy config.yaml"
    path.parent.mkdir()
    path.write_text(
        "server: {port: 1, workers: 2}\nproxy: {engine: sherpa}\nendpoints: [{name: a, url: 'http://x:1'}]\n"
    )
    target = given.parse(f"mine={path}")
    assert isinstance(target, ProcessTarget)
    assert target.settings == {"proxy.engine": "sherpa", "server.workers": 2}


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("mine", UsageRefusal),
        ("mine=", UsageRefusal),
        ("=http://x:1", UsageRefusal),
        ("mine=ftp://x", UsageRefusal),
        ("a=http://x:1,pd=3", UsageRefusal),
        ("a=http://x:1,pid=x", UsageRefusal),
        ("a=http://x:99999", UsageRefusal),
        ("a=http://[x", UsageRefusal),
        ("a@aa=http://x:1", UsageRefusal),
        ("../a=http://x:1", UsageRefusal),
        ("a b=http://x:1", UsageRefusal),
        ("a=./proxy without a place for its port", UsageRefusal),
        ("a=./proxy 'unclosed {port}", UsageRefusal),
        ("a=absent.yaml", BadInput),
    ],
)
def test_u13_what_means_nothing_is_one_sentence(text: str, error: type[Refusal]) -> None:
    with pytest.raises(error, match="--target") as refused:
        given.parse(text)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "config", ["- a", "a: [", "proxy: {engine: rust}", "proxy: {engine: [olla]}", "proxy: {engine: nginx}"]
)
def test_u13_a_config_that_is_none_is_bad_input(tmp_path: Path, config: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(config)
    with pytest.raises(BadInput, match=r"x\.yaml"):
        given.parse(f"mine={path}")


def test_a_variant_is_an_engine_with_keys_changed() -> None:
    made = given.variant("mine=olla,runtime.gc.thresholds=[700, 10, 10],server.loop=asyncio,proxy.pools.buffers=false")
    changed = {
        "runtime.gc.thresholds": [700, 10, 10],
        "server.loop": "asyncio",
        "proxy.pools.buffers": False,
    }
    assert made.describe().model_dump(include={"name", "kind", "engine", "variant_of"}) == {
        "name": "mine",
        "kind": "variant",
        "engine": "olla",
        "variant_of": "olla",
    }
    assert made.switches == changed
    assert made.settings == {"proxy.engine": "olla", **changed}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("mine", "write NAME=ENGINE,KEY=VALUE"),
        ("mine=olla", "write NAME=ENGINE,KEY=VALUE"),
        ("a/b=olla,server.loop=asyncio", "write NAME=ENGINE,KEY=VALUE"),
        ("mine=nginx,server.loop=asyncio", "'nginx' is no engine of ours; known are sherpa, olla"),
        ("mine=olla,server.loop=[", "mine: server.loop: '\\[' is not YAML"),
    ],
)
def test_a_mistyped_variant_is_a_usage_error(text: str, says: str) -> None:
    with pytest.raises(UsageRefusal, match=says):
        given.variant(text)


def test_variants_are_measured_beside_the_targets_of_the_campaign() -> None:
    made = plan(Asked(targets=("olla",), variants=("quiet=olla,runtime.recorders=false",), scenarios=("chat-small",)))
    assert [arm.name for arm in made.arms] == ["olla", "quiet", "olla@aa"]
    with pytest.raises(UsageRefusal, match="two targets are called quiet"):
        plan(Asked(given=("quiet=http://127.0.0.1:1",), variants=("quiet=olla,runtime.recorders=false",)))
