"""The limit of open files."""

import resource

import pytest

from proxy.control.rlimit import raise_file_limit


@pytest.fixture
def files(monkeypatch):
    """A process with a soft and a hard limit that a test chooses; the result holds what was set."""
    now = {}
    monkeypatch.setattr(resource, "getrlimit", lambda which: (now["soft"], now["hard"]))
    monkeypatch.setattr(resource, "setrlimit", lambda which, limits: now.update(soft=limits[0], set=True))
    return now


def test_the_soft_limit_is_lifted_to_the_hard_one(files):
    files.update(soft=1024, hard=524_288)
    assert raise_file_limit(20_000) is None
    assert files["soft"] == 524_288


def test_a_limit_that_is_already_as_high_as_it_gets_is_left_alone(files):
    files.update(soft=4096, hard=4096)
    raise_file_limit(10)
    assert "set" not in files


def test_a_hard_limit_below_what_the_connections_need_is_said(files):
    files.update(soft=1024, hard=4096)
    assert raise_file_limit(20_000) == (
        "server.max_connections: 20000 clients need more open files than the 4096 this process may have; "
        "raise its limit (ulimit -Hn, LimitNOFILE=) or lower max_connections"
    )


@pytest.mark.parametrize("connections", [0, 20_000])
def test_without_a_limit_of_either_kind_nothing_is_said(files, connections):
    files.update(soft=1024, hard=resource.RLIM_INFINITY if connections else 4096)
    assert raise_file_limit(connections) is None


def test_a_system_that_does_not_lift_the_limit_is_lived_with(files, monkeypatch):
    """macOS has a hard limit of infinity, and refuses it as a soft one (setrlimit(2))."""

    def refuse(which, limits):
        raise ValueError("current limit exceeds maximum limit")

    monkeypatch.setattr(resource, "setrlimit", refuse)
    files.update(soft=256, hard=resource.RLIM_INFINITY)
    assert raise_file_limit(100) is None
    assert "more open files than the 256" in str(raise_file_limit(20_000))
