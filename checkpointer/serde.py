"""How values become bytes, in three layers, each of which tags the type and reads what lacks its tag.

    value ─AllowListSerializer─► "msgpack"  ─CompressedSerializer─► "msgpack.zstd"  ─Cipher─► "msgpack.zstd+gcm.KEY"

- `AllowListSerializer`: LangGraph's JsonPlusSerializer, but only listed types are rebuilt; a graph adds the types that
  its state declares when it is compiled. Upstream's default calls
  any importable callable that a row names, and its strict mode hands back raw data; here a type off the list raises
  `BlockedTypeError`.
- `CompressedSerializer`: zstd above 1 KB, where it makes the value smaller.
- `Cipher`: AES-256-GCM (or 128, 192: by the key's length). The row's identity is associated data, so a row copied
  to another thread or channel does not decrypt. Nonces are random, 96 bits: rotate a key before it has encrypted
  2^32 values (NIST SP 800-38D, 8.3). It needs the row's identity, so it is not a LangGraph serializer; the saver
  calls it.

LangGraph splits the type of an encrypted value at the first `+`; the tags of the inner layers hold none.
"""

from __future__ import annotations

import base64
import binascii
import os
import threading
from collections.abc import Collection, Iterable, Sequence
from hashlib import blake2b
from typing import Any, Self

import zstandard
from langgraph._internal import _serde as graph_types
from langgraph.checkpoint.serde.base import SerializerProtocol
from langgraph.checkpoint.serde.event_hooks import SerdeEvent, register_serde_event_listener
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from checkpointer.errors import BlockedTypeError, SettingsError, UnreadableError, UnsavableError
from checkpointer.metrics import BLOCKED_TYPES

__all__ = [
    "MAX_VALUE_BYTES",
    "AllowListSerializer",
    "Cipher",
    "CompressedSerializer",
    "can_be_shared",
    "collect_graph_types",
    "join_list",
    "parse_allowed_modules",
]

# PostgreSQL takes messages and fields below 1 GiB (MaxAllocSize); the rest of the row needs room too.
MAX_VALUE_BYTES = 1_000_000_000
_ZSTD = ".zstd"
_GCM = "+gcm."
_NONCE_BYTES = 12


class _Blocked(threading.local):
    """The blocked types that LangGraph reported while this thread rebuilds a value."""

    def __init__(self) -> None:
        self.names: list[str] = []


_blocked = _Blocked()


def _note_blocked(event: SerdeEvent) -> None:
    if event["kind"] in ("msgpack_blocked", "msgpack_method_blocked"):
        _blocked.names.append(".".join((event["module"], event["name"], *filter(None, [event.get("method")]))))


register_serde_event_listener(_note_blocked)


def collect_graph_types() -> None:
    """Have graphs tell their saver, when they are compiled, which types their state declares.

    LangGraph does so where LANGGRAPH_STRICT_MSGPACK was set before it was imported; this is that switch. It changes
    nothing for savers whose serializer takes every type anyway.
    """
    graph_types.STRICT_MSGPACK_ENABLED = True  # type: ignore[attr-defined]  # it re-exports it from another module


class AllowListSerializer(JsonPlusSerializer):
    """msgpack that rebuilds LangGraph's and LangChain's own types, plain data, and the types in `allowed`.

    `allowed` holds `(module, name)` pairs or classes. Values of other types can be saved but not loaded:
    `loads_typed` raises `BlockedTypeError`.
    """

    def __init__(self, allowed: Iterable[tuple[str, ...] | type] = ()) -> None:
        super().__init__(allowed_msgpack_modules=tuple(allowed) or None)

    def _reviver(self, value: dict[str, Any]) -> Any:
        """Objects in "json", the format before msgpack: upstream hands a type off its list back as raw data."""
        try:
            revived = super()._reviver(value)
        except ValueError:  # how LangChain refuses a type
            revived = value
        if revived is value and value.get("lc") in (1, 2) and value.get("type") == "constructor":
            _blocked.names.append(".".join(str(part) for part in value.get("id") or ()))
        return revived

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        """Rebuild a value. Raises `BlockedTypeError`, or `UnreadableError` for a type tag of another serializer."""
        _blocked.names.clear()
        try:
            value = super().loads_typed(data)
        except NotImplementedError:
            raise UnreadableError(f"a stored value has the type {data[0]!r}, which this saver can't read") from None
        if _blocked.names:
            BLOCKED_TYPES.inc()
            raise BlockedTypeError(_blocked.names[0])
        return value


