"""Randomness that belongs to a record, not to the process.

Then order, batch size, shards and --resume cannot change a draw.
"""

from __future__ import annotations

import hashlib
import random


def for_record(seed: int, record_id: str, purpose: str) -> random.Random:
    """A generator from (seed, record id, purpose); equal arguments give equal draws on every machine and Python.

    Args:
        seed: the command's --seed.
        record_id: the `id` of the record that the draw is for.
        purpose: names the draw, so that two draws for one record are independent ("options", "pose").
    """
    key = f"{seed}\0{purpose}\0{record_id}".encode("utf-8", "surrogatepass")
    return random.Random(int.from_bytes(hashlib.sha256(key).digest()[:8], "big"))
