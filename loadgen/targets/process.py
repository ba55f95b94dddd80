"""A target that is a program with a config file: every proxy there is, ours and others, from a catalogue entry."""

from __future__ import annotations

import contextlib
import functools
import http.client
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import jinja2
import yaml

from loadgen.bench.child import Child, ChildError
from loadgen.targets.target import Passes, Running, Wiring, hash_of
from reports import schema

_TEMPLATES = Path(__file__).parent
_READY_S = 60.0
_POLL_S = 0.02
# Rivals with heavy dependencies live in an environment of their own, so that ours stays as it is locked.
RIVALS_FOLDER = ".rivals"


@dataclass(frozen=True, slots=True)
class Program:
    """How to find a program: by an environment variable, in `.rivals/bin`, or on PATH; and how to get it otherwise."""

    name: str
    get: str
    env: str = ""
    version: tuple[str, ...] = ()
    """Arguments that make it say its version; `package NAME` asks the Python environment it lies in instead."""

    def find(self) -> str | None:
        """Its absolute path, or None."""
        stated = os.environ.get(self.env) if self.env else None
        if stated:
            return shutil.which(stated)
        rivals = Path(RIVALS_FOLDER, "bin").resolve()
        return shutil.which(
            self.name, path=os.pathsep.join([str(rivals), os.environ.get("PATH", os.defpath), "/usr/sbin"])
        )


@dataclass(frozen=True, slots=True)
class ProcessTarget:
    """One catalogue entry; see catalogue.yaml for the meaning of each field."""

    name: str
    kind: Literal["engine", "floor", "peer", "variant", "probe"]
    label: str
    command: tuple[str, ...]
    program: Program | None = None
    template: str | None = None
    variables: Mapping[str, Any] = field(default_factory=dict)
    ready: Literal["line", "listening"] = "listening"
    ready_path: str = ""
    path: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    engine: Literal["sherpa", "olla"] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    variant_of: str | None = None
    switches: Mapping[str, Any] = field(default_factory=dict)
    start_s: float = 1.0
    passes: Passes = "everything"
    gc_trace: bool = False
    has_process: bool = True
    given: bool = False
    """Typed by the user, not from the catalogue."""
    cwd: Path | None = None
    """The folder it is started in; ours if None."""

    @property
    def is_engine(self) -> bool:
        """Whether it is one of ours."""
        return self.engine is not None

    def describe(self) -> schema.TargetRecord:
        """Its entry in campaign.json."""
        return schema.TargetRecord(
            name=self.name,
            kind="peer" if self.kind == "probe" else self.kind,
            label=self.label,
            engine=self.engine,
            variant_of=self.variant_of,
            switches={key.removeprefix("proxy."): value for key, value in self.switches.items()},
        )

    def as_variant_of(self, name: str, switches: Mapping[str, Any]) -> ProcessTarget:
        """The same entry, described as `name` with `switches` changed."""
        return replace(self, variant_of=name, switches=dict(switches))

    def missing(self) -> str | None:
        """What is not installed and how to get it, or None."""
        if self.program is None:
            return self._mistyped()
        if self.program.find() is not None:
            return None
        where = f" or set {self.program.env} to its path" if self.program.env else ""
        return f"{self.program.name} is not installed: {self.program.get}{where}"

    def _mistyped(self) -> str | None:
        """What of a command that was typed is not there: found now, not after the first minute of a campaign."""
        word = self.command[0]
        if not self.given or "{" in word:
            return None
        if os.path.dirname(word):  # noqa: PTH120  # "." counts: ./proxy is a path, proxy is looked up
            place = (self.cwd or Path()) / word
            return None if os.access(place, os.X_OK) and place.is_file() else f"{self.name}: {place} is no program"
        return None if shutil.which(word) else f"{self.name}: there is no program {word} on PATH"

    def start(self, wiring: Wiring) -> Running:
        """Writes the config, starts the program, waits until it listens. Raises ChildError with its last words."""
        # Absolute: nginx takes a relative config as relative to the folder it is given.
        wiring = replace(wiring, folder=wiring.folder.resolve())
        port = 0 if self.ready == "line" else free_port()
        config = None
        if self.template is not None:
            config = wiring.folder / f"{self.name}{Path(self.template.removesuffix('.j2')).suffix}"
            config.write_text(self.render(wiring, port, str(wiring.folder)), encoding="utf-8")
        command = self._command(wiring, port, config)
        child = Child(self.name, command, wiring.folder, cores=wiring.cores, env=self.env, cwd=self.cwd)
        try:
            if self.ready == "line":
                line = child.wait_ready(_READY_S)
                url, admin, pid = str(line["url"]), line.get("admin"), int(line.get("pid", child.pid))
            else:
                url, admin, pid = f"http://127.0.0.1:{port}", None, child.pid
                _wait_answering(child, port, self.ready_path)
        except BaseException:
            child.stop(grace_s=0.5)
            raise
        return Running(
            url=url + self.path,
            admin=admin,
            pid=pid,
            child=child,
            command=" ".join(command),
            config=None if config is None else config.read_text(encoding="utf-8"),
            config_hash=self._hash(wiring),
            versions=self.versions(),
        )

    def render(self, wiring: Wiring, port: int, folder: str) -> str:
        """The config text for one start. YAML configs of our own engines take the scenario's settings on top."""
        assert self.template is not None
        text = (
            _environment()
            .get_template(self.template)
            .render(
                port=port,
                folder=folder,
                backends=[urlsplit(url) for url in wiring.backends],
                recorders=wiring.recorders,
                **self.variables,
            )
        )
        settings = {**self.settings, **(wiring.settings if self.engine else {})}
        return with_settings(text, settings) if settings else text

    def versions(self) -> dict[str, str]:
        """What the program says about its version; empty for our own, which say it themselves."""
        found = self.program.find() if self.program else None
        if self.program is None or found is None or not self.program.version:
            return {}
        return {self.program.name: _version(found, self.program.version)}

    def _command(self, wiring: Wiring, port: int, config: Path | None) -> list[str]:
        found = self.program.find() if self.program else None
        if self.program is not None and found is None:
            raise ChildError(self.missing() or "")
        values = {
            "python": sys.executable,
            "program": found or "",
            "config": str(config or ""),
            "folder": str(wiring.folder),
            "port": str(port),
            "spare_port": str(free_port()),
        }
        values["backends"] = ",".join(wiring.backends)
        words: list[str] = []
        for word in self.command:
            if word == "{backends}":  # one word per backend
                words.extend(wiring.backends)
            else:
                words.append(_filled(word, values))
        return words

    def _hash(self, wiring: Wiring) -> str:
        """Of command and config with ports and paths that are the same at every start."""
        neutral = Wiring(
            backends=tuple(f"http://backend-{number}:1" for number in range(len(wiring.backends))),
            folder=Path(),
            recorders=wiring.recorders,
            settings=wiring.settings,
        )
        text = "" if self.template is None else self.render(neutral, 0, ".")
        return hash_of("\n".join([*self.command, text]))