class _Contexts(threading.local):
    """A zstd context serves one thread at a time."""

    def __init__(self) -> None:
        self.decompressor = zstandard.ZstdDecompressor()


_contexts = _Contexts()


class CompressedSerializer(SerializerProtocol):
    """zstd around any serializer; values shorter than `threshold` bytes stay as they are."""

    def __init__(self, inner: SerializerProtocol | None = None, *, threshold: int = 1024, level: int = 1) -> None:
        self.inner = inner or AllowListSerializer()
        self.threshold = threshold
        self.level = level
        self._local = threading.local()  # a zstd context serves one thread at a time

    def dumps_typed(self, obj: Any) -> tuple[str, bytes]:
        """Serialize, and compress where that makes it smaller. Raises `UnsavableError` past 1 GB."""
        return self.pack(*self.inner.dumps_typed(obj))

    def pack(self, kind: str, data: bytes) -> tuple[str, bytes]:
        """Compress what the inner serializer made, where that makes it smaller."""
        if len(data) < self.threshold:
            return kind, data
        if len(data) > MAX_VALUE_BYTES:
            raise UnsavableError(
                f"a value of {len(data):,} bytes can't be saved: PostgreSQL takes less than {MAX_VALUE_BYTES:,}. "
                "Keep large data outside the state and its address in it"
            )
        packed = self._compressor().compress(data)
        return (kind + _ZSTD, packed) if len(packed) < len(data) else (kind, data)

    def loads_typed(self, data: tuple[str, bytes]) -> Any:
        """Decompress what has the tag and rebuild it. Raises `UnreadableError` where it is damaged."""
        return self.inner.loads_typed(self.unpack(*data))

    @staticmethod
    def unpack(kind: str, data: bytes) -> tuple[str, bytes]:
        """Decompress what has the tag. Raises `UnreadableError` where it is damaged."""
        if not kind.endswith(_ZSTD):
            return kind, data
        try:
            # The frame says how large it will be; without a look at that, a crafted row could fill the memory.
            if not 0 <= zstandard.frame_content_size(data) <= MAX_VALUE_BYTES:
                raise UnreadableError("a compressed value claims an impossible size")
            return kind.removesuffix(_ZSTD), _contexts.decompressor.decompress(data)
        except zstandard.ZstdError as exc:
            raise UnreadableError(f"a compressed value is damaged: {exc}") from exc

    def with_msgpack_allowlist(self, extra: Collection[tuple[str, ...] | type]) -> CompressedSerializer:
        """The same serializer with more types on the inner one's list, where that keeps one."""
        if not isinstance(self.inner, JsonPlusSerializer):
            return self
        inner = self.inner.with_msgpack_allowlist(extra)
        if inner is self.inner:
            return self
        return CompressedSerializer(inner, threshold=self.threshold, level=self.level)

    def _compressor(self) -> zstandard.ZstdCompressor:
        if not hasattr(self._local, "compressor"):
            self._local.compressor = zstandard.ZstdCompressor(level=self.level)
        compressor: zstandard.ZstdCompressor = self._local.compressor
        return compressor


def can_be_shared(serde: SerializerProtocol) -> bool:
    """Whether equal values give equal bytes, so that an element may be stored once."""
    inner = serde.inner if isinstance(serde, CompressedSerializer) else serde
    return isinstance(inner, JsonPlusSerializer)


def join_list(elements: Iterable[tuple[str, bytes]]) -> tuple[str, bytes]:
    """Elements that were serialized one by one as the list that serializing them together gives.

    msgpack's array: https://github.com/msgpack/msgpack/blob/master/spec.md#array-format-family. Raises
    `UnreadableError` for elements of another serializer.
    """
    parts = []
    for kind, data in elements:
        if kind == "msgpack":
            parts.append(data)
        elif kind == "null":
            parts.append(b"\xc0")
        elif kind in ("bytes", "bytearray"):
            parts.append(b"\xc6" + len(data).to_bytes(4, "big") + data)
        else:
            raise UnreadableError(f"a list with elements of the type {kind!r} can't be stored whole")
    return "msgpack", b"\xdd" + len(parts).to_bytes(4, "big") + b"".join(parts)


