"""The S3 endpoint of the environment: what cannot be a service's address or a key is refused by name, and never shown."""

from __future__ import annotations

import pytest

from instar.errors import ConfigError
from instar.store_endpoint import endpoint_from_environment


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INSTAR_S3_ENDPOINT", "http://store:8333")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    for key in ("AWS_SESSION_TOKEN", "AWS_REGION"):
        monkeypatch.delenv(key, raising=False)


@pytest.mark.parametrize(
    ("text", "host", "secure"),
    [
        ("http://store:8333", "store:8333", False),
        ("https://s3.internal/", "s3.internal", True),
        ("store:65535", "store:65535", True),
        ("http://[::1]:9000", "[::1]:9000", False),
    ],
)
def test_addresses(text: str, host: str, secure: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INSTAR_S3_ENDPOINT", text)
    found = endpoint_from_environment()
    assert (found.host, found.secure) == (host, secure)


@pytest.mark.parametrize(
    "text",
    [
        "http://store:65536",
        "http://store:0",
        "http://store:x",
        "http://store:-1",
        "http://[store",
        "http://:8333",
        "http://store:8333/#part",
        "http://sto\nre:8333",
    ],
)
def test_an_address_that_is_none_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INSTAR_S3_ENDPOINT", text)
    with pytest.raises(ConfigError, match="INSTAR_S3_ENDPOINT"):
        endpoint_from_environment()


@pytest.mark.parametrize("key", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION"])
@pytest.mark.parametrize("value", ["hidden\n", "hid\x1bden", "hidden\r\nX-Header: 1", "hidden\u00e9", "\x7fhidden"])
def test_control_characters_are_refused_and_not_shown(key: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(key, value)
    with pytest.raises(ConfigError) as caught:
        endpoint_from_environment()
    assert key in caught.value.found and caught.value.where == "environment"
    assert "hid" not in caught.value.render()