def _filled(word: str, values: Mapping[str, str]) -> str:
    """`{name}` of a known name replaced; other braces (JSON in a command) stay."""
    return re.sub(r"\{(\w+)\}", lambda match: values.get(match[1], match[0]), word)


def with_settings(text: str, settings: Mapping[str, Any]) -> str:
    """The YAML `text` with dotted keys set: `{"proxy.pools.buffers": False}`."""
    data = yaml.safe_load(text)
    for key, value in settings.items():
        *sections, last = key.split(".")
        place = data
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = value
    return yaml.safe_dump(data, sort_keys=False)


def free_port() -> int:
    """A port that was free a moment ago, for programs that cannot choose one themselves."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_answering(child: Child, port: int, path: str) -> None:
    """Until it accepts connections; with a `path`, until that is answered with 200."""
    deadline = time.monotonic() + _READY_S
    while time.monotonic() < deadline:
        if not child.alive():
            words = child.last_words() or "it wrote nothing"
            raise ChildError(f"{child.name} {child.how_it_ended()} before it listened: {words}")
        with contextlib.suppress(OSError, http.client.HTTPException):
            if _answers(port, path):
                return
        time.sleep(_POLL_S)
    raise ChildError(f"{child.name} did not answer on port {port} within {_READY_S:g} s: {child.last_words()}")


def _answers(port: int, path: str) -> bool:
    if not path:
        socket.create_connection(("127.0.0.1", port), 1.0).close()
        return True
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2.0)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    finally:
        connection.close()


@functools.cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # config files of proxies, filled with our own ports and paths; no HTML anywhere
    )


@functools.cache
def _version(program: str, arguments: tuple[str, ...]) -> str:
    command = [program, *arguments]
    if arguments[0] == "package":
        asking = f"import importlib.metadata as m; print(m.version({arguments[1]!r}))"
        command = [str(Path(program).with_name("python")), "-c", asking]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    match = re.search(r"\d+\.\d+[\w.+~-]*", done.stdout + done.stderr)
    return match[0] if match else "unknown"
