from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from reports import store
from reports.schema import REQUESTS, CampaignHeader, RunRecord, run_name
from reports.store import Campaign, ReportError

HEADER = CampaignHeader(id="one", started="2026-08-01T12:00:00Z", targets=["sherpa", "olla"])
COPY = Callable[[], Path]


def rows(*ids: int) -> pd.DataFrame:
    """Request rows that nobody answered, with only what must not be null."""
    frame = pd.DataFrame({field.name: pd.Series([None] * len(ids), dtype=object) for field in REQUESTS})
    frame["request_id"] = list(ids)
    return frame.assign(worker=0, scenario="chat", outcome="refused", bytes_in=0, bytes_out=0, warmup=False)


def record(number: int = 1, target: str = "olla", **changes: object) -> RunRecord:
    name = run_name(number, "chat", target)
    return RunRecord.model_validate(
        {"schema": 1, "run": name, "scenario": "chat", "target": target, "round": number, **changes}
    )


def rewrite(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


# ---------------------------------------------------------------------------------------------------------- writing
def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    Campaign.create(tmp_path, HEADER)
    store.write_run(tmp_path, record(2), rows(5, 6))
    store.write_run(tmp_path, record(1), rows(7))
    campaign = store.load_campaign(tmp_path)
    assert campaign.header == HEADER
    assert [run.name for run in campaign.runs] == ["r01-chat-olla", "r02-chat-olla"]
    table = campaign.runs[1].table("requests")
    assert table is not None
    assert table["request_id"].tolist() == [5, 6]
    assert campaign.runs[1].table("events") is None


def test_nanoseconds_of_a_machine_up_for_years_lose_nothing(tmp_path: Path) -> None:
    Campaign.create(tmp_path, HEADER)
    stamp = 2**62 + 1
    store.write_run(tmp_path, record(), rows(1, 2).assign(sent_ns=pd.array([stamp, None], dtype="Int64")))
    table = store.load_campaign(tmp_path).runs[0].table("requests", ["sent_ns"])
    assert table is not None
    assert int(table["sent_ns"].iloc[0]) == stamp
    assert table["sent_ns"].isna().tolist() == [False, True]


def test_shards_of_several_workers_become_one_table(tmp_path: Path) -> None:
    Campaign.create(tmp_path, HEADER)
    folder = store.run_folder(tmp_path, "r01-chat-olla")
    for worker in (0, 1):
        frame = rows(worker).assign(worker=worker)
        pq.write_table(pa.Table.from_pandas(frame), folder / f"requests-{worker}.parquet")
    store.write_run(tmp_path, record())
    table = store.load_campaign(tmp_path).runs[0].table("requests")
    assert table is not None
    assert sorted(table["worker"].tolist()) == [0, 1]
    assert [path.name for path in sorted(folder.iterdir())] == ["requests.parquet", "run.json"]


def test_shards_left_beside_their_joined_table_by_a_crash_do_not_count_twice(tmp_path: Path) -> None:
    Campaign.create(tmp_path, HEADER)
    folder = store.write_run(tmp_path, record(), rows(1))
    shutil.copy(folder / "requests.parquet", folder / "requests-0.parquet")
    table = store.load_campaign(tmp_path).runs[0].table("requests")
    assert table is not None
    assert len(table) == 1


def test_ids_that_two_workers_share_are_refused(tmp_path: Path) -> None:
    Campaign.create(tmp_path, HEADER)
    with pytest.raises(ReportError, match="request_id 4 occurs twice"):
        store.write_run(tmp_path, record(), rows(3, 4, 4))


def test_columns_beyond_the_schema_are_kept(tmp_path: Path) -> None:
    Campaign.create(tmp_path, HEADER)
    store.write_run(tmp_path, record(), rows(1).assign(colour="blue"))
    table = store.load_campaign(tmp_path).runs[0].table("requests")
    assert table is not None
    assert table["colour"].tolist() == ["blue"]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"outcome": None}, "'outcome' has 1 nulls"),
        ({"bytes_in": "many"}, "'bytes_in' does not hold int64"),
    ],
)
def test_a_table_that_does_not_fit_is_refused_and_the_run_is_not_there(
    tmp_path: Path, change: dict[str, object], says: str
) -> None:
    Campaign.create(tmp_path, HEADER)
    with pytest.raises(ReportError, match=says):
        store.write_run(tmp_path, record(), rows(1).assign(**change))
    assert store.load_campaign(tmp_path).runs == ()


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    Campaign.create(tmp_path, HEADER)
    with pytest.raises(ReportError, match="'sent_ns' is missing"):
        store.write_run(tmp_path, record(), rows(1).drop(columns="sent_ns"))


