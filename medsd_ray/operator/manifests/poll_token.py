"""The token by which the driver of an attempt knows the operator. Pure functions.

It follows from a key that the operator alone has. The RayJob, which whoever may view the namespace can read,
carries its SHA-256 alone, with which the driver compares what a poll brings (see driver/server.py). So no
Secret is read or made for it.
"""

from __future__ import annotations

import hashlib
import hmac


def poll_token(key: bytes, uid: str, number: int) -> str:
    """HMAC-SHA256 (RFC 2104), in hexadecimal, of attempt `number` of the object with this uid."""
    return hmac.new(key, f"{uid}/{number}".encode(), hashlib.sha256).hexdigest()


def token_sha256(token: str) -> str:
    """What the RayJob carries of a token: as that is of 256 bits, nothing leads back from it."""
    return hashlib.sha256(token.encode()).hexdigest()
