"""Headers with keys: values from the environment or a file only, and in no message (U11)."""

from __future__ import annotations

from pathlib import Path

import pytest

from loadgen.errors import Missing, Refusal, UsageRefusal
from loadgen.targets.direct import Given
from loadgen.targets.keys import headers


def test_u11_values_come_from_variables_and_files(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("sk-2\n")
    found = headers(["Authorization: Bearer $KEY", f"X-Api-Key: @{file}"], {"KEY": "sk-1"})
    assert found == {"Authorization": "Bearer sk-1", "X-Api-Key": "sk-2"}


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("Authorization: Bearer sk-secret", UsageRefusal),
        ("Authorization sk-secret", UsageRefusal),
        ("A B: $KEY", UsageRefusal),
        ("Host: $KEY", UsageRefusal),
        ("X: $NONE", Missing),
        ("X: $LINES", UsageRefusal),
        ("X: $ACCENT", UsageRefusal),
        ("X: @/no/such/file", Missing),
    ],
)
def test_u11_what_cannot_be_a_header_is_refused_without_its_value(text: str, error: type[Refusal]) -> None:
    with pytest.raises(error, match="--header") as refused:
        headers([text], {"KEY": "sk-secret", "LINES": "sk-secret\r\nX: y", "ACCENT": "sk-secret-é"})
    assert "sk-secret" not in str(refused.value)


def test_u11_a_header_is_given_once() -> None:
    with pytest.raises(UsageRefusal, match="twice"):
        headers(["X: $K", "x: $K"], {"K": "1"})


def test_u11_a_target_does_not_print_its_keys() -> None:
    target = Given("a", "https://127.0.0.1:1", headers={"Authorization": "sk-secret"})
    assert "sk-secret" not in repr(target)
    assert "sk-secret" not in target.describe().model_dump_json()
