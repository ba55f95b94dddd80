"""How whole the answers of real TLS servers come through: each engine on each loop, and nginx in the same place.

    python -m tests.real.tls [--repeats 3] [--environment FOLDER]

http.server, gunicorn's sync worker, uvicorn and nginx, each with 200 KB, 1 MB and 5 MB, by length, in chunks and ended
by closing (where the server can), for a client that takes at once and one that takes slowly. http.server and gunicorn
close without close_notify. An answer must be whole; where its only end is such a close it must be cut, because nobody
can know that it is whole (nginx takes it for whole).

gunicorn and uvicorn come from the package index, into FOLDER or an environment that is thrown away. Exit code 1 if an
engine did otherwise, 69 if something needed is missing.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.contract.peers import Client, Cut, Silence, free_port
from tests.contract.running import ProcessProxy, connect
from tests.contract.test_tls import CERTIFICATE, KEY
from tests.real import pages

PACKAGES = ("gunicorn==23.0.0", "uvicorn==0.35.0")
SIZES = (200_000, 1_000_000, 5_000_000)
SPEEDS = ("fast", "slow")
ENGINES = tuple((engine, loop) for engine in ("sherpa", "olla") for loop in ("uvloop", "asyncio"))
PAGES = Path(pages.__file__)

_NGINX = """
daemon off; master_process off; pid {folder}/pid; error_log {folder}/error.log warn;
events {{ worker_connections 1024; }}
http {{
    access_log off; default_type application/octet-stream;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    server {{
{server}
    }}
}}
"""
_NGINX_PAGES = """
        listen 127.0.0.1:{port} ssl; ssl_certificate {certificate}; ssl_certificate_key {key};
        location /length/ {{ alias {folder}/pages/; }}
        location /chunked/ {{ alias {folder}/pages/; ssi on; ssi_types *; }}
        location /close/ {{ alias {folder}/pages/; ssi on; ssi_types *; chunked_transfer_encoding off; }}
