"""The machine a campaign ran on: what it is, what shares it, and which process runs on which core."""

from __future__ import annotations

import contextlib
import os
import platform
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from loadgen.bench import git

SOURCE = Path(__file__).resolve().parents[2]
"""The folder that holds our packages: a checkout, or `site-packages` where they are installed."""

# The bench runs with real-time priority where it may (root, CAP_SYS_NICE), the driver before the mocks, so that it
# sends on time whatever else is going on: at a load average of 5 the generator's lag p99 fell from 5.7 ms to 0.2 ms;
# `nice` and shorter slices changed nothing (Linux 6.18). The target is not touched: it runs as it would in production.
DRIVER_PRIORITY = 2
MOCK_PRIORITY = 1

_GIT_S = 10.0  # a report does not wait for a slow disk

# What the figures may depend on; each is in requirements.lock.
_PACKAGES = (
    "aiohttp", "httptools", "uvloop", "locust", "gevent", "pyperf", "numpy", "pandas", "pyarrow", "scipy", "matplotlib",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Cores:
    """Who runs where. None: wherever the kernel likes. `note` is the sentence for the report."""

    target: tuple[int, ...] | None
    driver: tuple[int, ...] | None
    mocks: tuple[int, ...] | None
    note: str
    available: tuple[int, ...] = ()
    """Those that all may use where nobody is pinned."""

    @property
    def pinned(self) -> bool:
        """Whether the target has its core for itself."""
        return self.target is not None

    def all(self) -> tuple[int, ...]:
        """Every core that is used."""
        if self.target is None or self.driver is None or self.mocks is None:
            return self.available
        return tuple(sorted({*self.target, *self.driver, *self.mocks}))

    def bench_size(self) -> int:
        """How many cores driver and mocks have between them."""
        if self.driver is None or self.mocks is None:
            return len(self.available)
        return len(set(self.driver) | set(self.mocks))

    def target_size(self) -> int:
        """How many cores the target has, at least."""
        return 1 if self.target is None else len(self.target)


def assign_cores(available: Iterable[int], target_workers: int = 1) -> Cores:
    """Pure: the target alone on the first core (one per worker), the bench on the others.

    Two cores: driver and mocks share the second. From three on the driver has one core for itself, as one process
    cannot use more. With too few cores nothing is pinned, and the note says what that costs.
    """
    cores = tuple(sorted(available))
    rest = cores[target_workers:]
    if not rest:
        return Cores(
            None,
            None,
            None,
            f"not pinned: {len(cores)} core(s) for {target_workers} worker(s) and the bench; CPU is noisy",
            cores,
        )
    target = cores[:target_workers]
    if len(rest) == 1:
        return Cores(target, rest, rest, f"target alone on core {_list(target)}; driver and mocks on core {rest[0]}")
    return Cores(
        target,
        rest[:1],
        rest[1:],
        f"target alone on core {_list(target)}; driver on core {rest[0]}; mocks on core {_list(rest[1:])}",
    )


def _list(cores: tuple[int, ...]) -> str:
    return ", ".join(str(core) for core in cores)


def available_cores() -> tuple[int, ...]:
    """The cores this process may use (a container or taskset may allow fewer than the machine has)."""
    return tuple(sorted(os.sched_getaffinity(0)))


@contextlib.contextmanager
def pinned(cores: tuple[int, ...] | None) -> Iterator[None]:
    """The conductor itself stays off the target's core."""
    before = os.sched_getaffinity(0)
    if cores is not None:
        os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@dataclass(frozen=True, slots=True)
class CpuTimes:
    """The machine's clock ticks since boot, of some cores: all of them, and those stolen by the hypervisor."""

    total: int
    steal: int
    idle: int = 0


def may_use_real_time() -> bool:
    """Whether this process may raise the bench above all others. Tried out, and undone."""
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(MOCK_PRIORITY))
    except OSError:
        return False
    os.sched_setscheduler(0, policy, parameters)
    return True


def parse_cpu_times(stat: str, cores: Iterable[int] | None = None) -> CpuTimes:
    """Pure: from the text of /proc/stat, over all cores or the given ones."""
    names = {"cpu"} if cores is None else {f"cpu{core}" for core in cores}
    total = steal = idle = 0
    for line in stat.splitlines():
        name, *fields = line.split()
        if name in names:
            ticks = [int(field) for field in fields[:8]]  # guest time (fields 9, 10) is inside user time already
            total += sum(ticks)
            steal += ticks[7] if len(ticks) > 7 else 0
            idle += ticks[3] + ticks[4]
    return CpuTimes(total, steal, idle)


