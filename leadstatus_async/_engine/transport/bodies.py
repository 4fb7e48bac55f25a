"""The body of an answer: read piece by piece, decompressed, up to a cap (a11).

aiohttp can decompress too, but refuses a whole answer for the bytes that some servers put behind the end of
a gzip stream, and says of one that it cannot decode that it is no HTTP, or was cut off.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from leadstatus_async._steps.headers import DECODED, content_encoding

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    import aiohttp

ASKED_FOR = ", ".join(DECODED)
_PIECE = 2**16  # bytes that are decompressed at once
_MOST_MEMBERS = 100  # gzip streams in one body: each costs as much as kilobytes
_MOST_BESIDES = 2**16  # bytes by which a compressed body may be larger than what is in it
_GZIP, _ZLIB, _BARE = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS
_MAGIC = b"\x1f\x8b"  # what a gzip stream begins with


class UndecodableError(Exception):
    """A body is not what its Content-Encoding says; the text names that."""


async def read(response: aiohttp.ClientResponse, *, most: int, keep: int) -> tuple[bytes | bytearray, bool]:
    """Return the first `keep` bytes of a body, and whether it ended within `most` of them.

    Raises:
        UndecodableError: it is not what its Content-Encoding says.
    """
    inflater = _inflater(response.headers)
    content = response.content
    if inflater is None and (response.content_length or 0) > most:
        return b"", False
    body: bytes | bytearray = b""
    size = raw = 0
    while size <= most and not content.at_eof():
        data = await content.readany()
        raw += len(data)
        if raw > most + _MOST_BESIDES:  # what brings nothing is not read without end
            return body, False
        if not size and inflater is None:  # all there is, as a rule
            body, size = data[:keep], len(data)
            continue
        for piece in (data,) if inflater is None else inflater.pieces(data):
            size += len(piece)
            if len(body) < keep:
                body = bytearray(body) if isinstance(body, bytes) else body
                body += piece[: keep - len(body)]  # in place, so that nothing is held twice
            if size > most:
                break
    if inflater is not None and size <= most:
        inflater.end()
    return body, size <= most


class Inflater:
    """Decompresses a body as it comes.

    Args:
        encoding: "gzip" or "deflate".
    """

    def __init__(self, encoding: str) -> None:
        self._encoding = encoding
        self._stream: zlib._Decompress | None = None
        self._begun = b""  # the first bytes of a stream, too few to know what it is
        self._members = 0

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """Yield what `data` adds to the body, a bounded piece at a time; nothing once the stream has ended.

        Raises:
            UndecodableError: it is no such stream.
        """
        more = False  # output is held back, though there is no more input
        while data or more:
            if self._stream is None or (data and self._stream.eof):
                begun = self._begun + data
                first = self._stream is None
                if len(begun) < len(_MAGIC):
                    self._begun = begun
                    return
                if not first and (self._encoding != "gzip" or not begun.startswith(_MAGIC)):
                    return  # whatever it is, the body is complete
                self._members += 1
                if self._members > _MOST_MEMBERS:
                    raise UndecodableError(f"the body has more than {_MOST_MEMBERS} {self._encoding} streams")
                self._begun, data, self._stream = b"", begun, zlib.decompressobj(self._kind(begun))
            try:
                piece = self._stream.decompress(data, _PIECE)
            except zlib.error:
                message = f"the body is not {self._encoding}, as its Content-Encoding says"
                raise UndecodableError(message) from None
            data = self._stream.unconsumed_tail or self._stream.unused_data
            more = len(piece) == _PIECE and not self._stream.eof
            if piece:
                yield piece

    def end(self) -> None:
        """Take the end of the body.

        Raises:
            UndecodableError: the stream has not ended.
        """
        if self._stream is not None and not self._stream.eof:
            raise UndecodableError(f"the body breaks off within its {self._encoding} stream")

    def _kind(self, begun: bytes) -> int:
        if self._encoding == "gzip":
            return _GZIP
        # By RFC 9110 it is zlib's format (RFC 1950), whose header is a multiple of 31; some send it bare.
        zlib_header = begun[0] & 0x0F == 8 and int.from_bytes(begun[:2]) % 31 == 0
        return _ZLIB if zlib_header else _BARE


def _inflater(headers: Mapping[str, str]) -> Inflater | None:
    """Return what decompresses a body with these headers; None where it needs none, or none is known.

    A body with an encoding that we have not asked for is passed on as it is, to be told of with its words.
    """
    encoding = content_encoding(headers)
    return Inflater(encoding) if encoding in DECODED else None
