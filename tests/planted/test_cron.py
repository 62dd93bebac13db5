"""Cron lines whose time never comes: the server's controller would look for it without end, for all schedules of the cluster."""

from __future__ import annotations

import pytest

from instar.cli import cluster
from instar.cli.cluster import Server
from instar.errors import ConfigError
from instar.kfp.schedule import check_cron

NEVER = ["0 0 3 31 2 *", "0 0 3 30 FEB ?", "0 0 3 31 2,4,6,9,11 *", "0 0 3 30-31 2 */2"]
SOMETIMES = ["0 0 3 29 2 0/7", "0 0 3 29 2 *", "0 0 3 31 * ?", "0 0 3 31 2 MON", "0 0 3 31 4-5 *", "0 0 3 * 2 */3"]


@pytest.mark.parametrize("option", ["--cron", "--tick"])
@pytest.mark.parametrize("line", NEVER)
def test_a_time_that_never_comes_is_refused(line: str, option: str) -> None:
    lines = {"--cron": "0 0 3 * * *", "--tick": "0 */10 * * * *", option: line}
    with pytest.raises(ConfigError, match=r"days that occur at least once in five years; found day .*") as raised:
        cluster.schedule("s3://x/y", "e", Server(host="http://127.0.0.1:1"), lines["--cron"], lines["--tick"])
    assert raised.value.where == option


@pytest.mark.parametrize("line", SOMETIMES)
def test_a_time_that_comes_is_accepted(line: str) -> None:
    check_cron(line)
