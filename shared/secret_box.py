"""Encryption of the passwords of cameras in Redis."""

import base64
import hashlib
from functools import cache

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from shared.errors import SealedSecret

_SALT = b"rt-embed camera passwords"
"""The same everywhere, for all processes must derive the same key."""


def seal(text: str, keys: tuple[str, ...]) -> str:
    """Return `text` encrypted and signed with the first of the keys."""
    return _box(keys).encrypt(text.encode()).decode()


def unseal(sealed: str, keys: tuple[str, ...]) -> str:
    """Return what was sealed with any of the keys. Raises SealedSecret."""
    try:
        if keys:
            return _box(keys).decrypt(sealed.encode()).decode()
    except InvalidToken:
        pass
    raise SealedSecret(
        "the camera's password was encrypted with another RTEMBED_SECRET_KEY than this process has"
    )


@cache
def _box(keys: tuple[str, ...]) -> MultiFernet:
    """Keys are texts of any length; scrypt makes guessing short ones expensive."""
    derived = (
        hashlib.scrypt(key.encode(), salt=_SALT, n=1 << 14, r=8, p=1, maxmem=64 << 20, dklen=32)
        for key in keys
    )
    return MultiFernet([Fernet(base64.urlsafe_b64encode(key)) for key in derived])