def test_a_campaign_and_a_run_are_never_overwritten(tmp_path: Path) -> None:
    Campaign.create(tmp_path, HEADER)
    with pytest.raises(ReportError, match="already there"):
        Campaign.create(tmp_path, HEADER)
    store.write_run(tmp_path, record(), rows(1))
    with pytest.raises(ReportError, match="already written"):
        store.write_run(tmp_path, record(), rows(1))
    with pytest.raises(ReportError, match="finished"):
        store.discard_run(tmp_path, "r01-chat-olla")


def test_nan_never_reaches_a_json_file(tmp_path: Path) -> None:
    Campaign.create(tmp_path, HEADER)
    summary = {"e2e_p50_ms": float("nan"), "deep": {"er": [float("inf")]}}
    folder = store.write_run(tmp_path, record(summary=summary), rows(1))
    assert store.read_json(folder / "run.json")["summary"] == {"e2e_p50_ms": None, "deep": {"er": [None]}}
    with pytest.raises(ValueError, match="JSON compliant"):
        store.dump_json(summary)


@pytest.mark.parametrize("name", ["..", "../x", "a/b", ".hidden", "", "r01 chat"])
def test_a_run_name_cannot_leave_its_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(ReportError, match="not a plain file name"):
        store.run_folder(tmp_path, name)


def test_an_interrupted_run_is_discarded_before_it_is_run_again(tmp_path: Path) -> None:
    Campaign.create(tmp_path, HEADER)
    folder = store.run_folder(tmp_path, "r01-chat-olla")
    (folder / "requests-0.parquet").write_bytes(b"half")
    store.discard_run(tmp_path, "r01-chat-olla")
    assert not folder.exists()


def test_a_header_is_changed_in_place(tmp_path: Path) -> None:
    Campaign.create(tmp_path, HEADER)
    store.update_header(tmp_path, state="complete")
    assert store.load_campaign(tmp_path).header == HEADER.model_copy(update={"state": "complete"})


def test_a_disk_that_refuses_is_said_and_leaves_no_litter(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="cannot be written"):
        store.write_atomically(tmp_path / "absent" / "file", b"")
    (tmp_path / "taken").mkdir()
    with pytest.raises(ReportError, match="cannot be written"):
        store.write_atomically(tmp_path / "taken", b"")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


# ---------------------------------------------------------------------------------------------------------- reading
def test_a_run_without_its_record_is_unfinished_and_named(copied: COPY) -> None:
    folder = copied()
    (folder / "runs" / "r04-chat-olla" / "run.json").unlink()
    campaign = store.load_campaign(folder)
    assert campaign.unfinished == ("r04-chat-olla",)
    assert "r04-chat-olla" not in {run.name for run in campaign.runs}


@pytest.mark.parametrize(
    ("file", "content", "says"),
    [
        ("campaign.json", b"", "truncated"),
        ("campaign.json", b'{"schema": 1, "id"', "truncated"),
        ("campaign.json", b"\xff\xfe\x00", "not ours"),
        ("campaign.json", b"[1, 2]", "not one of our files"),
        ("campaign.json", b'{"name": "somebody else"}', "not one of our files"),
        ("campaign.json", b'{"schema": 1, "id": "x", "started": "y", "rounds_planned": NaN}', "NaN"),
        ("campaign.json", b'{"schema": 1, "id": "x", "started": "y", "rounds_planned": -1}', "rounds_planned"),
        ("campaign.json", b'{"schema": 99}', "newer proxy-engines"),
        ("campaign.json", b"[" * 100_000, "not readable as JSON"),
        ("runs/r01-chat-olla/run.json", b'{"schema": 99}', "newer proxy-engines"),
        ("runs/r01-chat-olla/run.json", b'{"schema": 1, "run": "r01-chat-olla"}', "scenario: Field required"),
    ],
)
def test_a_json_file_that_cannot_be_used_is_refused_in_one_sentence(
    copied: COPY, file: str, content: bytes, says: str
) -> None:
    folder = copied()
    (folder / file).write_bytes(content)
    with pytest.raises(ReportError) as caught:
        store.load_campaign(folder)
    message = str(caught.value)
    assert says in message
    assert file.rsplit("/", 1)[-1] in message
    assert "\n" not in message


def test_a_huge_json_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "campaign.json"
    with path.open("wb") as file:
        file.truncate(store.MAX_JSON_BYTES + 1)
    with pytest.raises(ReportError, match="too large"):
        store.read_json(path)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"not parquet at all, but long enough to look at", None])
def test_a_parquet_file_that_is_cut_or_foreign_is_refused_in_one_sentence(copied: COPY, content: bytes | None) -> None:
    folder = copied()
    path = folder / "runs" / "r01-chat-olla" / "requests.parquet"
    path.write_bytes(path.read_bytes()[:-200] if content is None else content)
    run = next(run for run in store.load_campaign(folder).runs if run.name == "r01-chat-olla")
    with pytest.raises(ReportError, match="truncated or not ours") as caught:
        run.table("requests")
    assert "\n" not in str(caught.value)


