"""Real model servers as processes of this machine, from the environment that `make test-real` makes in .real.

llama.cpp's server runs a tiny random model (`llamacpp.py`). LiteLLM's proxy stands in front of it, on uvicorn, and
makes each answer anew. Both generate in llama.cpp, which tells what is generated, and whether it goes on.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.contract.peers import free_port

ROOT = Path(__file__).parents[2]
BIN = Path(os.environ.get("PROXY_ENGINES_REAL", ROOT / ".real")) / "bin"
NEEDED = {"llama.cpp": BIN / "python", "LiteLLM": BIN / "litellm"}
START = 240.0  # seconds: LiteLLM imports for two minutes on a busy machine
MODEL = "tiny"


def missing() -> str | None:
    """Why the servers cannot run here, and what to do; None where they can."""
    absent = [str(file) for file in NEEDED.values() if not file.exists()]
    return f"no real servers here ({', '.join(absent)} is not there): make test-real installs them" if absent else None


def get(url: str, path: str) -> tuple[int, bytes]:
    """Status and body of a GET on a connection of its own."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=30)
    with contextlib.closing(connection):
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()


class Server:
    """A server on a port that it keeps over restarts; `ready` is a path that answers 200 when it serves."""

    def __init__(
        self,
        name: str,
        port: int,
        command: Sequence[str],
        folder: Path,
        ready: str,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.name = name
        self.url = f"http://127.0.0.1:{port}"
        self._command = command
        self._log = folder / f"{name}.log"
        self._ready = ready
        self._env = {**os.environ, **(env or {})}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it serves. Raises RuntimeError with its last words if it does not."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, env=self._env)
        deadline = time.monotonic() + START
        while time.monotonic() < deadline and self._process.poll() is None:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if get(self.url, self._ready)[0] == 200:
                    return
            time.sleep(0.1)
        self.stop()
        raise RuntimeError(f"{self.name} does not serve:\n{self._log.read_text(errors='replace')[-2000:]}")

    def stop(self) -> None:
        """End the process by SIGTERM. llama.cpp ends at once, whatever is in flight, LiteLLM when all is answered."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None


def llama_cpp(folder: Path) -> Server:
    """llama.cpp's own server, not started yet."""
    port = free_port()
    command = (str(NEEDED["llama.cpp"]), str(ROOT / "tests" / "real" / "llamacpp.py"), str(port), str(folder))
    return Server("llama.cpp", port, command, folder, "/health")


def litellm(folder: Path, backend: Server) -> Server:
    """LiteLLM's proxy in front of `backend`, not started yet."""
    config = {
        "model_list": [
            {
                "model_name": MODEL,
                "litellm_params": {"model": f"openai/{MODEL}", "api_base": f"{backend.url}/v1", "api_key": "none"},
            }
        ],
        "litellm_settings": {"telemetry": False, "num_retries": 0},
        "general_settings": {"dangerously_permit_weak_or_unset_master_key": True, "disable_spend_logs": True},
    }
    file = folder / "litellm.yaml"
    file.write_text(yaml.safe_dump(config))
    port = free_port()
    options = ("--config", str(file), "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1")
    env = {"LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    command = (str(NEEDED["LiteLLM"]), *options, "--telemetry", "False")
    return Server("LiteLLM", port, command, folder, "/health/liveliness", env)


@contextlib.contextmanager
def serving(server: Server) -> Iterator[Server]:
    """The server, started, until the block ends."""
    server.start()
    try:
        yield server
    finally:
        server.stop()


def generating(llama: Server) -> bool:
    """Whether llama.cpp generates anything now."""
    return any(slot["is_processing"] for slot in json.loads(get(llama.url, "/slots")[1]))


def generated(llama: Server) -> int:
    """How many tokens llama.cpp has generated since it started, in requests that are over."""
    found = re.search(rb"^llamacpp:tokens_predicted_total (\d+)", get(llama.url, "/metrics")[1], re.MULTILINE)
    assert found is not None
    return int(found[1])


def asked(max_tokens: int, **more: Any) -> bytes:
    """The body of a chat request whose answer is the same each time."""
    messages = [{"role": "user", "content": more.pop("prompt", "Tell me about proxies.")}]
    return json.dumps(
        {"model": MODEL, "messages": messages, "max_tokens": max_tokens, "temperature": 0, **more}
    ).encode()