def cpu_times(cores: Iterable[int] | None = None) -> CpuTimes:
    """As of now."""
    return parse_cpu_times(Path("/proc/stat").read_text(encoding="ascii"), cores)


def steal_share(before: CpuTimes, after: CpuTimes) -> float:
    """Share of the time between two readings that the hypervisor gave to somebody else, 0..1."""
    passed = after.total - before.total
    return (after.steal - before.steal) / passed if passed > 0 else 0.0


def busy_share(before: CpuTimes, after: CpuTimes) -> float:
    """Share of the time between two readings in which the cores worked for this machine, 0..1."""
    passed = after.total - before.total
    worked = passed - (after.idle - before.idle) - (after.steal - before.steal)
    return worked / passed if passed > 0 else 0.0


def pressure() -> dict[str, float]:
    """PSI: share of the last 10 s in which some task waited, in percent, by resource. Empty where not readable."""
    found: dict[str, float] = {}
    for resource in ("cpu", "memory", "io"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            first = Path("/proc/pressure", resource).read_text(encoding="ascii").splitlines()[0]
            found[resource] = float(first.split("avg10=")[1].split()[0])
    return found


def describe(cores: Cores) -> dict[str, Any]:
    """The `machine` of campaign.json. Unreadable facts are left out, never guessed."""
    facts: dict[str, Any] = {
        "cpu_model": cpu_model(),
        "cores": os.cpu_count(),
        "cores_available": len(available_cores()),
        "memory_bytes": psutil.virtual_memory().total,
        "os": _os_name(),
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "virtualisation": _virtualisation(),
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "clocksource": _read("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
        "tcp_congestion_control": congestion_control(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "python_build": " ".join(platform.python_build()),
        "python_compiler": platform.python_compiler(),
        "python_optimisations": optimisations(sysconfig.get_config_var("CONFIG_ARGS")),
        "pinning": cores.note,
        "bench_priority": "real-time (SCHED_RR)" if may_use_real_time() else "normal: real-time is not permitted",
        "load_average": list(os.getloadavg()),
        "steal_since_boot": round(steal_share(CpuTimes(0, 0), cpu_times()), 6),
        "psi_avg10": pressure() or None,
    }
    return {name: value for name, value in facts.items() if value is not None}


def optimisations(configured: str | None) -> str | None:
    """Pure: which optimisations of the compiler this Python was built with, by the arguments of its `configure`.

    None is not known: on Windows, of other implementations, and of a distribution's build (prefix /usr) whose arguments
    name neither, as distributions can set both by other means.
    """
    if configured is None:
        return None
    found = [
        name for option, name in (("--enable-optimizations", "PGO"), ("--with-lto", "LTO")) if option in configured
    ]
    if not found and "--prefix=/usr'" in configured:
        return None
    return " and ".join(found) or "none"


def versions(root: Path = SOURCE) -> dict[str, str]:
    """Versions of ourselves, with the git revision if `root` is our checkout, and of what the figures depend on."""
    found = {}
    for package in ("proxy-engines", *_PACKAGES):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    revision = git_revision(root)
    if revision is not None:
        found["revision"] = revision
    return found


def git_revision(root: Path) -> str | None:
    """The commit of the checkout at `root`, with `+dirty` if files differ from it; None if `root` is no checkout.

    A folder below somebody else's checkout, such as a virtual environment, is none.
    """
    if not (root / ".git").exists():
        return None
    revision = git.ask(root, "rev-parse", "--short=12", "HEAD", timeout_s=_GIT_S)
    if revision is None:
        return None
    changed = git.ask(root, "status", "--porcelain", "--untracked-files=no", timeout_s=_GIT_S)
    return f"{revision}+dirty" if changed else revision


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text(encoding="utf-8").strip() or None
    except OSError:
        return None


def cpu_model() -> str | None:
    """The processor's name as the kernel knows it."""
    info = _read("/proc/cpuinfo") or ""
    for line in info.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("model name", "Model", "cpu model"):
            return value.strip()
    return platform.processor() or None


def congestion_control() -> str | None:
    """Of new TCP sockets in this network namespace, as the kernel names it: cubic, bbr, ..."""
    return _read("/proc/sys/net/ipv4/tcp_congestion_control")


def _os_name() -> str | None:
    with contextlib.suppress(OSError):
        return platform.freedesktop_os_release().get("PRETTY_NAME")
    return platform.system() or None


def _virtualisation() -> str | None:
    info = _read("/proc/cpuinfo") or ""
    if any(line.startswith("flags") and " hypervisor" in line for line in info.splitlines()):
        return _read("/sys/hypervisor/type") or "virtual machine"
    return None
