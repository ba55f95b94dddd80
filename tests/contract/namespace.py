"""A network of a test's own: a process in new user, network and mount namespaces, with its own hosts and name server.

A test marked `own_network` runs there, in a pytest of its own; where the system allows no such namespaces it is skipped
and says so. Inside, `Network` sets things up; outside, nothing of this machine is touched.
"""

from __future__ import annotations

import functools
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

INSIDE = "PROXY_ENGINES_TEST_OWN_NETWORK"
_UNSHARE = ("unshare", "--user", "--map-root-user", "--net", "--mount")
_ROOT = Path(__file__).parents[2]


def inside() -> bool:
    """Whether this process is in such a network."""
    return INSIDE in os.environ


@functools.cache
def missing() -> str | None:
    """What this system lacks for it, None if nothing."""
    for tool in ("unshare", "ip", "mount"):
        if shutil.which(tool) is None:
            return f"{tool} is not installed"
    tried = subprocess.run([*_UNSHARE, "ip", "link", "set", "lo", "up"], capture_output=True, text=True)
    return None if tried.returncode == 0 else f"no namespaces here: {tried.stderr.strip()}"


def run_inside(nodeid: str) -> None:
    """Run one test there. Fails, or skips, the test that called."""
    if reason := missing():
        pytest.skip(reason)
    command = [*_UNSHARE, sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", nodeid]
    done = subprocess.run(command, cwd=_ROOT, env={**os.environ, INSIDE: "1"}, capture_output=True, text=True)
    if done.returncode:
        pytest.fail(f"in a network of its own:\n{done.stdout}\n{done.stderr}", pytrace=False)


class Network:
    """Hosts, a name server that never answers, and an interface behind which everything vanishes."""

    VANISHING = "fd99::2"

    def __init__(self, folder: Path) -> None:
        assert inside(), "never on the machine's own network"
        self._hosts = folder / "hosts"
        self.hosts()
        resolv = folder / "resolv.conf"
        resolv.write_text("nameserver 127.0.0.1\n")
        switch = folder / "nsswitch.conf"
        switch.write_text("hosts: files dns\n")
        self._run("ip", "link", "set", "lo", "up")
        for source, target in (
            (self._hosts, "/etc/hosts"),
            (resolv, "/etc/resolv.conf"),
            (switch, "/etc/nsswitch.conf"),
        ):
            self._run("mount", "--bind", str(source), str(Path(target).resolve()))
        # It takes questions and says nothing, as a name server whose answers are lost.
        self._server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._server.bind(("127.0.0.1", 53))

    def close(self) -> None:
        """Let the name server go. The rest ends with the process."""
        self._server.close()

    def hosts(self, **addresses: list[str]) -> None:
        """Names (`_` is a dot) and their addresses."""
        lines = [f"{address} {name.replace('_', '.')}" for name, of_name in addresses.items() for address in of_name]
        self._hosts.write_text("\n".join(["127.0.0.1 localhost", *lines, ""]))

    def vanish(self) -> None:
        """Let there be an address where packets are lost."""
        self._run("ip", "link", "add", "ours", "type", "veth", "peer", "name", "theirs")
        self._run("ip", "address", "add", "fd99::1/64", "dev", "ours", "nodad")
        for link in ("ours", "theirs"):
            self._run("ip", "link", "set", link, "up")
        # Nobody answers there; a neighbour that is known is not looked for, which would fail after three seconds.
        neighbour = ("lladdr", "02:00:00:00:00:02", "dev", "ours", "nud", "permanent")
        self._run("ip", "neighbour", "add", self.VANISHING, *neighbour)

    def _run(self, *command: str) -> None:
        subprocess.run(command, check=True, capture_output=True)