"""
_NGINX_PROXY = """
        listen 127.0.0.1:{port};
        location / {{ proxy_pass https://127.0.0.1:{backend}; proxy_http_version 1.1; proxy_set_header Connection ""; }}
"""


@dataclass(frozen=True, slots=True)
class Server:
    """A TLS server: how to start it on a port, the framings it knows, and whether it says close_notify."""

    name: str
    framings: tuple[str, ...]
    notifies: bool
    command: Callable[[int, Path, Path], Sequence[str]]

    def expected(self, framing: str) -> str:
        """What must become of an answer."""
        return "whole" if framing != "close" or self.notifies else "cut"


def _http_server(port: int, folder: Path, python: Path) -> Sequence[str]:
    return (sys.executable, str(PAGES), str(port), str(CERTIFICATE), str(KEY))


def _gunicorn(port: int, folder: Path, python: Path) -> Sequence[str]:
    options = (
        "--chdir",
        str(PAGES.parent),
        "--certfile",
        str(CERTIFICATE),
        "--keyfile",
        str(KEY),
        "--log-level",
        "error",
    )
    return (
        str(python),
        "-m",
        "gunicorn",
        "--workers",
        "4",
        "--bind",
        f"127.0.0.1:{port}",
        *options,
        "pages:application",
    )


def _uvicorn(port: int, folder: Path, python: Path) -> Sequence[str]:
    certificate = ("--ssl-certfile", str(CERTIFICATE), "--ssl-keyfile", str(KEY))
    options = ("--app-dir", str(PAGES.parent), *certificate, "--log-level", "error")
    return (str(python), "-m", "uvicorn", "--port", str(port), *options, "pages:asgi")


def _nginx_server(port: int, folder: Path, python: Path) -> Sequence[str]:
    (folder / "pages").mkdir()
    for size in SIZES:
        (folder / "pages" / str(size)).write_bytes(pages.body(size))
    server = _NGINX_PAGES.format(port=port, folder=folder, certificate=CERTIFICATE, key=KEY)
    return _nginx(folder, server)


def _nginx(folder: Path, server: str) -> Sequence[str]:
    file = folder / "nginx.conf"
    file.write_text(_NGINX.format(folder=folder, server=server))
    return ("nginx", "-c", str(file))


SERVERS = (
    Server("http.server", ("length", "chunked", "close"), False, _http_server),
    Server("gunicorn sync", ("length", "chunked"), False, _gunicorn),
    Server("uvicorn", ("length", "chunked"), True, _uvicorn),
    Server("nginx", ("length", "chunked", "close"), True, _nginx_server),
)


@contextlib.contextmanager
def running(command: Sequence[str], port: int) -> Iterator[None]:
    """A process that listens on `port`."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(200):
            with contextlib.suppress(OSError):
                connect(port).close()
                break
            if process.poll() is not None:
                raise RuntimeError(f"{command[0]} ended with {process.returncode}: {' '.join(command)}")
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait(10)


@contextlib.contextmanager
def proxies(backend: int) -> Iterator[dict[str, int]]:
    """Each engine on each loop, and nginx, in front of a TLS server: their ports by name."""
    endpoint = {"name": "e", "url": f"https://127.0.0.1:{backend}", "tls": {"ca_file": str(CERTIFICATE)}}
    with contextlib.ExitStack() as stack:
        ports = {}
        for engine, loop in ENGINES:
            # A cut is a failure of the endpoint, and here some must be cut: the breaker is not what is looked at.
            settings = {"server.loop": loop, "proxy.circuit_breaker.enabled": False}
            proxy = ProcessProxy(engine, [endpoint], settings)
            stack.callback(proxy.close)
            ports[f"{engine}, {loop}"] = proxy.port
        port = free_port()
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(running(_nginx(folder, _NGINX_PROXY.format(port=port, backend=backend)), port))
        ports["nginx"] = port
        yield ports


class SlowClient(Client):
    """Takes a little at a time."""

    def _more(self, limit: int = 2**15) -> None:
        time.sleep(0.004)
        super()._more(min(limit, 2**15))


def ask(port: int, framing: str, size: int, speed: str) -> str:
    """One answer: `whole`, `cut` (the client can tell), `lost` (an end like any other, and bytes are missing)."""
    client = connect(port) if speed == "fast" else SlowClient(connect(port, receive_buffer=16_384).sock)
    with client:
        client.get(f"/{framing}/{size}")
        if speed == "slow":
            time.sleep(0.3)  # until everything on the way is full, and perhaps the server has closed behind it
        try:
            message = client.response()
        except (Cut, Silence):
            return "cut"
    if message.status != 200:
        return str(message.status)
    return "whole" if message.body == pages.body(size) else "lost"


def table(
    server: Server, ports: dict[str, int], repeats: int
) -> Iterator[tuple[tuple[str, ...], dict[str, Counter[str]]]]:
    """Rows of (framing, size, speed) and what became of the answers through each proxy."""
    with ThreadPoolExecutor(len(ports)) as threads:
        for framing in server.framings:
            for size in SIZES:
                for speed in SPEEDS:
                    asked = {
                        name: [threads.submit(ask, port, framing, size, speed) for _ in range(repeats)]
                        for name, port in ports.items()
                    }
                    row = (framing, f"{size / 1e6:g} MB", speed)
                    yield row, {name: Counter(answer.result() for answer in answers) for name, answers in asked.items()}


def look(server: Server, python: Path, repeats: int) -> int:
    """Print one server's table; how many cells of the engines are not as they must be."""
    wrong = 0
    port = free_port()
    with (
        tempfile.TemporaryDirectory() as folder,
        running(server.command(port, Path(folder), python), port),
        proxies(port) as ports,
    ):
        says = "with" if server.notifies else "without"
        print(f"\n{server.name}, {says} close_notify")
        print(f"  {'':24}" + "".join(f"{name:>18}" for name in ports))
        for row, cells in table(server, ports, repeats):
            expected = Counter({server.expected(row[0]): repeats})
            shown = []
            for name, cell in cells.items():
                bad = cell != expected and name != "nginx"
                wrong += bad
                text = " ".join(f"{count} {word}" for word, count in sorted(cell.items()))
                shown.append(f"{text + (' !' if bad else ''):>18}")
            print(f"  {row[0]:8}{row[1]:>8} {row[2]:7}" + "".join(shown), flush=True)
    return wrong


def environment(folder: Path) -> Path:
    """A Python that has gunicorn and uvicorn, in `folder`."""
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        command = (str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PACKAGES)
        subprocess.run(command, check=True)
    return python


def main() -> int:
    """Look at all servers."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--environment", type=Path, help="keep gunicorn and uvicorn in this folder")
    options = parser.parse_args()
    if shutil.which("nginx") is None:
        print("nginx is not installed (Debian: apt-get install nginx-light)", file=sys.stderr)
        return 69
    with tempfile.TemporaryDirectory() as temporary:
        python = environment(options.environment or Path(temporary) / "environment")
        wrong = sum(look(server, python, options.repeats) for server in SERVERS)
    print(
        f"\n{wrong} cells of the engines are not as they must be" if wrong else "\nas whole as they can be, all of them"
    )
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