class Cipher:
    """AES-GCM under named keys: the first encrypts, all decrypt."""

    def __init__(self, keys: Sequence[tuple[str, bytes]]) -> None:
        try:
            from cryptography.exceptions import InvalidTag
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        except ImportError as exc:
            raise SettingsError(
                "CHECKPOINT_ENCRYPTION_KEYS is set, but the library is missing: pip install 'holdfast[encryption]'"
            ) from exc
        self._invalid = InvalidTag
        self._keys = {name: AESGCM(key) for name, key in keys}
        self.current = keys[0][0]
        self._hash_secret = blake2b(keys[0][1], digest_size=32, person=b"holdfast hashes").digest()

    @classmethod
    def parse(cls, text: str) -> Self:
        """From `id:base64,id:base64,…`; keys of 16, 24 or 32 bytes. Raises `SettingsError`, never showing a key."""
        keys = []
        for position, part in enumerate(text.split(","), 1):
            name, _, encoded = part.strip().partition(":")
            try:
                key = base64.b64decode(encoded, validate=True)
            except binascii.Error:
                key = b""
            if not name.isidentifier() or len(key) not in (16, 24, 32):
                raise SettingsError(
                    f"CHECKPOINT_ENCRYPTION_KEYS entry {position} can't be used: it takes id:base64, where the id is "
                    "letters, digits and underscores and the key has 16, 24 or 32 bytes "
                    "(make one with: openssl rand -base64 32)"
                )
            keys.append((name, key))
        if len({name for name, _ in keys}) < len(keys):
            raise SettingsError("CHECKPOINT_ENCRYPTION_KEYS names a key id twice; each takes an id of its own")
        return cls(keys)

    def seal(self, kind: str, data: bytes, place: Sequence[str]) -> tuple[str, bytes]:
        """Encrypt a value for the row whose identity is `place`."""
        nonce = os.urandom(_NONCE_BYTES)
        tagged = kind + _GCM + self.current
        return tagged, nonce + self._keys[self.current].encrypt(nonce, data, _associated(tagged, place))

    def open(self, kind: str, data: bytes, place: Sequence[str]) -> tuple[str, bytes]:
        """Decrypt a value of that row; one without the tag comes back as it is. Raises `UnreadableError`."""
        inner, tag, name = kind.partition(_GCM)
        if not tag:
            return kind, data
        if name not in self._keys:
            raise UnreadableError(f"a stored value needs the key {name!r}: add it to CHECKPOINT_ENCRYPTION_KEYS")
        nonce, sealed = data[:_NONCE_BYTES], data[_NONCE_BYTES:]
        try:
            return inner, self._keys[name].decrypt(nonce, sealed, _associated(kind, place))
        except (self._invalid, ValueError):  # ValueError: cut short
            raise UnreadableError(
                f"a stored value does not decrypt under key {name!r}: it belongs to another row, the key is not the "
                "one that encrypted it, or it was changed"
            ) from None

    def hash_key(self, thread_id: str) -> bytes:
        """A key for hashing the values of one thread, so that equal values do not show across threads."""
        return blake2b(thread_id.encode(), digest_size=32, key=self._hash_secret, person=b"holdfast chunk").digest()

    @staticmethod
    def is_sealed(kind: str) -> bool:
        """Whether a type tag says that its value is encrypted."""
        return _GCM in kind


def _associated(kind: str, place: Sequence[str]) -> bytes:
    """An unambiguous encoding of the type tag and the row's identity: each part with its length before it."""
    parts = [part.encode() for part in (kind, *place)]
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def parse_allowed_modules(text: str) -> list[tuple[str, str]]:
    """From `my_app.models:Invoice,my_app.models:Line` (or with a dot). Raises `SettingsError`."""
    pairs = []
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        module, _, name = part.replace(":", ".").rpartition(".")
        if not module or not all(word.isidentifier() for word in (*module.split("."), name)):
            raise SettingsError(
                f"CHECKPOINT_ALLOWED_MODULES={part!r} can't be used: it takes module:Class, separated by commas"
            )
        pairs.append((module, name))
    return pairs