def test_a_parquet_file_of_somebody_else_is_refused(tmp_path: Path) -> None:
    Campaign.create(tmp_path, HEADER)
    folder = store.write_run(tmp_path, record())
    pq.write_table(pa.table({"x": [1]}), folder / "requests.parquet")
    with pytest.raises(ReportError, match="'request_id' is missing; not one of our requests tables"):
        store.load_campaign(tmp_path).runs[0].table("requests")


def test_a_parquet_file_of_another_kind_or_a_newer_version_is_refused(tmp_path: Path) -> None:
    Campaign.create(tmp_path, HEADER)
    folder = store.write_run(tmp_path, record(), rows(1))
    shutil.copy(folder / "requests.parquet", folder / "usage.parquet")
    run = store.load_campaign(tmp_path).runs[0]
    with pytest.raises(ReportError, match="holds a requests table where usage is expected"):
        run.table("usage")
    table = pq.read_table(folder / "requests.parquet")
    pq.write_table(table.replace_schema_metadata({"proxy_engines.schema": "99"}), folder / "requests.parquet")
    with pytest.raises(ReportError, match="newer proxy-engines"):
        run.table("requests")


def test_a_renamed_or_copied_run_is_refused(copied: COPY) -> None:
    folder = copied()
    (folder / "runs" / "r01-chat-olla").rename(folder / "runs" / "r09-chat-olla")
    with pytest.raises(ReportError, match="renamed or copied"):
        store.load_campaign(folder)


def test_a_folder_that_is_no_campaign_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="no such folder"):
        store.load_campaign(tmp_path / "absent")
    with pytest.raises(ReportError, match="is this a campaign folder"):
        store.load_campaign(tmp_path)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"config_hash": "other"}, "config_hash is 'other'"),
        ({"module_hash": "other"}, "module_hash is 'other'"),
        ({"versions": {"uvloop": "0.1", "python": "3.11.7"}}, r"versions\.uvloop is '0\.1' but '0\.23'"),
        ({"generator": "wrk"}, "generator is 'wrk'"),
    ],
)
def test_runs_that_differ_in_what_ran_are_not_mixed_and_the_field_is_named(
    tmp_path: Path, changes: dict[str, object], says: str
) -> None:
    Campaign.create(tmp_path, HEADER)
    same = {"config_hash": "c", "module_hash": "m", "versions": {"uvloop": "0.23", "python": "3.11.7"}}
    store.write_run(tmp_path, record(1, **same))
    store.write_run(tmp_path, record(2, **{**same, **changes}))
    with pytest.raises(ReportError, match=says):
        store.load_campaign(tmp_path)


def test_the_second_arm_of_the_baseline_must_have_run_the_same_thing(tmp_path: Path) -> None:
    Campaign.create(tmp_path, HEADER)
    store.write_run(tmp_path, record(1, "sherpa", config_hash="a"))
    store.write_run(tmp_path, record(1, "sherpa@aa", config_hash="b"))
    with pytest.raises(ReportError, match="config_hash"):
        store.load_campaign(tmp_path)


def test_the_header_states_the_config_hash_that_runs_must_carry(tmp_path: Path) -> None:
    Campaign.create(tmp_path, HEADER.model_copy(update={"config_hashes": {"olla": "right"}}))
    store.write_run(tmp_path, record(1, config_hash="wrong"))
    with pytest.raises(ReportError, match=r"config_hash is 'wrong' but 'right' in campaign\.json"):
        store.load_campaign(tmp_path)


def test_a_round_cannot_happen_twice(tmp_path: Path) -> None:
    Campaign.create(tmp_path, HEADER)
    store.write_run(tmp_path, record(1))
    again = record(1).model_copy(update={"run": "r01-chat-olla-again"})
    store.write_run(tmp_path, again)
    with pytest.raises(ReportError, match="a repeat must be a new round"):
        store.load_campaign(tmp_path)


def test_a_campaign_of_schema_1_is_read_and_what_its_targets_did_wrong_is_no_longer_void() -> None:
    found = store.load_campaign(Path(__file__).with_name("old") / "schema-1")
    ended = {run.name: (run.record.ended, run.record.void_reason, run.record.fault) for run in found.runs}
    assert ended["r01-chat-olla"] == ("ok", None, None)
    assert ended["r02-chat-olla"] == ("failed", None, "1 of 60 checked replies were not what the mock sent")
    outcome, void, fault = ended["r03-chat-sherpa"]
    assert (outcome, void) == ("overloaded", None)
    assert fault is not None
    assert fault.startswith("36 of 60 requests were finished in their time")
    outcome, void, fault = ended["r03-chat-olla"]
    assert (outcome, fault) == ("void", None)
    assert void == "20.0% of CPU time was stolen by the hypervisor, limit 5%"
    rows = found.runs[0].table("requests")
    assert rows is not None
    assert len(rows) > 0
