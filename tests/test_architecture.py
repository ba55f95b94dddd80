"""The tree as ARCHITECTURE.md draws it: its rooms, and no module in a circle of imports."""

from __future__ import annotations

import ast
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("proxy", "mock_backends", "loadgen", "reports")


def modules() -> dict[str, Path]:
    """Dotted name -> file, of all that is ours."""
    found = {}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            found[name.removesuffix(".__init__")] = path
    return found


def imported(path: Path, known: set[str]) -> set[str]:
    """Modules of ours that `path` imports when it is imported itself: not inside functions, not for types only."""
    found: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inside = {f"{node.module}.{alias.name}" for alias in node.names} & known
            found |= inside or {node.module}
    return found & known


def test_no_module_is_in_a_circle_of_imports() -> None:
    known = modules()
    graph = {name: imported(path, set(known)) - {name} for name, path in known.items()}
    assert sum(map(len, graph.values())) > 300  # it sees imports at all
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as exc:
        pytest.fail(" > ".join(exc.args[1]))


def test_no_class_name_stands_for_two_things_in_loadgen_and_reports() -> None:
    found: dict[str, list[str]] = {}
    for name, path in modules().items():
        if name.partition(".")[0] in ("loadgen", "reports"):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ClassDef):
                    found.setdefault(node.name, []).append(name)
    assert len(found) > 150  # it sees classes at all
    assert {name: places for name, places in found.items() if len(places) > 1} == {}


def rooms_drawn() -> dict[str, set[str]]:
    """Package -> the folders that the map in ARCHITECTURE.md names under it."""
    page = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    drawn = page.partition("## Rooms")[2].split("```")[1]
    found: dict[str, set[str]] = {}
    package = ""
    for line in drawn.splitlines():
        if top := re.match(r"([a-z_]+)/", line):
            package = top[1]
            found[package] = set()
        elif below := re.match(r"  ([a-z0-9_]+)/", line):
            found[package].add(below[1])
    return found


def test_the_map_names_every_package_and_every_room_of_proxy_and_loadgen() -> None:
    drawn = rooms_drawn()
    assert set(PACKAGES) <= set(drawn)
    for package in ("proxy", "loadgen"):
        there = {path.parent.name for path in (ROOT / package).glob("*/__init__.py")}
        assert there <= drawn[package], package
        assert {room for room in drawn[package] if not (ROOT / package / room).is_dir()} == set(), package


def test_every_file_that_the_map_names_is_there() -> None:
    page = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:proxy|mock_backends|loadgen|reports|tests)/[\w./-]+)`", page))
    assert len(named) > 30
    assert {name for name in named if not (ROOT / name).exists()} == set()
