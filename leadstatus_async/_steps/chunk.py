"""How lead IDs become request targets: bounded by count and by the bytes really sent (a5).

Planning is lazy: one chunk at a time from what is still unsent, so that what the session learns
about the server's limits applies at once. A target is encoded once, and sent as encoded.
"""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote

import msgspec

from leadstatus_async._steps.validate import UNRESERVED

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_AS_IT_IS = UNRESERVED + b","  # known several times faster than by quoting

LeadIdsFormat = Literal["comma", "repeat"]


class Endpoint(msgspec.Struct, frozen=True):
    """The request target of one campaign, up to the first lead ID.

    Attributes:
        prefix: path and query, encoded, ending in `?leadIds=`.
        separator: what stands between two IDs: `,` or `&leadIds=`.
        account, campaign: the plain IDs, for events.
    """

    prefix: str
    separator: str
    account: str = ""
    campaign: str = ""

    def target(self, lead_ids: Sequence[str]) -> str:
        """Return the request target for `lead_ids`, percent-encoded as UTF-8.

        Commas stay raw (a23), and the IDs are quoted joined, which is 14 times faster than one by one.
        """
        joined = ",".join(lead_ids)
        if not joined.isascii() or joined.encode().translate(None, _AS_IT_IS):
            joined = quote(joined, safe=",")
        return self.prefix + (joined if self.separator == "," else joined.replace(",", self.separator))


class Limits:
    """What one request may hold. The session's, and lowered by what it learns from refusals.

    Attributes:
        chunk_size: lead IDs per request.
        max_url_bytes: bytes of the request target.
        accepted: bytes of the largest target that was answered.
    """

    __slots__ = ("accepted", "chunk_size", "max_url_bytes")

    def __init__(self, chunk_size: int, max_url_bytes: int) -> None:
        self.chunk_size = chunk_size
        self.max_url_bytes = max_url_bytes
        self.accepted = 0

    def allow(self, count: int, size: int) -> bool:
        """Whether a request of `count` IDs and a target of `size` bytes is within the limits.

        A single ID always is: it cannot be made smaller.
        """
        return count == 1 or (count <= self.chunk_size and size <= self.max_url_bytes)


def endpoint(base_path: str, account: str, campaign: str, lead_ids_format: LeadIdsFormat) -> Endpoint:
    """Build the endpoint; `base_path` is that of the base URL, encoded and without its last slash."""
    where = f"accounts/{quote(account, safe='')}/campaigns/{quote(campaign, safe='')}"
    separator = "," if lead_ids_format == "comma" else "&leadIds="
    return Endpoint(f"{base_path}/v1/{where}/lead-status?leadIds=", separator, account, campaign)


def fit(
    lead_ids: Sequence[str], start: int, stop: int, endpoint: Endpoint, limits: Limits
) -> tuple[int, str]:
    """Return where the largest chunk from `start` ends (at most at `stop`), and its request target."""
    end = min(stop, start + limits.chunk_size)
    target = endpoint.target(lead_ids[start:end])
    if limits.allow(end - start, len(target)):
        return end, target
    end = start + _how_many(target, endpoint, limits.max_url_bytes)
    return end, endpoint.target(lead_ids[start:end])


def plan_chunks(
    lead_ids: Sequence[str], endpoint: Endpoint, limits: Limits
) -> Iterator[tuple[int, int, str]]:
    """Yield (start, stop, target) of every request that `lead_ids` need."""
    start = 0
    while start < len(lead_ids):
        stop, target = fit(lead_ids, start, len(lead_ids), endpoint, limits)
        yield start, stop, target
        start = stop


def _how_many(target: str, endpoint: Endpoint, max_bytes: int) -> int:
    parts = target[len(endpoint.prefix) :].split(endpoint.separator)
    joint = len(endpoint.separator)
    sizes = accumulate((len(part) + joint for part in parts), initial=len(endpoint.prefix) - joint)
    return max(1, sum(size <= max_bytes for size in sizes) - 1)
