"""A backend that is faster than any target: nginx, which answers every request with one reply that a mock gave before.

Where targets are driven to their limit the mocks, which are Python, can be the limit instead. The reply is a mock's own
with what it states of it, so it is checked like any other; nginx counts the requests.
"""

from __future__ import annotations

import http.client
import re
import shutil
import socket
import time
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from loadgen.bench import machine
from loadgen.bench.child import Child, ChildError
from loadgen.bench.mocks import Backends
from loadgen.workload.job import PROMPT_MARK, Template
from loadgen.workload.scenario import Mock, Scenario

HOW_TO_GET: Final = "nginx is not installed (apt-get install nginx)"
_READY_S: Final = 10.0
_STATED: Final = ("X-Mock-Digest", "X-Mock-Events", "X-Mock-Endpoint")
_REQUESTS: Final = re.compile(r"^ *\d+ +\d+ +(\d+)", re.M)

_CONFIG: Final = """\
daemon off;
master_process off;
pid {folder}/canned.pid;
error_log stderr crit;
events {{ worker_connections 8192; multi_accept on; }}
http {{
    access_log off;
    tcp_nodelay on;
    keepalive_timeout 75s;
    keepalive_requests 1000000000;
    client_max_body_size 100m;
    client_body_buffer_size 1m;
    client_body_temp_path {folder}/canned-body;
    proxy_temp_path {folder}/canned-proxy;
    fastcgi_temp_path {folder}/canned-fastcgi;
    uwsgi_temp_path {folder}/canned-uwsgi;
    scgi_temp_path {folder}/canned-scgi;
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location = /health {{ return 200 "ok"; }}
        location = /status {{ stub_status; }}
        location / {{
            default_type application/json;
{headers}
            return 200 "{body}";
        }}
    }}
}}
"""


def installed() -> bool:
    """Whether there is an nginx."""
    return _program() is not None


def _program() -> str | None:
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")


class Canned(Backends):
    """One running nginx with one reply."""

    def __init__(self, child: Child, url: str, body_bytes: int) -> None:
        super().__init__(child, (url,), url)
        self._body_bytes = body_bytes
        self._before = 0

    @classmethod
    def begin(cls, scenario: Scenario, folder: Path, cores: tuple[int, ...] | None) -> Canned:
        """Records the reply of a mock and starts nginx with it. Raises ChildError."""
        program = _program()
        if program is None:
            raise ChildError(HOW_TO_GET)
        headers, body = _recorded(scenario, folder, cores)
        folder = folder.resolve()
        port = _free_port()
        stated = "\n".join(f'            add_header {name} "{value}";' for name, value in headers.items())
        config = folder / "canned.conf"
        config.write_text(
            _CONFIG.format(folder=folder, port=port, headers=stated, body=_quoted(body)), encoding="utf-8"
        )
        command = [program, "-p", str(folder), "-c", str(config), "-e", "stderr"]
        child = Child("canned", command, folder, cores=cores)
        found = cls(child, f"http://127.0.0.1:{port}", len(body))
        try:
            found._wait_ready()
            child.raise_priority(machine.MOCK_PRIORITY)
        except BaseException:
            child.stop(grace_s=0.5)
            raise
        return found

    def what_happened(self) -> str:
        """One sentence about its end."""
        words = self.child.last_words()
        return f"the nginx that answers {self.child.how_it_ended()}" + (f": {words}" if words else "")

    def behave(self, mock: Mock) -> None:
        """It behaves as its one reply."""

    def fail(self, mock: Mock, since_ns: int) -> None:
        """It plays no faults."""

    def forget(self) -> None:
        """Counts from now."""
        self._before = self._served()

    def stats(self) -> dict[str, Any]:
        """What it answered since `forget`, as mocks tell it; empty if it does not answer."""
        try:
            served = self._served() - self._before
        except ChildError:
            return {}
        one = {"requests": served, "events": served, "body_bytes": served * self._body_bytes}
        return {"t_ns": time.monotonic_ns(), "backends": [one]}

    def _served(self) -> int:
        found = _REQUESTS.search(_get(self.control, "/status"))
        if found is None:
            raise ChildError("nginx does not count: it was built without stub_status")
        return int(found[1])

    def _wait_ready(self) -> None:
        until = time.monotonic() + _READY_S
        while True:
            try:
                self._served()
                return
            except ChildError:
                if not self.alive() or time.monotonic() > until:
                    raise ChildError(f"{self.what_happened()}; it does not answer") from None
            time.sleep(0.02)


def _recorded(scenario: Scenario, folder: Path, cores: tuple[int, ...] | None) -> tuple[dict[str, str], bytes]:
    """What a mock states of its reply to the scenario's first request, and the body."""
    mocks = Backends.start(1, folder, cores)
    try:
        mocks.behave(scenario.mock)
        return _ask(mocks.urls[0], scenario.requests[0].template(), scenario.prompt_bytes or 64)
    finally:
        mocks.stop()


def _ask(url: str, template: Template, prompt_bytes: int) -> tuple[dict[str, str], bytes]:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=10)
    try:
        body = template.body.replace(PROMPT_MARK, "x" * prompt_bytes).encode()
        connection.request(template.method, template.path, body, dict(template.headers))
        answer = connection.getresponse()
        return {name: value for name in _STATED if (value := answer.headers.get(name))}, answer.read()
    except (OSError, http.client.HTTPException) as exc:
        raise ChildError(f"{url}: the mock did not answer: {exc}") from exc
    finally:
        connection.close()


def _quoted(body: bytes) -> str:
    """The body inside quotes of nginx. Raises ChildError for what its configuration cannot hold."""
    text = body.decode("utf-8")
    if "$" in text or "\0" in text:
        raise ChildError("the reply holds a `$`, which nginx would take for a variable")
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _get(url: str, path: str) -> str:
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=5)
    try:
        connection.request("GET", path, headers={"Connection": "close"})
        return connection.getresponse().read().decode("utf-8", "replace")
    except (OSError, http.client.HTTPException) as exc:
        raise ChildError(f"GET {url}{path}: {exc or type(exc).__name__}") from exc
    finally:
        connection.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
