"""Recurring runs: what is on the server becomes what is wanted, and a cron line that the server would misread is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from instar.errors import ConfigError, UnavailableError
from instar.kfp.api import Schedule
from instar.kfp.client import KfpClient
from instar.kfp.schedule import Reconciled, check_cron, reconcile_schedule
from support.fake_kfp import FakeKfp


def test_a_schedule_is_created_once_pinned_and_one_at_a_time(api: KfpClient, kfp: FakeKfp, wanted: Schedule) -> None:
    done = reconcile_schedule(api, wanted)
    assert done.created and not done.kept
    (raw,) = kfp.schedules.values()
    assert raw["max_concurrency"] == "1" and raw["no_catchup"] is True and raw["status"] == "ENABLED"
    assert raw["pipeline_version_reference"]["pipeline_version_id"] == wanted.version.version_id
    assert reconcile_schedule(api, wanted) == Reconciled(kept=done.created)
    assert kfp.requests.count("create_schedule") == 1 and kfp.requests.count("delete_schedule") == 0


@pytest.mark.parametrize(
    "change",
    [
        {"cron": "0 0 3 * * *"},
        {"parameters": {"evolution": "evo", "limit": 3}},
        {"max_concurrency": 2},
        {"no_catchup": False},
        {"service_account": "other"},
        {"pipeline_root": "s3://other"},
    ],
)
def test_a_different_schedule_is_replaced_new_before_old(
    api: KfpClient, kfp: FakeKfp, wanted: Schedule, change: dict[str, object]
) -> None:
    old = reconcile_schedule(api, replace(wanted, **change)).created  # type: ignore[arg-type]
    kfp.requests.clear()
    done = reconcile_schedule(api, wanted)
    assert done.deleted == (old,) and list(kfp.schedules) == [done.created]
    assert [r for r in kfp.requests if r != "list_schedules"] == ["create_schedule", "delete_schedule"]


def test_a_crash_between_create_and_delete_is_repaired(api: KfpClient, kfp: FakeKfp, wanted: Schedule) -> None:
    reconcile_schedule(api, replace(wanted, cron="0 0 3 * * *"))
    kfp.fault("delete_schedule", "503")
    with pytest.raises(UnavailableError):
        reconcile_schedule(api, wanted)
    assert len(kfp.schedules) == 2
    done = reconcile_schedule(api, wanted)
    assert list(kfp.schedules) == [done.kept] and len(done.deleted) == 1


def test_duplicates_are_removed_and_the_enabled_one_stays(api: KfpClient, kfp: FakeKfp, wanted: Schedule) -> None:
    ids = [api.create_schedule(wanted) for _ in range(3)]
    kfp.work("disable_schedule", (ids[0],), {}, None)
    assert reconcile_schedule(api, wanted) == Reconciled(kept=ids[1], deleted=(ids[0], ids[2]))


def test_a_schedule_that_a_person_disabled_stays_disabled(api: KfpClient, kfp: FakeKfp, wanted: Schedule) -> None:
    kept = reconcile_schedule(api, wanted).created
    kfp.work("disable_schedule", (kept,), {}, None)
    assert reconcile_schedule(api, wanted) == Reconciled(kept=kept, enabled=False)
    api.delete_schedule(kept)
    api.delete_schedule(kept)
    assert not kfp.schedules


@pytest.mark.parametrize("cron", ["0 3 * * *", "", "0 0 3 * * * 2026"])
def test_a_cron_that_is_not_six_fields_is_refused_before_any_call(
    api: KfpClient, kfp: FakeKfp, wanted: Schedule, cron: str
) -> None:
    kfp.requests.clear()
    with pytest.raises(ConfigError, match="six cron fields"):
        reconcile_schedule(api, replace(wanted, cron=cron))
    assert kfp.requests == []


@pytest.mark.parametrize(
    "cron",
    [
        "0 0 3 * * *",
        "0 */30 * * * ?",
        "59 59 23 31 12 6",
        "0 0 1,13 1-15/2 JAN-mar,Dec SUN-SAT",
        "5/10 * * ? * mon",
        "@yearly",
        "@annually",
        "@monthly",
        "@weekly",
        "@daily",
        "@midnight",
        "@hourly",
        "@every 30m",
        "@every 1h30m",
        "@every 1.5h",
        "@every .5h10s",
    ],
)
def test_a_cron_that_the_server_reads_is_accepted(cron: str) -> None:
    check_cron(cron)


@pytest.mark.parametrize(
    ("cron", "field"),
    [
        ("60 0 3 * * *", "seconds"),
        ("0 60 3 * * *", "minutes"),
        ("0 0 24 * * *", "hours"),
        ("0 0 3 0 * *", "day"),
        ("0 0 3 32 * *", "day"),
        ("0 0 3 * 13 *", "month"),
        ("0 0 3 * 0 *", "month"),
        ("0 0 3 * * 7", "weekday"),
        ("0 0 3 * JAM *", "month"),
        ("0 0 3 * SUN *", "month"),
        ("0 0 3 * * JAN", "weekday"),
        ("0 0 JAN * * *", "hours"),
        ("0 0 5-3 * * *", "hours"),
        ("0 0 1-2-3 * * *", "hours"),
        ("0 */0 * * * *", "minutes"),
        ("0 0 3, * * *", "hours"),
        ("0 0 *-5 * * *", "hours"),
        ("0 0 -1 * * *", "hours"),
        ("0 0 x * * *", "hours"),
        ("0 0 3 L * *", "day"),
        ("0 0 \u0663 * * *", "hours"),
        ("0 0 3 * * FRI-MON", "weekday"),
        ("0 1/2/3 * * * *", "minutes"),
    ],
)
def test_a_cron_field_out_of_range_is_named(cron: str, field: str) -> None:
    with pytest.raises(ConfigError, match=f"expected {field} from") as refused:
        check_cron(cron, "--tick")
    assert refused.value.where == "--tick" and cron in refused.value.found


@pytest.mark.parametrize(
    "cron", ["@nightly", "@Daily", "@", "@every", "@every 30", "@every 3 h", "@every 0s", "@every -1h", "@every 1d"]
)
def test_an_unknown_shorthand_is_refused(cron: str) -> None:
    with pytest.raises(ConfigError, match="@midnight"):
        check_cron(cron)
