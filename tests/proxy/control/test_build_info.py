"""Provenance taken inside the process."""

import re
import subprocess
import sys

from proxy.control import build_info


def run(code):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, text=True, timeout=60
    ).stdout.strip()


def test_versions_name_the_interpreter_and_only_loaded_packages():
    shown = run("from proxy.control import build_info; import yaml; print(sorted(build_info.versions()))")
    assert shown == "['compiler', 'kernel', 'libc', 'python', 'pyyaml']"


def test_the_module_hash_is_the_same_for_the_same_modules_and_another_for_others():
    code = "from proxy.control import build_info; {}; print(build_info.module_hash())"
    one, again, more = run(code.format("0")), run(code.format("0")), run(code.format("import proxy.core.stats"))
    assert re.fullmatch(r"[0-9a-f]{64}", one)
    assert one == again != more


def test_resident_memory_is_bytes():
    assert 2**20 < build_info.rss_bytes() < 2**40
