from __future__ import annotations

import pytest

from checkpointer import SettingsError
from orchestrator import OrchestratorSettings


def test_defaults() -> None:
    settings = OrchestratorSettings()
    assert (settings.host, settings.port, settings.log_format, settings.log_level) == (
        "127.0.0.1",
        3456,
        "text",
        "INFO",
    )
    assert settings.tokens == {}
    assert not settings.use_postgres_saver


def test_it_holds_the_checkpointer_settings_and_reads_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("USE_POSTGRES_SAVER", "on")
    monkeypatch.setenv("PORT", "4000")
    monkeypatch.setenv("LOG_LEVEL", "debug")
    monkeypatch.setenv("API_TOKENS", "one:acme, two:default,three:acme")
    settings = OrchestratorSettings()
    assert settings.use_postgres_saver
    assert (settings.port, settings.log_level) == (4000, "DEBUG")
    assert settings.tokens == {"one": "acme", "two": "default", "three": "acme"}


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "127.8.9.1"])
def test_a_loopback_address_needs_no_token(host: str) -> None:
    assert OrchestratorSettings(host=host).host == host


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org"])  # noqa: S104 - refused
def test_any_other_address_does(host: str) -> None:
    with pytest.raises(SettingsError, match=f"HOST='{host}' can't be used without API_TOKENS"):
        OrchestratorSettings(host=host)
    assert OrchestratorSettings(host=host, api_tokens="t:acme").host == host


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "http"),
        ("PORT", "70000"),
        ("LOG_FORMAT", "xml"),
        ("LOG_LEVEL", "loud"),
        ("RUN_MAX_ATTEMPTS", "0"),
        ("DRAIN_TIMEOUT", "-1"),
        ("API_TOKENS", "s3cret"),
        ("API_TOKENS", "s3cret:"),
        ("API_TOKENS", "s3cret:a/b"),
        ("API_TOKENS", "s3cret:a,s3cret:b"),
    ],
)
def test_a_value_that_does_not_parse_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=name) as caught:
        OrchestratorSettings()
    assert "s3cret" not in str(caught.value)
    if name != "API_TOKENS":
        assert repr(value) in str(caught.value)


def test_tokens_do_not_show() -> None:
    settings = OrchestratorSettings(api_tokens="s3cret:acme")
    assert "s3cret" not in repr(settings)
    assert "s3cret" in settings.secrets()
