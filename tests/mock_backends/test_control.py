"""The control listener reads, resets and changes a running mock."""

from __future__ import annotations

import json
import time
from typing import Any
from urllib.error import HTTPError

import httpx
import pytest

from tests.mock_backends.conftest import Running


def refused(mock: Running, path: str, body: dict[str, Any]) -> str:
    with pytest.raises(HTTPError) as caught:
        mock.control(path, body)
    with caught.value as error:
        assert error.code == 400
        message: str = json.load(error)["error"]
    return message


def test_one_endpoint_can_behave_otherwise_than_the_others(mock: Running) -> None:
    mock.control("behaviour", {"endpoint": "mock-1", "profile": {"name": "b", "models": ["other"]}, "seed": 5})
    shown = mock.control("behaviour", method="GET")["backends"]
    assert [row["profile"]["name"] for row in shown] == ["instant", "b"]
    assert [row["seed"] for row in shown] == [0, 5]
    assert httpx.get(mock.urls[1] + "/v1/models").json()["data"][0]["id"] == "other"
    mock.control("behaviour", {"profile": "instant", "seed": 0})
    assert httpx.get(mock.urls[1] + "/v1/models").json()["data"][0]["id"] == "mock-model"


def test_a_new_seed_says_something_else_and_the_old_one_the_same_again(mock: Running) -> None:
    def digest() -> str:
        return httpx.post(mock.url + "/v1/completions", json={"prompt": "x"}).headers["X-Mock-Digest"]

    first = digest()
    mock.control("behaviour", {"seed": 1})
    second = digest()
    mock.control("behaviour", {"seed": 0})
    assert digest() == first != second


def test_what_is_shown_can_be_sent_back(mock: Running) -> None:
    mock.control("behaviour", {"profile": "overloaded", "faults": [{"fault": "drip", "interval": "3ms", "at": "1h"}]})
    (row, _) = mock.control("behaviour", method="GET")["backends"]
    again = mock.control("behaviour", row)["backends"][0]
    assert again == row
    mock.control("behaviour", {"profile": "instant"})
    assert mock.control("behaviour", method="GET")["backends"][0]["faults"] == []


def test_the_clocks_of_faults_count_from_when_it_is_told(mock: Running) -> None:
    def status(fault: dict[str, Any], since_s: float) -> int:
        since_ns = time.monotonic_ns() + round(since_s * 1e9)
        mock.control("behaviour", {"faults": [{"fault": "error", **fault}], "since_ns": since_ns})
        return httpx.post(mock.url + "/v1/completions", json={"prompt": "x"}).status_code

    try:
        assert status({"at": "1h"}, 0) == 200
        assert status({"at": "1h"}, -3601) >= 500
        assert status({"at": "0s"}, 3600) == 200
    finally:
        mock.control("behaviour", {"faults": []})


def test_reset_zeroes_the_counts_of_one_or_all(mock: Running) -> None:
    for url in mock.urls:
        httpx.get(url + "/v1/models")
    mock.control("reset", {"endpoint": "mock-0"})
    assert mock.stats(0)["requests"] == 0
    assert mock.stats(1)["requests"] > 0
    mock.control("reset")
    assert mock.stats(1)["requests"] == 0


def test_stats_tell_the_processs_cpu_and_the_clock(mock: Running) -> None:
    one, two = mock.control("stats", method="GET"), mock.control("stats", method="GET")
    assert one["pid"] == two["pid"] == mock.process.pid
    assert one["cpu_ns"] <= two["cpu_ns"]
    assert one["t_ns"] < two["t_ns"]


@pytest.mark.parametrize(
    ("body", "why"),
    [
        ({"profil": "instant"}, "unknown key 'profil'; did you mean 'profile'?"),
        ({"profile": "instnt"}, "did you mean 'instant'?"),
        ({"profile": "/etc/passwd"}, "name of a ready-made profile"),
        ({"profile": {"name": "x", "token_gap": 5}}, "profile: token_gap.constant: 5 is not a duration"),
        ({"endpoint": "mock-7"}, "no endpoint 'mock-7'"),
        ({"faults": [{"fault": "none"}]}, "faults: 0.fault"),
        ({"faults": [{"fault": "error", "schedule": "/etc/passwd"}]}, "faults: 0.schedule"),
        ({"seed": "x"}, "'seed' must be a whole number"),
        ({"since_ns": 1.5}, "'since_ns' must be a whole number"),
    ],
)
def test_what_makes_no_sense_is_refused_and_changes_nothing(mock: Running, body: dict[str, Any], why: str) -> None:
    before = mock.control("behaviour", method="GET")
    assert why in refused(mock, "behaviour", body)
    assert mock.control("behaviour", method="GET") == before


def test_it_speaks_plain_http(mock: Running) -> None:
    with httpx.Client(base_url=mock.admin) as client:
        assert client.get("/_mock/nope").status_code == 404
        assert client.delete("/_mock/stats").status_code == 405
        assert client.post("/_mock/reset", content=b"{").status_code == 400
        assert client.post("/_mock/reset", content=b"[]").status_code == 400
        assert client.get("/_mock/stats", headers={"Connection": "close"}).status_code == 200
        assert client.post("/_mock/reset", content=b" " * (2**20 + 1)).status_code == 411
