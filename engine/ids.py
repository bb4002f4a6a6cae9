"""Opaque identifiers: a prefix that tells the kind, and 100 random bits.

Ids are never compared for order or control flow: order is the server's integer sequence. 20 characters of
32 letters are 100 bits: a billion ids of one kind collide with a probability below 1e-12.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from typing import Final

_ALPHABET: Final = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no i, l, o, u
_LENGTH: Final = 20
# Longest id taken from a peer: provider call ids are the longest seen (about 40 characters).
ID_MAX: Final = 128
_WELL_FORMED: Final = re.compile(r"[A-Za-z0-9_.:-]{1,128}", re.ASCII)


def new_id(prefix: str) -> str:
    """A fresh id such as `ses_4c0h…`; unguessable, from the system's entropy."""
    return _spelled(prefix, secrets.randbits(5 * _LENGTH))


def derived(prefix: str, *of: str) -> str:
    """The id that belongs to these ids: always the same one for the same, and as good as fresh for others."""
    digest = hashlib.sha256("\0".join(of).encode("utf-8", "surrogatepass")).digest()
    return _spelled(prefix, int.from_bytes(digest[:16], "big"))


def _spelled(prefix: str, bits: int) -> str:
    letters = [_ALPHABET[(bits >> (5 * i)) & 31] for i in range(_LENGTH)]
    return f"{prefix}_{''.join(letters)}"


def session_id() -> str:
    return new_id("ses")


def run_id() -> str:
    return new_id("run")


def message_id() -> str:
    return new_id("msg")


def part_id() -> str:
    return new_id("prt")


def call_id() -> str:
    return new_id("call")


def is_well_formed(text: str) -> bool:
    """Whether a string from outside may be an id at all: 1 to 128 letters, digits and `_.:-`."""
    return _WELL_FORMED.fullmatch(text) is not None
