"""Messages that only somebody with the key can have written: what is pickled is not opened from anybody else.

HMAC-SHA256 (RFC 2104) over what the message is for, which call it belongs to, and its content. It keeps code of
strangers out; it does not hide a message from who may read the broker, and does not notice one that comes twice.
"""

from __future__ import annotations

import base64
import hmac
import os
import secrets
import stat
from pathlib import Path

from ..errors import UsageError

__all__ = ["Forged", "Seal", "key_from"]

# As long as SHA-256's digest: RFC 2104, section 3.
_KEY_BYTES = 32


class Forged(Exception):
    """A message is not signed with the key."""


class Seal:
    """Signs messages, and opens those that are signed with the same key.

    >>> seal = Seal(b"k" * 32)
    >>> seal.open("call", "7", seal.close("call", "7", b"content"))
    b'content'
    """

    def __init__(self, key: bytes) -> None:
        self._key = key

    def close(self, purpose: str, call_id: str, content: bytes) -> str:
        """Make text of ``content`` and its signature."""
        return base64.b64encode(self._signature(purpose, call_id, content) + content).decode("ascii")

    def open(self, purpose: str, call_id: str, text: str) -> bytes:
        """Take the content out again. Raises ``Forged`` where it was not signed for this with this key."""
        try:
            raw = base64.b64decode(text, validate=True)
        except ValueError as error:
            raise Forged(f"a message that is no message: {error}") from None
        size = len(self._signature("", "", b""))
        if not hmac.compare_digest(raw[:size], self._signature(purpose, call_id, raw[size:])):
            raise Forged("a message that was not signed with the executor's key; it was not opened")
        return raw[size:]

    def _signature(self, purpose: str, call_id: str, content: bytes) -> bytes:
        # Each part with its length: else what is signed as one call's could be parted anew, and opened as another's.
        words = [part.encode("utf-8", "surrogatepass") for part in (purpose, call_id)]
        message = b"".join(len(part).to_bytes(8) + part for part in (*words, content))
        return hmac.digest(self._key, message, "sha256")


def key_from(file: str | os.PathLike[str]) -> bytes:
    """Read the key of ``file``; where there is none it is made, for its owner alone.

    Raises ``UsageError`` for a file that others may read or write, or that is too short for a key.
    """
    path = Path(file)
    if not path.exists():
        # Written aside, and then given its name where nobody else has done so meanwhile: no one reads half a key.
        aside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as new:  # which may find no room
                new.write(secrets.token_bytes(_KEY_BYTES))
            os.link(aside, path)
        except FileExistsError:
            pass
        finally:
            os.unlink(aside)
    with open(path, "rb") as old:
        mode = os.fstat(old.fileno()).st_mode
        if stat.S_IMODE(mode) & 0o077:
            raise UsageError(f"the key in {path} is open to others than its owner", remedy=f"`chmod 600 {path}`")
        key = old.read()
    if len(key) < _KEY_BYTES:
        raise UsageError(
            f"{path} holds {len(key)} bytes, and a key has {_KEY_BYTES}", remedy="remove it, and it is made anew"
        )
    return key
