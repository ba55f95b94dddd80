"""Log lines: one JSON object each, nothing that forges a line, nothing secret."""

import json
import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.control import logs
from proxy.control.logs import JsonFormatter, line, redact


def record(message, *args, level=logging.INFO, **extra):
    return logging.makeLogRecord(
        {"name": "proxy.olla", "levelno": level, "levelname": "INFO", "msg": message, "args": args} | extra
    )


@given(st.text(), st.dictionaries(st.text(max_size=8), st.one_of(st.text(), st.integers(), st.none()), max_size=3))
def test_a_line_is_one_line_of_printable_ascii_whatever_is_logged(message, fields):
    formatted = JsonFormatter({"worker": 1}).format(record("%s", message, fields=fields))
    assert formatted.isascii()
    assert formatted.isprintable()
    assert json.loads(formatted)["logger"] == "proxy.olla" or "logger" in fields


def test_a_record_has_time_level_logger_message_and_its_fields():
    formatted = json.loads(
        JsonFormatter({"worker": 1}).format(record("hello %s", "x", created=0.5, fields={"endpoint": "a"}))
    )
    assert formatted == {
        "time": "1970-01-01T00:00:00.500Z",
        "level": "info",
        "logger": "proxy.olla",
        "worker": 1,
        "message": "hello x",
        "endpoint": "a",
    }


def test_a_traceback_is_a_field_of_the_same_line():
    try:
        raise ValueError("Authorization: Bearer abcdefgh")
    except ValueError as exc:
        formatted = JsonFormatter({}).format(record("failed", exc_info=(type(exc), exc, exc.__traceback__)))
    assert "ValueError" in json.loads(formatted)["traceback"]
    assert "abcdefgh" not in formatted


SECRET = "s3cr3t-value_9"


@pytest.mark.parametrize(
    "text",
    [
        f"Authorization: Bearer {SECRET}",
        f"authorization: {SECRET}",
        f"('X-Api-Key', '{SECRET}') api-key: {SECRET}",
        f"x-api-key={SECRET}",
        f"Cookie: session={SECRET}; other=1",
        f"set-cookie: id={SECRET}",
        f"/v1/chat?api_key={SECRET}&model=llama",
        f"/v1?model=x&access_token={SECRET}",
        f"/v1?X-Amz-Signature={SECRET}",
        f"/v1?client_secret={SECRET}#top",
        f"GET /?KEY={SECRET} HTTP/1.1",
        f"password={SECRET}",
        f"Basic {SECRET}",
        f"sk-{SECRET}",
    ],
)
def test_secrets_are_masked_wherever_they_stand(text):
    assert SECRET not in redact(text)
    assert "***" in redact(text)


@pytest.mark.parametrize(
    "text",
    ["/v1/chat/completions?model=llama&stream=true", "endpoint gpu-1 is unhealthy: status 503", "keep-alive: 75"],
)
def test_ordinary_text_is_left_alone(text):
    assert redact(text) == text


@pytest.mark.parametrize("unit", ["a", "key", "key=", "cookie", " ", "=", "x-api-key: ", "sk-", "bearer "])
def test_masking_takes_time_in_proportion_to_the_text(unit):
    redact(unit * 200_000)  # a quadratic pattern would run into the test's time limit


def test_line_escapes_del_and_c1_controls():
    assert line({"a": "\x7f\x9b\n\u2028"}) == '{"a":"\\u007f\\u009b\\n\\u2028"}'


def test_only_the_proxys_own_loggers_are_set_up_and_the_level_holds(capsys):
    logs.set_up("warning", worker=3)
    logging.getLogger("proxy.olla").info("quiet")
    logging.getLogger("proxy.olla").warning("heard")
    (heard,) = capsys.readouterr().err.splitlines()
    assert json.loads(heard)["message"] == "heard"
    assert json.loads(heard)["worker"] == 3
