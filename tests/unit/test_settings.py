"""Environment → settings: what parses, what is refused and how the refusal reads, and that no secret is shown."""

from __future__ import annotations

import os
import traceback
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from pydantic import ValidationError

from checkpointer import CheckpointerSettings, SettingsError, open_postgres_saver
from checkpointer.settings import mask_conninfo

SECRET = "hunter2hunter2"
ANY_TEXT = st.text(st.characters(exclude_characters="\0", codec="utf-8"))


def from_env(monkeypatch: pytest.MonkeyPatch, **env: str) -> CheckpointerSettings:
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    return CheckpointerSettings()


def refused(monkeypatch: pytest.MonkeyPatch, **env: str) -> str:
    with pytest.raises(SettingsError) as caught:
        from_env(monkeypatch, **env)
    # The whole traceback: an error that is only suppressed would still reach an error tracker.
    chain = [caught.value, caught.value.__cause__, caught.value.__context__]
    assert SECRET not in "".join(str(error) for error in chain)
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    return str(caught.value)


def test_defaults_are_those_of_the_documentation() -> None:
    settings = CheckpointerSettings()
    assert not settings.use_postgres_saver
    assert not settings.has_connection
    assert settings.postgres_schema == "workflow_checkpoints"
    assert (settings.postgres_pool_min_size, settings.postgres_pool_max_size) == (2, 10)
    assert (settings.postgres_connect_attempts, settings.postgres_connect_backoff) == (5, 0.5)
    assert (settings.postgres_connect_timeout, settings.postgres_retry_for) == (10.0, 30.0)
    assert (settings.postgres_setup, settings.postgres_pooler) == ("auto", "none")


class TestFlag:
    @pytest.mark.parametrize("word", ["true", "1", "yes", "on", "TRUE", "Yes", " on "])
    def test_on(self, monkeypatch: pytest.MonkeyPatch, word: str) -> None:
        assert from_env(monkeypatch, USE_POSTGRES_SAVER=word).use_postgres_saver is True

    @pytest.mark.parametrize("word", ["false", "0", "no", "off", "False", "OFF"])
    def test_off(self, monkeypatch: pytest.MonkeyPatch, word: str) -> None:
        assert from_env(monkeypatch, USE_POSTGRES_SAVER=word).use_postgres_saver is False

    @pytest.mark.parametrize("word", ["maybe", "", " ", "2", "t", "y", "enabled", "nein", "1.0"])
    def test_anything_else_is_an_error_and_never_false(self, monkeypatch: pytest.MonkeyPatch, word: str) -> None:
        message = refused(monkeypatch, USE_POSTGRES_SAVER=word)
        assert "USE_POSTGRES_SAVER" in message
        assert repr(word) in message
        assert "true/false, 1/0, yes/no or on/off" in message

    @pytest.mark.parametrize("value", [None, 1, 0, 1.0, [], b"true"])
    def test_other_types_are_refused(self, value: object) -> None:
        with pytest.raises(SettingsError, match="USE_POSTGRES_SAVER"):
            CheckpointerSettings(use_postgres_saver=value)


