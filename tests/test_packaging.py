"""What is installed is what is here."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_every_package_is_in_the_list_of_what_is_installed():
    """The list is explicit; a package that it lacks works from a checkout and is missing in a wheel."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    found = {
        ".".join(file.parent.relative_to(ROOT).parts)
        for top in ("proxy", "mock_backends", "loadgen", "reports")
        for file in (ROOT / top).rglob("__init__.py")
    }
    assert found <= set(settings["packages"])
