"""A server of Kubeflow Pipelines on loopback, its client, and what a run is to be."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from instar.kfp.api import RunSpec, Schedule, Version
from instar.kfp.client import KfpClient
from instar.kfp.http import KfpOptions
from support.fake_kfp import FakeKfp

FAST = KfpOptions(connect_timeout_s=1.0, read_timeout_s=0.3, deadline_s=0.2, backoff_s=0.02)


@pytest.fixture
def kfp() -> Iterator[FakeKfp]:
    server = FakeKfp().start()
    yield server
    server.stop()


@pytest.fixture
def api(kfp: FakeKfp) -> KfpClient:
    return KfpClient(kfp.url + "/", options=FAST)


@pytest.fixture
def spec(api: KfpClient, kfp: FakeKfp) -> RunSpec:
    pipeline, version = kfp.add_version()
    return RunSpec(
        name="evo-000000-1",
        experiment=api.ensure_experiment("evo"),
        version=Version(pipeline_id=pipeline, version_id=version),
        parameters={"segment": 3, "store": "s3://b"},
        pipeline_root="s3://b/root",
        service_account="instar-submitter",
    )


@pytest.fixture
def wanted(spec: RunSpec) -> Schedule:
    return Schedule(
        name="instar-tick",
        experiment=spec.experiment,
        version=spec.version,
        cron="0 */30 * * * *",
        parameters={"evolution": "evo", "limit": 2},
        service_account="instar-submitter",
    )
