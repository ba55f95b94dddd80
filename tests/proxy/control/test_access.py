"""The access log: one request, one line."""

import json
import os
import re

from hypothesis import given
from hypothesis import strategies as st

from proxy.control.access import AccessLog

REQUEST = {
    "client": "10.0.0.9",
    "method": "POST",
    "target": "/v1/chat/completions?model=x",
    "status": 200,
    "outcome": "success",
    "endpoint": "gpu-1",
    "seconds": 0.1234567,
    "request_id": "id-1",
}


def lines_of(**changed):
    written = []
    AccessLog("olla", written.append).record(**(REQUEST | changed))
    return written


def test_a_line_has_what_an_operator_asks_for():
    (line,) = lines_of()
    shown = json.loads(line)
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", shown.pop("time"))  # as other lines have it
    assert shown == REQUEST | {"logger": "proxy.access", "engine": "olla", "pid": os.getpid(), "seconds": 0.123457}


@given(st.text(), st.text(max_size=20), st.text(max_size=20))
def test_one_request_is_one_line_of_one_write_whatever_the_client_sent(target, method, request_id):
    (line,) = lines_of(target=target, method=method, request_id=request_id)
    assert line.endswith(b"\n")
    assert line[:-1].decode("ascii").isprintable()
    json.loads(line)


def test_key_like_query_values_never_appear():
    (line,) = lines_of(target="/v1?api_key=hunter22&x=1")
    assert b"hunter22" not in line
    assert json.loads(line)["target"] == "/v1?api_key=***&x=1"


def test_a_secret_is_not_saved_by_the_length_limit():
    (line,) = lines_of(target="/" + "a" * 242 + "?token=hunter22" + "b" * 50)
    assert b"hunter" not in line


def test_a_line_fits_one_atomic_pipe_write():
    (line,) = lines_of(target="/" + "\U0001f600" * 8000, request_id="x" * 128)
    assert len(line) < 4096


def test_by_default_lines_go_to_standard_error(capfd):
    AccessLog("sherpa").record(**REQUEST)
    assert json.loads(capfd.readouterr().err)["engine"] == "sherpa"


def test_a_reader_that_went_away_costs_the_line_and_not_the_request():
    kept = os.dup(2)
    try:
        read, write = os.pipe()
        os.dup2(write, 2)
        os.close(write)
        os.close(read)
        AccessLog("olla").record(**REQUEST)  # EPIPE
    finally:
        os.dup2(kept, 2)
        os.close(kept)
