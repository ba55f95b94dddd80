"""The one table of errors."""

import json
from http import HTTPStatus

import pytest

from proxy.core.errors import ERRORS, ProxyError, error_body


def test_the_table_has_each_status_that_the_engines_promise():
    assert {kind.status for kind in ERRORS.values()} == {400, 408, 413, 414, 431, 500, 501, 502, 503, 504, 505, 508}


@pytest.mark.parametrize("kind", ERRORS.values(), ids=ERRORS)
def test_a_body_is_what_an_openai_sdk_parses(kind):
    assert json.loads(error_body(kind)) == {
        "error": {"message": kind.message, "type": kind.type, "code": kind.code, "param": None}
    }


@pytest.mark.parametrize("kind", ERRORS.values(), ids=ERRORS)
def test_blame_and_status_agree(kind):
    assert HTTPStatus(kind.status)
    assert kind.blame == {4: "client", 5: kind.blame}[kind.status // 100]
    if kind.blame == "endpoint":
        assert kind.status in (502, 504)
    assert (kind.retry_after is not None) == (kind.status == 503)


def test_the_detail_is_for_logs_and_never_in_the_body():
    error = ProxyError("upstream_unreachable", "connect to 10.0.0.1:9001 refused")
    assert str(error) == "upstream_unreachable: connect to 10.0.0.1:9001 refused"
    assert b"10.0.0.1" not in error_body(error.kind)
    assert str(ProxyError("no_endpoint")) == "no_endpoint"


def test_a_code_that_is_not_in_the_table_is_a_programming_error():
    with pytest.raises(KeyError):
        ProxyError("nope")