class TestConnectionString:
    @pytest.mark.parametrize(
        "text",
        [
            f"garbage {SECRET}",
            f"postgresql+asyncpg://u:{SECRET}@h/db",
            f"mysql://u:{SECRET}@h/db",
            f"postgresql://u:100%{SECRET}@h/db",
            f"postgresql://u:%a1{SECRET}@h/db",
            f"postgresql://u:{SECRET}@h:54x32/db",
            f"postgresql://u:{SECRET}@h/db?pgbouncer=true",
            f"host=h port=abc password={SECRET}",
            f"host=h password='{SECRET}",
            f"host=h pasword={SECRET}",
            # A password with an unescaped @ or /: libpq would take its end for the host or the database.
            f"postgresql://u:a@{SECRET}@h/db",
            f"postgresql://u:a/{SECRET}@h/db",
            f"postgresql://u:1/{SECRET}@h/db",
            f"postgresql://u:1/x?host={SECRET}@h/db",
            f"host=u:{SECRET}@h dbname=db",
            f"host=h dbname=postgresql://u:{SECRET}@h/db",
        ],
    )
    @pytest.mark.parametrize("variable", ["POSTGRES_CONNECTION_STRING", "POSTGRES_MIGRATION_CONNECTION_STRING"])
    def test_a_malformed_string_names_the_variable_and_not_the_secret(
        self, monkeypatch: pytest.MonkeyPatch, variable: str, text: str
    ) -> None:
        message = refused(monkeypatch, **{variable: text})
        assert message.startswith(f"{variable}=*** can't be used: it takes a URI such as postgresql://")
        assert "%40" in message

    @pytest.mark.parametrize(
        "text",
        [
            "postgresql://u:p%40%2F%3A%25@h:5432/db",
            "postgres://h/db?user=me@tenant&sslmode=require",
            "postgresql://u:p?x#y@h/db",
            "postgresql://u:p@h1:1,h2:2/db?target_session_attrs=read-write",
            "postgresql:///db?host=/var/run/postgresql",
            "postgresql://u@[::1]:5432/db",
            "host=/tmp user=u dbname=a@b",
            "host=@abstract user=u",
            "service=mine",
        ],
    )
    def test_what_libpq_reads_is_accepted_as_it_is(self, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
        settings = from_env(monkeypatch, POSTGRES_CONNECTION_STRING=text)
        assert settings.has_connection
        assert settings.conninfo() == text

    def test_the_newline_of_a_mounted_secret_is_dropped(self, monkeypatch: pytest.MonkeyPatch) -> None:
        settings = from_env(monkeypatch, POSTGRES_CONNECTION_STRING="postgresql://u:p@h/db\n")
        assert conninfo_to_dict(settings.conninfo())["dbname"] == "db"

    @pytest.mark.parametrize("text", ["", " ", "\n"])
    def test_empty_is_unset(self, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
        assert not from_env(monkeypatch, POSTGRES_CONNECTION_STRING=text).has_connection

    def test_migrations_use_the_same_server_unless_set_apart(self, monkeypatch: pytest.MonkeyPatch) -> None:
        settings = from_env(
            monkeypatch, POSTGRES_CONNECTION_STRING="postgresql://u@pooler/db", POSTGRES_PASSWORD=SECRET
        )
        assert settings.migration_conninfo() == settings.conninfo()
        settings = from_env(monkeypatch, POSTGRES_MIGRATION_CONNECTION_STRING="postgresql://u@direct/db")
        assert conninfo_to_dict(settings.conninfo())["host"] == "pooler"
        direct = conninfo_to_dict(settings.migration_conninfo())
        assert (direct["host"], direct["password"]) == ("direct", SECRET)

    async def test_open_postgres_saver_refuses_without_quoting_it(self) -> None:
        for text in (f"garbage {SECRET}", f"postgresql://u:a@{SECRET}@h/db"):
            with pytest.raises(SettingsError) as caught:
                async with open_postgres_saver(text, connect_attempts=1):
                    pass
            assert SECRET not in "".join(traceback.format_exception(caught.value))
        with pytest.raises(SettingsError, match="schema="):
            async with open_postgres_saver("postgresql://h/db", schema='a";drop', connect_attempts=1):
                pass


class TestSchema:
    @pytest.mark.parametrize("name", ["a", "_a", "workflow_checkpoints", "a1_b2", "public", "user", "x" * 63])
    def test_accepted(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        assert from_env(monkeypatch, POSTGRES_SCHEMA=name).postgres_schema == name

    @pytest.mark.parametrize(
        "name",
        [
            *('a";drop', "Upper", "pg_x", "pg_catalog", "information_schema", "x" * 64, "1a", "a-b", "a b"),
            *("a.b", "a\n", "é", "$user", "a'", "a,b"),
        ],
    )
    def test_refused(self, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        message = refused(monkeypatch, POSTGRES_SCHEMA=name)
        assert message.startswith(f"POSTGRES_SCHEMA={name!r} can't be used: it takes lower-case letters")

    def test_empty_is_the_default(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert from_env(monkeypatch, POSTGRES_SCHEMA="").postgres_schema == "workflow_checkpoints"


class TestParts:
    def test_are_put_together(self, monkeypatch: pytest.MonkeyPatch) -> None:
        password = r"it's a \ p@ss/word:%?#"
        settings = from_env(
            monkeypatch,
            POSTGRES_HOST="db.internal",
            POSTGRES_PORT="6543",
            POSTGRES_USER="claude",
            POSTGRES_PASSWORD=password,
            POSTGRES_DATABASE="claude_studio",
        )
        assert conninfo_to_dict(settings.conninfo()) == {
            "host": "db.internal",
            "port": "6543",
            "user": "claude",
            "password": password,
            "dbname": "claude_studio",
        }

    def test_host_alone_is_a_connection(self, monkeypatch: pytest.MonkeyPatch) -> None:
        settings = from_env(monkeypatch, POSTGRES_HOST="db")
        assert settings.has_connection
        assert conninfo_to_dict(settings.conninfo()) == {"host": "db"}

    def test_the_string_wins_over_the_parts(self, monkeypatch: pytest.MonkeyPatch) -> None:
        settings = from_env(monkeypatch, POSTGRES_CONNECTION_STRING="postgresql://u@string/db", POSTGRES_HOST="part")
        assert conninfo_to_dict(settings.conninfo())["host"] == "string"

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("postgresql://u@h/db", SECRET),
            ("postgresql://u:@h/db", SECRET),
            ("host=h user=u", SECRET),
            ("postgresql://u@h1,h2/db", SECRET),
            ("postgresql://u:own@h/db", "own"),
            ("host=h password=own", "own"),
            ("postgresql://u@h/db?password=own", "own"),
        ],
    )
    def test_password_fills_only_a_missing_one(self, monkeypatch: pytest.MonkeyPatch, text: str, expected: str) -> None:
        settings = from_env(monkeypatch, POSTGRES_CONNECTION_STRING=text, POSTGRES_PASSWORD=SECRET)
        filled = conninfo_to_dict(settings.conninfo())
        assert filled.pop("password") == expected
        given_parts = conninfo_to_dict(text)
        given_parts.pop("password", None)
        assert filled == given_parts

    def test_a_uri_given_as_the_host_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        message = refused(monkeypatch, POSTGRES_HOST=f"postgresql://u:{SECRET}@h/db")
        assert message.startswith("POSTGRES_HOST=***")
        assert "POSTGRES_CONNECTION_STRING" in message

    def test_no_server_named(self) -> None:
        for ask in (CheckpointerSettings().conninfo, CheckpointerSettings().migration_conninfo):
            with pytest.raises(SettingsError, match="POSTGRES_CONNECTION_STRING or POSTGRES_HOST"):
                ask()


class TestNumbers:
    @pytest.mark.parametrize(
        ("variable", "value"),
        [
            ("POSTGRES_PORT", "0"),
            ("POSTGRES_PORT", "65536"),
            ("POSTGRES_PORT", "-1"),
            ("POSTGRES_PORT", "54x"),
            ("POSTGRES_PORT", "5432.5"),
            ("POSTGRES_POOL_MIN_SIZE", "-1"),
            ("POSTGRES_POOL_MAX_SIZE", "0"),
            ("POSTGRES_POOL_MAX_SIZE", "1001"),
            ("POSTGRES_POOL_MAX_SIZE", "many"),
            ("POSTGRES_POOL_TIMEOUT", "0"),
            ("POSTGRES_SETUP_TIMEOUT", "-5"),
            ("POSTGRES_CONNECT_ATTEMPTS", "0"),
            ("POSTGRES_CONNECT_ATTEMPTS", "101"),
            ("POSTGRES_CONNECT_BACKOFF", "0"),
            ("POSTGRES_CONNECT_TIMEOUT", "10s"),
            ("POSTGRES_RETRY_FOR", "nan"),
            ("POSTGRES_RETRY_FOR", "inf"),
            ("POSTGRES_RETRY_FOR", "86401"),
            ("POSTGRES_SETUP", "AUTO"),
            ("POSTGRES_POOLER", "session"),
        ],
    )
    def test_out_of_range(self, monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
        assert refused(monkeypatch, **{variable: value}).startswith(f"{variable}={value!r} can't be used: it takes")

    def test_every_wrong_variable_is_named_at_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        message = refused(
            monkeypatch, USE_POSTGRES_SAVER="maybe", POSTGRES_PORT="x", POSTGRES_SCHEMA="A", POSTGRES_RETRY_FOR="0"
        )
        for variable in ("USE_POSTGRES_SAVER", "POSTGRES_PORT", "POSTGRES_SCHEMA", "POSTGRES_RETRY_FOR"):
            assert f"{variable}=" in message

    def test_pool_sizes_that_contradict_each_other(self, monkeypatch: pytest.MonkeyPatch) -> None:
        message = refused(monkeypatch, POSTGRES_POOL_MIN_SIZE="11")
        assert "POSTGRES_POOL_MAX_SIZE" in message
        assert "POSTGRES_POOL_MIN_SIZE" in message

    def test_empty_is_the_default(self, monkeypatch: pytest.MonkeyPatch) -> None:
        names = [name for name in CheckpointerSettings.model_fields if name != "use_postgres_saver"]
        assert from_env(monkeypatch, **{name.upper(): "" for name in names}) == CheckpointerSettings()


class TestEnvFile:
    def test_is_read_and_the_environment_wins(self, monkeypatch: pytest.MonkeyPatch) -> None:
        Path(".env").write_text(
            "USE_POSTGRES_SAVER=yes\nPOSTGRES_SCHEMA=from_file\nPOSTGRES_HOST=file\nUNKNOWN=1\n", encoding="utf-8"
        )
        monkeypatch.setenv("POSTGRES_SCHEMA", "from_environment")
        settings = CheckpointerSettings()
        assert settings.use_postgres_saver
        assert settings.postgres_schema == "from_environment"
        assert settings.postgres_host == "file"

    def test_arguments_win_over_both(self, monkeypatch: pytest.MonkeyPatch) -> None:
        Path(".env").write_text("POSTGRES_SCHEMA=from_file\n", encoding="utf-8")
        monkeypatch.setenv("POSTGRES_SCHEMA", "from_environment")
        assert CheckpointerSettings(postgres_schema="from_code").postgres_schema == "from_code"

    def test_a_wrong_value_in_it_is_refused_alike(self) -> None:
        Path(".env").write_text("USE_POSTGRES_SAVER=maybe\n", encoding="utf-8")
        with pytest.raises(SettingsError, match="USE_POSTGRES_SAVER='maybe'"):
            CheckpointerSettings()

    def test_a_file_that_is_not_text_is_refused(self) -> None:
        Path(".env").write_bytes(b"POSTGRES_SCHEMA=\xff\xfe\n")
        with pytest.raises(SettingsError, match=r"\.env can't be read"):
            CheckpointerSettings()

    @pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
    def test_a_file_that_may_not_be_read_is_refused(self) -> None:
        Path(".env").touch(mode=0)
        with pytest.raises(SettingsError, match=r"\.env can't be read"):
            CheckpointerSettings()


def test_settings_are_frozen() -> None:
    settings = CheckpointerSettings()
    with pytest.raises(ValidationError, match="frozen"):
        setattr(settings, "use_postgres_saver", True)  # noqa: B010 - the type checker knows that it is frozen
    assert not settings.use_postgres_saver


def test_secrets_are_not_shown_by_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = from_env(
        monkeypatch,
        POSTGRES_CONNECTION_STRING=f"postgresql://u:{SECRET}@h/db",
        POSTGRES_MIGRATION_CONNECTION_STRING=f"postgresql://u:{SECRET}@h/db",
        POSTGRES_PASSWORD=SECRET,
    )
    for shown in (repr(settings), str(settings), settings.model_dump_json(), repr(settings.model_dump())):
        assert SECRET not in shown


class TestMask:
    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            (
                "postgresql://claude:s@localhost:5432/claude_studio",
                "postgresql://claude:***@localhost:5432/claude_studio",
            ),
            ("postgres://claude@localhost/db", "postgresql://claude@localhost/db"),
            ("host=db port=5433 user=u password='a b' dbname=d", "postgresql://u:***@db:5433/d"),
            ("postgresql://h/db?password=s&sslpassword=s&user=u", "postgresql://u:***@h/db"),
            ("postgresql://u:p%40%2F@h1:1,h2:2/db", "postgresql://u:***@h1:1,h2:2/db"),
            ("host=h1,h2 port=7 user=u password=p", "postgresql://u:***@h1:7,h2:7/"),
            ("host=h1,h2 user=u password=p", "postgresql://u:***@h1,h2/"),
            ("postgresql://u:p@/db?host=/run/pg&port=5", "postgresql://u:***@%2Frun%2Fpg:5/db"),
            ("hostaddr=10.0.0.1 user=u password=p", "postgresql://u:***@10.0.0.1/"),
            ("postgresql://u:p@[::1]:5432/db", "postgresql://u:***@[::1]:5432/db"),
            ("host=h user='a:b@c' dbname='x/y?z'", "postgresql://a%3Ab%40c@h/x%2Fy%3Fz"),
            ("", "postgresql:///"),
            ("service=mine", "postgresql:///"),
            ("not a connection string", "postgresql://***"),
            ("postgresql://u:a@b@h/db", "postgresql://***"),
            ("postgresql://u:1/b@h/db", "postgresql://***"),
        ],
    )
    def test_shows_where_and_who(self, text: str, shown: str) -> None:
        assert mask_conninfo(text) == shown

    @given(
        password=ANY_TEXT.filter(bool).map(lambda text: f"<{text}>"),
        host=st.sampled_from(["h", "h1,h2", "/run/pg", "::1", ""]),
    )
    def test_never_shows_a_password_that_libpq_reads(self, password: str, host: str) -> None:
        for text in (
            make_conninfo("", host=host, user="u", password=password, sslpassword=password),
            f"postgresql://u:{quote(password, safe='')}@h1:1,h2:2/db",
            f"postgresql://h/db?user=u&password={quote(password, safe='')}",
        ):
            shown = mask_conninfo(text)
            assert password not in shown
            assert quote(password, safe="") not in shown
            assert shown.startswith("postgresql://u:***@")

    @given(st.text("@/:%#[]&=+,.' \\1aZ", max_size=8), st.text("@/:%#[]&=+,.' \\1aZ", max_size=8))
    def test_never_shows_a_password_that_was_not_escaped(self, before: str, after: str) -> None:
        shown = mask_conninfo(f"postgresql://u:{before}{SECRET}{after}@h:5432/db")
        assert SECRET not in shown

    @given(st.text())
    def test_takes_any_text(self, text: str) -> None:
        assert mask_conninfo(text).startswith("postgresql://")


@given(ANY_TEXT)
def test_no_text_lets_the_parser_s_own_error_out(text: str) -> None:
    for name in CheckpointerSettings.model_fields:
        with suppress(SettingsError):
            CheckpointerSettings(**{name: text})
