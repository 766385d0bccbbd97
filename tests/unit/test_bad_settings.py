"""Whatever is given as a setting, id, token, cursor or payload is read, or refused in our own words.

Texts are drawn with what breaks readers of texts: NUL, halves of surrogate pairs, other digits, quotes, SQL and paths.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from checkpointer import SettingsError
from checkpointer.settings import mask_conninfo
from orchestrator import OrchestratorSettings
from orchestrator.api.auth import organization_of
from orchestrator.api.events import first_event
from orchestrator.errors import InvalidPayloadError, InvalidRequestError, RunNotFoundError, UnauthorizedError
from orchestrator.keeping import KeepFor
from orchestrator.queues.driver import MessageData
from orchestrator.runs.failure import black_out, spellings
from orchestrator.runs.jsonable import check_payload
from orchestrator.runs.model import check_identifier, check_organization, check_queue, parse_run_id
from orchestrator.runs.store import Cursor

NASTY = (
    *("\0", "\ud800", "²", "٣", "'; DROP TABLE x; --", "../../etc/passwd", "%00", "{schema}", "\r\nX: y", "1e999"),
    "a" * 300,
)
TEXTS = st.one_of(st.sampled_from(NASTY), st.text(st.characters(codec=None), max_size=40))
ENVIRONMENT = st.one_of(st.sampled_from([each for each in NASTY if each.isprintable()]), st.text(max_size=40)).filter(
    lambda text: "\0" not in text
)
CONNINFOS = st.one_of(
    ENVIRONMENT,
    st.builds("postgresql://{}:{}@{}:{}/{}".format, ENVIRONMENT, ENVIRONMENT, ENVIRONMENT, st.integers(), ENVIRONMENT),
    st.builds("host={} password={} port={}".format, ENVIRONMENT, ENVIRONMENT, st.integers()),
)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=8,
)
NAMES = sorted(OrchestratorSettings.model_fields)
SECRETS = [name for name in NAMES if OrchestratorSettings.model_fields[name].annotation == SecretStr | None]
few = settings(max_examples=60, deadline=None)


def _read(name: str, value: str) -> OrchestratorSettings | SettingsError:
    """The settings where this is in the environment, or why not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(name.upper(), value)
        try:
            return OrchestratorSettings()
        except SettingsError as exc:
            return exc


@settings(max_examples=250, deadline=None)
@given(name=st.sampled_from(NAMES), value=ENVIRONMENT)
def test_a_setting_is_read_or_refused_by_its_name(name: str, value: str) -> None:
    read = _read(name, value)
    if isinstance(read, SettingsError):
        assert name.upper() in str(read)
        assert "\n" not in str(read)
    else:
        assert isinstance(read.secrets(), list)


@few
@given(name=st.sampled_from(SECRETS), value=ENVIRONMENT)
def test_a_secret_is_not_shown(name: str, value: str) -> None:
    read = _read(name, f"{value} pl4nted")
    assert "pl4nted" not in f"{read!r} {read}"
    assert not isinstance(read, SettingsError) or read.__cause__ is read.__context__ is None


@few
@given(conninfo=CONNINFOS)
def test_a_connection_string_is_shown_without_its_password_or_not_at_all(conninfo: str) -> None:
    shown = mask_conninfo(conninfo)
    try:
        read = OrchestratorSettings(postgres_connection_string=conninfo)
    except SettingsError:
        assert shown == "postgresql://***" or not conninfo.strip()
        return
    for secret in read.secrets():
        # One that is also the user's name, the host or the database can be read there.
        assert len(secret) < 8 or secret not in shown or conninfo.count(secret) > 1


@few
@given(shown=st.one_of(st.none(), TEXTS, TEXTS.map("Bearer {}".format)))
def test_a_token_is_an_organizations_or_refused(shown: str | None) -> None:
    tokens = {"the-right-one": "acme", "und-ein-anderer-ü": "other"}
    try:
        found = organization_of(tokens, shown)
    except UnauthorizedError:
        return
    assert shown is not None
    assert found == tokens[shown.partition(" ")[2].strip()]


@few
@given(text=TEXTS)
def test_texts_of_requests_are_read_or_refused(text: str) -> None:
    for read in (
        lambda: Cursor.decode(text),
        lambda: first_event(None, text),
        lambda: check_identifier("thread id", text),
        lambda: check_organization(text),
        lambda: check_queue(text),
        lambda: parse_run_id(text),
    ):
        with suppress(InvalidRequestError, RunNotFoundError):
            read()
    with suppress(ValueError):
        KeepFor.parse(text)


@few
@given(payload=JSON)
def test_a_payload_is_kept_as_it_is_or_refused(payload: Any) -> None:
    try:
        kept = check_payload(payload)
    except InvalidPayloadError:
        return
    assert json.loads(json.dumps(kept)) == payload


@few
@given(value=JSON)
def test_a_message_of_a_queue_is_read_or_refused(value: Any) -> None:
    try:
        read = MessageData.from_json(value)
    except InvalidRequestError:
        return
    assert MessageData.from_json(read.as_json()) == read


@few
@given(secret=st.text(min_size=4, max_size=30), around=st.text(max_size=10))
def test_a_secret_is_blacked_out_however_it_is_spelled(secret: str, around: str) -> None:
    known = spellings([secret])
    for spelled in (secret, repr(secret)[1:-1], json.dumps(secret)[1:-1]):
        told = black_out(f"{around}{spelled}{around}", known)
        assert secret in around or secret in "***" or secret not in told
