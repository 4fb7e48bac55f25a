"""Which lead IDs and path IDs can be asked for at all.

An ID that the URL would bend is refused before any I/O, because the damage would be silent (a6):
`..` rewrites the path, a comma makes two IDs of one, a lone surrogate vanishes. Says what is wrong
with which ID; what to do about it (raise, or collect) is the caller's business.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from string import ascii_letters, digits
from typing import TYPE_CHECKING, cast
from urllib.parse import quote

from leadstatus_async.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence

UNRESERVED = f"{ascii_letters}{digits}-._~".encode()
"""What stands in a URL as it is (RFC 3986, 2.3), as in ObjectIds and UUIDs."""

_FORBIDDEN = re.compile(r"[,\s\x00-\x1f\x7f-\x9f\ud800-\udfff]")
_FORBIDDEN_IN_PATH = re.compile(r"[/?#%]")
_BYTES_PER_CHARACTER = 12  # four UTF-8 bytes, each written as %XX
_PATH_ROOM = 1000

_MISSING = ("NAType", "NaTType")  # classes of pandas'

BadId = tuple[int, object, str]
"""Index in the list given, the value, and what is wrong with it."""


def bad_lead_ids(lead_ids: Sequence[object], *, first: int = 0, room: int) -> list[BadId]:
    """List the IDs that cannot be asked for; empty if all can.

    Args:
        lead_ids: a block of the caller's list.
        first: index of the block's first ID in the whole list.
        room: bytes one encoded ID may take, so that it can be sent alone.
    """
    if _all_plain(lead_ids, room):
        return []
    checked = ((index, value, _wrong(value, room)) for index, value in enumerate(lead_ids, first))
    return [(index, value, wrong) for index, value, wrong in checked if wrong]


def is_plain(lead_id: object, room: int) -> bool:
    """Decide the usual case for one ID, that it is fine: letters and digits, as in ObjectIds, and short."""
    return (
        isinstance(lead_id, str)
        and lead_id.isascii()
        and lead_id.isalnum()
        and len(lead_id) * _BYTES_PER_CHARACTER <= room
    )


def checked_path_id(name: str, value: object) -> str:
    """Return a path ID that will not bend the URL.

    Raises:
        ConfigurationError: naming `name`, the value and what is wrong with it.
    """
    wrong = _wrong(value, _PATH_ROOM) or _bends_path(cast("str", value))
    if wrong is not None:
        raise ConfigurationError(f"{name} {value!r:.100} {wrong}; give the plain ID, as the API shows it")
    return cast("str", value)


def _all_plain(lead_ids: Sequence[object], room: int) -> bool:
    """Decide the usual case, all fine, at C speed: lists run to millions."""
    hoped = cast("Sequence[str]", lead_ids)
    try:
        joined = "".join(hoped)
    except TypeError:
        return False
    lengths = set(map(len, hoped))
    if 0 in lengths or max(lengths, default=0) * _BYTES_PER_CHARACTER > room:
        return False
    # What stands in a URL as it is is known ten times faster than by the expression.
    in_bytes = joined.encode() if joined.isascii() else b","
    return in_bytes.isalnum() or not in_bytes.translate(None, UNRESERVED) or not _FORBIDDEN.search(joined)


def _wrong(value: object, room: int) -> str | None:
    if not isinstance(value, str):
        return f"is {type(value).__name__}, not str{_advice(value)}"
    if not value:
        return "is empty"
    if found := _FORBIDDEN.search(value):
        return _named(found[0])
    if len(quote(value, safe="")) > room:
        return f"takes more than the {max(room, 0)} bytes there are for it in a URL (max_url_bytes)"
    return None


def _advice(value: object) -> str:
    """Say what to do with what is no str."""
    if type(value).__name__ in _MISSING or (isinstance(value, float) and math.isnan(value)):
        return ": a missing value; leave it out, and convert the others with str()"
    if isinstance(value, float):
        return ", and may have lost digits; read that column as text, or convert it with str()"
    return "" if value is None or isinstance(value, Collection) else "; convert it with str()"


def _bends_path(value: str) -> str | None:
    if value in (".", ".."):
        return "would rewrite the path"
    found = _FORBIDDEN_IN_PATH.search(value)
    return f"contains {found[0]!r}" if found else None


def _named(character: str) -> str:
    if character == ",":
        return "contains a comma, which separates IDs; pass a list of IDs"
    if character.isspace():
        return "contains whitespace"
    if "\ud800" <= character <= "\udfff":
        return "contains a lone surrogate"
    return "contains a control character"
