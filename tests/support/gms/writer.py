"""The one way into the store: a proposal is held to every rule and then written, or refused and nothing happens."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from datahub.metadata.schema_classes import ASPECT_NAME_MAP

from . import rules, schema
from .patch import PatchError, patched
from .store import Aspect, Store
from .versions import put_version, put_version_set

MAX_ASPECT_BYTES = 16_000_000
STATUS_PATCH_SINCE = (1, 7, 0)  # `auto_status_aspect.py` of the client goes by the same number

UNPROCESSABLE = 422
TOO_MANY_REQUESTS = 429

Refuse = Callable[[str, str], int | None]
"""Takes a URN and the name of an aspect; the HTTP status to refuse that write with, or None to let it pass."""


@dataclass(frozen=True, slots=True)
class Proposal:
    """One change that a client asks for. `value` is the aspect's JSON, or the patch."""

    urn: str
    entity_type: str
    aspect: str
    change: str  # UPSERT or PATCH; clients send no others
    value: Any


@dataclass(frozen=True, slots=True)
class Rejection:
    """A write that was refused, and why."""

    urn: str
    aspect: str
    message: str
    status: int = UNPROCESSABLE


class ServerError(Exception):
    """The server as a whole fails (429, 5xx), so nothing of the request is looked at."""

    def __init__(self, status: int) -> None:
        super().__init__(f"refused with {status}, as the test asked for")
        self.status = status


class Writer:
    """Judges and writes proposals, in the order in which they come."""

    def __init__(self, store: Store, version: str, patch_capable: bool) -> None:
        self._store = store
        self._patch_capable = patch_capable
        self._patches_status = _version_numbers(version) >= STATUS_PATCH_SINCE

    def write(self, proposals: Sequence[Proposal], refuse: Refuse | None, keep_good: bool) -> list[Rejection]:
        """Write what is good and return what is not; without `keep_good`, write nothing unless all is good.

        Raises ServerError, before anything is written, if `refuse` answers 429 or 5xx for any of them.
        """
        statuses = [refuse(proposal.urn, proposal.aspect) if refuse else None for proposal in proposals]
        for status in statuses:
            if status is not None and (status == TOO_MANY_REQUESTS or status >= 500):
                raise ServerError(status)
        rejections: list[Rejection] = []
        with self._store.undoable() as undo:
            for proposal, status in zip(proposals, statuses, strict=True):
                if rejection := self._write(proposal, status):
                    rejections.append(rejection)
            if rejections and not keep_good:
                undo()
        return rejections

    def _write(self, proposal: Proposal, status: int | None) -> Rejection | None:
        if status is not None:
            return Rejection(proposal.urn, proposal.aspect, "refused, as the test asked for", status)
        problems = list(rules.identity_problems(proposal.urn, proposal.entity_type, proposal.aspect))
        if not problems:
            value, problems = self._judge(proposal)
        if problems:
            return Rejection(proposal.urn, proposal.aspect, "; ".join(problems))
        self._put(proposal.urn, proposal.aspect, value)
        return None

    def _judge(self, proposal: Proposal) -> tuple[Any, list[str]]:
        """The value to store, and what is wrong with it."""
        is_patch = proposal.change == "PATCH"
        if is_patch:
            try:
                value: Any = self._patched(proposal)
            except PatchError as error:
                return None, [str(error)]
        elif proposal.change == "UPSERT":
            value = proposal.value
        else:
            return None, [f"changeType {proposal.change} is not supported by the stand-in"]
        found = schema.problems(proposal.aspect, value)
        if not found:
            found = rules.state_problems(self._store, proposal.urn, proposal.aspect, value, is_patch)
        if (size := _size(value)) > MAX_ASPECT_BYTES:
            found.append(f"Aspect of {size} bytes exceeds the maximum of {MAX_ASPECT_BYTES}")
        return value, found

    def _patched(self, proposal: Proposal) -> Aspect:
        if not self._patch_capable or (proposal.aspect == "status" and not self._patches_status):
            raise PatchError(f"Patch not supported for aspect with name {proposal.aspect} by a server this old.")
        return patched(proposal.aspect, self._store.aspect(proposal.urn, proposal.aspect), proposal.value)

    def _put(self, urn: str, aspect: str, value: Aspect) -> None:
        if ASPECT_NAME_MAP[aspect].get_aspect_type() == "timeseries":
            self._store.add_event(urn, aspect, value)
        elif aspect == "versionProperties":
            put_version(self._store, urn, value)
        elif aspect == "versionSetProperties":
            put_version_set(self._store, urn, value)
        else:
            self._store.put(urn, aspect, value)


def _size(value: Any) -> int:
    """Bytes of the aspect as the server stores it."""
    return len(json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode())


def _version_numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])
