"""What an earlier run was computed from, kept by the scheduler to tell later what has changed."""

from __future__ import annotations

import json
import zlib
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from handoff_dask.graph.functions import FunctionId
from handoff_dask.reuse.fingerprint import Details
from handoff_dask.reuse.reasons import record_of

__all__ = ["EarlierRun", "packed_records"]


def packed_records(found: Mapping[FunctionId, Details]) -> bytes:
    """What the results of a run were computed from, compressed.

    Parameters
    ----------
    found
        Of the functions of the run.
    """
    records = [record_of(i, one) for i, one in found.items() if one.fingerprint is not None]
    codes = {one.code.digest: dict(one.code.parts) for one in found.values() if one.code.digest}
    by_key = {record["key"]: record for record in records}
    return zlib.compress(json.dumps({"records": by_key, "codes": codes}).encode(), 1)


class EarlierRun:
    """An earlier run, asked as a cache is.

    Parameters
    ----------
    held
        Fingerprints of the results that the cluster still has.
    packed
        Of :func:`packed_records`.
    """

    #: What a result is in, to the user.
    where = "on the cluster"
    before = "by that execution"

    def __init__(self, held: Collection[str], packed: bytes) -> None:
        self._held = frozenset(held)
        known = json.loads(zlib.decompress(packed))
        self._records: dict[str, dict[str, Any]] = known["records"]
        self._codes: dict[str, dict[str, str]] = known["codes"]

    def present(self, fingerprints: Iterable[str]) -> set[str]:
        """Those whose results the cluster has."""
        return set(fingerprints) & self._held

    def check(self, fingerprint: str) -> None:
        """Nothing is damaged in memory."""

    def known(self, key: str) -> dict[str, Any] | None:
        """What a function's result was computed from."""
        return self._records.get(key)

    def code(self, digest: str) -> dict[str, str] | None:
        """What a code consisted of."""
        return self._codes.get(digest)
