"""Who is running: versions, hashes of the code and the config in use, and memory. Taken inside the running process."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import sys
from pathlib import Path

# What moves an engine's speed or behaviour; those that are not loaded are left out.
_PACKAGES = ("aiohttp", "httptools", "multidict", "prometheus_client", "pydantic", "pyyaml", "uvloop", "yarl")
_PAGE = os.sysconf("SC_PAGE_SIZE")


def versions() -> dict[str, str]:
    """Versions of the interpreter, of its C library and of the packages this process loaded."""
    found = {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "compiler": platform.python_compiler(),
        "libc": " ".join(platform.libc_ver()).strip(),
        "kernel": platform.release(),
    }
    for package in _PACKAGES:
        module = {"pyyaml": "yaml"}.get(package, package)
        if module in sys.modules:
            found[package] = importlib.metadata.version(package)
    return found


def module_hash() -> str:
    """SHA-256 over the source of every module of `proxy` that this process loaded, by name; taken right after start."""
    digest = hashlib.sha256()
    for name in sorted(sys.modules):
        if name == "proxy" or name.startswith("proxy."):
            file = getattr(sys.modules[name], "__file__", None)
            if file:
                digest.update(name.encode() + b"\0" + hashlib.sha256(Path(file).read_bytes()).digest())
    return digest.hexdigest()


def rss_bytes() -> int:
    """Resident memory of this process in bytes; 0 where /proc does not tell."""
    try:
        return int(Path("/proc/self/statm").read_bytes().split()[1]) * _PAGE
    except (OSError, IndexError, ValueError):
        return 0
