"""The properties hold for the kept corpus, and for what Hypothesis makes of its pieces."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.properties import PROPERTIES, SEPARATOR

KEPT = Path(__file__).parent / "corpus"
INPUTS = sorted(path for path in KEPT.rglob("*") if path.is_file())

PIECES = [
    b"GET / HTTP/1.1\r\nHost: a\r\n", b"POST /v1/chat?x=1 HTTP/1.1\r\nHost: a:80\r\n", b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.1 204 \r\n", b"HTTP/1.1 100 Continue\r\n\r\n", b"Content-Length: 3\r\n", b"Content-Length: 12\r\n",
    b"Transfer-Encoding: chunked\r\n", b"Expect: 100-continue\r\n", b"Expect: 200-continue\r\n",
    b"X-Request-ID: a\r\n", b"X-Request-ID: a b\r\n", b"Connection: close\r\n", b"Connection: x-a\r\n", b"X-A: 1\r\n",
    b"Via: 1.1 me\r\n", b"X-Mock-Events: 1\r\n", b"\r\n", b"3\r\nabc\r\n", b"0\r\n\r\n", b"0\r\nX-T: 1\r\n\r\n",
    b"1;a=b\r\nx\r\n", b"\r\n\r\n", b'{"mock":{"seq":0,"ns":"00000012345678901234"}}', SEPARATOR, b"abc", b" ", b"\n",
    b"\r", b"\0", b"9", b"TIMESTAMP,ContextTokens,GeneratedTokens\n", b"2023-11-16 18:17:03,4,5\n",
    b"9999-01-01 00:00:00,4,5\n", b'{"timestamp": 0, "input_length": 3, "output_length": 4}\n',
    b'{"timestamp": 1e3, "input_length": ',
]  # fmt: skip


@pytest.mark.parametrize("path", INPUTS, ids=lambda path: f"{path.parent.name}-{path.name[:12]}")
def test_the_kept_inputs_hold(path: Path) -> None:
    PROPERTIES[path.parent.name](path.read_bytes())


@pytest.mark.parametrize("name", PROPERTIES)
def test_the_properties_hold_for_any_mixture(name: str) -> None:
    @given(st.binary(max_size=4), st.lists(st.one_of(st.sampled_from(PIECES), st.binary(max_size=6)), max_size=16))
    @settings(max_examples=300, deadline=None)
    def check(choice: bytes, pieces: list[bytes]) -> None:
        PROPERTIES[name](choice + b"".join(pieces))

    check()
