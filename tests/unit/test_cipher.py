"""Encryption of values: bound to their row, under named keys, off and on over older data."""

from __future__ import annotations

import base64
import os

import pytest
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from checkpointer.errors import SettingsError, UnreadableError
from checkpointer.postgres.codec import Codec
from checkpointer.serde import Cipher, CompressedSerializer

PLACE = ("blob", "thread", "", "channel", "1")
KEY, OTHER_KEY = bytes(range(32)), bytes(range(1, 33))


class TestCipher:
    def test_round_trip_and_nothing_in_clear(self) -> None:
        cipher = Cipher([("one", KEY)])
        kind, sealed = cipher.seal("msgpack.zstd", b"secret", PLACE)
        assert kind == "msgpack.zstd+gcm.one"
        assert b"secret" not in sealed
        assert cipher.open(kind, sealed, PLACE) == ("msgpack.zstd", b"secret")
        assert cipher.seal("msgpack.zstd", b"secret", PLACE)[1] != sealed  # a nonce of its own

    def test_older_data_without_the_tag_is_read(self) -> None:
        codec = Codec(CompressedSerializer(), Cipher([("one", KEY)]))
        for value in ([1, 2], "x" * 5000, None):
            for serde in (JsonPlusSerializer(), CompressedSerializer()):
                kind, data = serde.dumps_typed(value)
                assert codec.load(kind, data, PLACE) == value

    @pytest.mark.parametrize("part", range(len(PLACE)))
    def test_in_another_place_it_does_not_open(self, part: int) -> None:
        cipher = Cipher([("one", KEY)])
        sealed = cipher.seal("msgpack", b"secret", PLACE)
        elsewhere = [*PLACE]
        elsewhere[part] += "x"
        with pytest.raises(UnreadableError, match="another row"):
            cipher.open(*sealed, elsewhere)

    def test_parts_of_a_place_do_not_run_together(self) -> None:
        cipher = Cipher([("one", KEY)])
        sealed = cipher.seal("msgpack", b"secret", ("blob", "ab", "c", "d", "e"))
        with pytest.raises(UnreadableError):
            cipher.open(*sealed, ("blob", "a", "bc", "d", "e"))

    def test_another_type_tag_does_not_open(self) -> None:
        cipher = Cipher([("one", KEY)])
        _, sealed = cipher.seal("bytes", b"secret", PLACE)
        with pytest.raises(UnreadableError):
            cipher.open("msgpack+gcm.one", sealed, PLACE)

    def test_every_changed_byte_is_noticed(self) -> None:
        cipher = Cipher([("one", KEY)])
        kind, sealed = cipher.seal("msgpack", b"secret", PLACE)
        for position in range(len(sealed)):
            changed = bytearray(sealed)
            changed[position] ^= 1
            with pytest.raises(UnreadableError):
                cipher.open(kind, bytes(changed), PLACE)

    @pytest.mark.parametrize("length", [0, 5, 12, 20])
    def test_what_is_cut_short_is_unreadable(self, length: int) -> None:
        cipher = Cipher([("one", KEY)])
        kind, sealed = cipher.seal("msgpack", b"secret", PLACE)
        with pytest.raises(UnreadableError):
            cipher.open(kind, sealed[:length], PLACE)

    def test_wrong_key_under_the_same_name(self) -> None:
        sealed = Cipher([("one", KEY)]).seal("msgpack", b"secret", PLACE)
        with pytest.raises(UnreadableError, match="not the one that encrypted it"):
            Cipher([("one", OTHER_KEY)]).open(*sealed, PLACE)

    def test_unknown_key_is_named(self) -> None:
        sealed = Cipher([("one", KEY)]).seal("msgpack", b"secret", PLACE)
        with pytest.raises(UnreadableError, match=r"'one'.*CHECKPOINT_ENCRYPTION_KEYS"):
            Cipher([("two", KEY)]).open(*sealed, PLACE)

    def test_without_keys_it_says_which_setting_is_missing(self) -> None:
        sealed = Cipher([("one", KEY)]).seal("msgpack", b"secret", PLACE)
        with pytest.raises(UnreadableError, match="CHECKPOINT_ENCRYPTION_KEYS is not set"):
            Codec(CompressedSerializer()).load(*sealed, PLACE)

    def test_rotation_encrypts_with_the_first_and_reads_all(self) -> None:
        before = Cipher([("one", KEY)]).seal("msgpack", b"old", PLACE)
        rotated = Cipher([("two", OTHER_KEY), ("one", KEY)])
        assert rotated.open(*before, PLACE) == ("msgpack", b"old")
        assert rotated.seal("msgpack", b"new", PLACE)[0] == "msgpack+gcm.two"

    def test_langgraph_splits_the_type_at_the_first_plus(self) -> None:
        kind, _ = Cipher([("one", KEY)]).seal(*CompressedSerializer().dumps_typed("x" * 5000), PLACE)
        assert kind.split("+", 1) == ["msgpack.zstd", "gcm.one"]

    @pytest.mark.parametrize("size", [16, 24, 32])
    def test_keys_are_parsed(self, size: int) -> None:
        first, second = os.urandom(size), os.urandom(32)
        text = f"b1:{base64.b64encode(first).decode()}, a_2:{base64.b64encode(second).decode()}"
        cipher = Cipher.parse(text)
        assert cipher.current == "b1"
        sealed = Cipher([("a_2", second)]).seal("msgpack", b"x", PLACE)
        assert cipher.open(*sealed, PLACE) == ("msgpack", b"x")

    @pytest.mark.parametrize(
        "text",
        [
            "",
            ",",
            "one",
            "one:",
            ":" + base64.b64encode(KEY).decode(),
            "one:SECRETSECRET",
            "one:SECRET-not-base64!",
            "one:" + base64.b64encode(b"SECRET" * 5).decode(),
            "o+ne:" + base64.b64encode(KEY).decode(),
            "o.ne:" + base64.b64encode(KEY).decode(),
            "one two:" + base64.b64encode(KEY).decode(),
            "one:" + base64.b64encode(KEY).decode() + ",",
            "one:" + base64.b64encode(KEY).decode() + ",one:" + base64.b64encode(OTHER_KEY).decode(),
            base64.b64encode(KEY).decode(),
        ],
    )
    def test_a_bad_key_text_is_refused_without_showing_it(self, text: str) -> None:
        with pytest.raises(SettingsError, match="CHECKPOINT_ENCRYPTION_KEYS") as caught:
            Cipher.parse(text)
        shown = f"{caught.value!r} {caught.value.__cause__!r} {caught.value.__context__!r}"
        for secret in ("SECRET", base64.b64encode(KEY).decode(), base64.b64encode(OTHER_KEY).decode()):
            assert secret not in shown


def test_the_layers_together() -> None:
    """Compressed, then encrypted; opened in the opposite order."""
    serde, cipher = CompressedSerializer(), Cipher([("one", KEY)])
    value = ["secret " * 1000]
    kind, data = cipher.seal(*serde.dumps_typed(value), PLACE)
    assert kind == "msgpack.zstd+gcm.one"
    assert len(data) < 200
    assert b"secret" not in data
    assert Codec(serde, cipher).load(kind, data, PLACE) == value
