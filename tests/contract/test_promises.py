"""The list of promises and the tests agree: what is promised is tested, on every engine that promises it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
ROW = re.compile(r"^\| ([A-Z][A-Z0-9.-]+) \| (?:(sherpa|olla|both at once) \| )?", re.MULTILINE)
ON_BOTH = {"start", "engine"}


def promised() -> dict[str, str]:
    """Each id and who promises it."""
    rows = ROW.findall((HERE / "PROMISES.md").read_text(encoding="utf-8"))
    assert len({name for name, _ in rows}) == len(rows), "an id is there twice"
    return {name: engine or "both" for name, engine in rows}


def pinned() -> Iterator[tuple[str, str, set[str]]]:
    """Each id that a test carries, the test, and the fixtures that the test asks for."""
    for path in sorted(HERE.glob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.FunctionDef) or not node.name.startswith("test_"):
                continue
            for mark in node.decorator_list:
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.promise":
                    yield ast.literal_eval(mark.args[0]), f"{path.name}::{node.name}", {a.arg for a in node.args.args}


def test_every_promise_is_tested_on_every_engine_that_makes_it():
    missing = []
    tests = list(pinned())
    for name, engine in promised().items():
        fixtures = [asked for pinned_name, _, asked in tests if pinned_name == name]
        if engine == "both":
            kept = any(asked & ON_BOTH for asked in fixtures)
        elif engine == "both at once":
            kept = bool(fixtures)
        else:
            kept = any(f"start_{engine}" in asked for asked in fixtures)
        if not kept:
            missing.append(name)
    assert not missing


def test_every_marked_test_names_a_promise():
    known = promised()
    assert [(name, test) for name, test, _ in pinned() if name not in known] == []


def test_no_test_of_the_suite_is_expected_to_fail():
    """A promise that is not kept is mended, or it is taken back in BEHAVIOUR.md with a test of what happens instead."""
    for path in HERE.glob("test_*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        marks = {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        assert not marks & {"pytest.mark.xfail", "pytest.mark.skip", "pytest.xfail"}, path.name
