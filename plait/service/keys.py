"""API keys: random, shown once, kept as hashes with what each may do."""

import hashlib
import hmac
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

import msgspec

from plait.files import write_whole

Scope = Literal["ask", "append", "users", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
BEGIN = "plait_"


class ApiKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Args:
    sha256: of the key. Keys are 256 random bits, so nothing slower is needed.
    """

    name: str
    sha256: str
    scopes: tuple[Scope, ...]


def read_keys(file: Path) -> tuple[ApiKey, ...]:
    """
    Raises:
        ValueError: the file is missing, damaged, empty or readable by others.
    """
    if not file.is_file():
        raise ValueError(f"{file} is missing; make a key with: plait new-key {file} --name NAME")
    if os.stat(file).st_mode & 0o077:
        raise ValueError(f"{file} may be read by others; chmod 600 it")
    try:
        found = msgspec.json.decode(file.read_bytes(), type=tuple[ApiKey, ...])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ValueError(f"{file} holds no keys ({error})") from error
    if not found:
        raise ValueError(f"{file} holds no keys; make one with: plait new-key {file} --name NAME")
    return found


def add_key(file: Path, name: str, scopes: Sequence[str]) -> str:
    """A new key, in the file from now on as its hash.

    Raises:
        ValueError: the name is taken, or there is no such scope.
    """
    known = read_keys(file) if file.exists() else ()
    if not name or name in [key.name for key in known]:
        raise ValueError(f"{file} has a key that is called {name!r} already; take another name")
    granted = tuple(scope for scope in SCOPES if scope in scopes)
    if not scopes or len(granted) < len(scopes):
        raise ValueError(f"scopes {', '.join(scopes)}: expected some of {', '.join(SCOPES)}")
    key = BEGIN + secrets.token_urlsafe(32)
    keys = (*known, ApiKey(name, _hash(key), granted))

    def write(aside: Path) -> None:
        aside.chmod(0o600)
        aside.write_bytes(msgspec.json.format(msgspec.json.encode(keys)))

    write_whole(file, write)
    return key


def holder(keys: Sequence[ApiKey], given: str) -> ApiKey | None:
    """Whose key it is; every one is compared, in constant time."""
    found, hashed = None, _hash(given)
    for key in keys:
        if hmac.compare_digest(key.sha256, hashed):
            found = key
    return found


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
