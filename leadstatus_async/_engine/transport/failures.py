"""What aiohttp raised, as an error of ours that says what was wrong, and with whom.

Nothing of aiohttp's exceptions is kept: they hold the request, and so the API key (a2).
"""

from __future__ import annotations

import errno
import ssl as ssl_module
from typing import TYPE_CHECKING

import aiohttp

from leadstatus_async._steps.decipher import Failure, Sort
from leadstatus_async.errors import APIConnectionError, APITimeoutError

if TYPE_CHECKING:
    from leadstatus_async._engine.transport.connections import Way

NO_FILES_LEFT = frozenset({errno.EMFILE, errno.ENFILE})
CONNECT_TIMEOUT = 10.0  # seconds of an attempt that connecting may take
POOL_TIMEOUT = 60.0  # seconds for which a request waits for a lent pool, connecting included
_DISCONNECTED = (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, aiohttp.ClientConnectionResetError)
_TLS = (aiohttp.ClientSSLError, aiohttp.ClientConnectorCertificateError, aiohttp.ServerFingerprintMismatch)


def failure_of(  # noqa: C901, PLR0911 - a table of cases
    caught: Exception, way: Way, *, seconds: float, origin: str, goes_to: str, borrowed: bool
) -> Failure:
    """Turn what aiohttp raised into our error; a `ClientResponseError`'s status is not the server's (a4).

    Args:
        caught: what it raised.
        way: how far the request came.
        seconds: `timeout`.
        origin: of the base URL.
        goes_to: what is connected to: that, or a proxy.
        borrowed: whether the aiohttp session is a lent one.
    """
    proxy = goes_to if goes_to != origin else "the proxy of the lent http_session"
    if isinstance(caught, aiohttp.ClientHttpProxyError):  # to CONNECT
        advice = "; give the login that it wants in proxy=" if caught.status == 407 else ""
        message = f"{proxy} refuses the way to {origin}: HTTP {caught.status}{advice}"
        passing = caught.status >= 500 or caught.status in (408, 429)  # it cannot, or not now
        return Failure(APIConnectionError(message, passing), Sort.PASSING if passing else Sort.FATAL)
    if isinstance(caught, aiohttp.ClientProxyConnectionError):
        ours = caught.os_error.errno in NO_FILES_LEFT
        message = f"cannot connect to {proxy}: {_cause(caught)}"
        return Failure(APIConnectionError(message), Sort.PASSING if ours else Sort.FATAL)
    if isinstance(caught, _TLS):  # every other request would meet it too
        message = f"TLS with {origin} failed: {_cause(caught)}{_tls_advice(caught)}"
        return Failure(APIConnectionError(message, retryable=False), Sort.FATAL)
    if isinstance(caught, aiohttp.ConnectionTimeoutError):
        limit = f"{min(seconds, CONNECT_TIMEOUT):g} s"
        if borrowed:
            limit += f", or of the lent pool within {POOL_TIMEOUT:g} s"
        return Failure(APITimeoutError(f"no connection to {goes_to} within {limit}"), Sort.PASSING)
    if isinstance(caught, TimeoutError):
        what = "the answer was not complete" if way.answered else "no answer came"
        if not (way.answered or way.sends):
            what = f"no connection to {goes_to}, name lookup included,"
        return Failure(APITimeoutError(f"{what} within timeout={seconds:g} s"), Sort.PASSING)
    if isinstance(caught, aiohttp.ClientConnectorError):
        through = f" through {goes_to}" if goes_to != origin else ""
        message = f"cannot connect to {origin}{through}: {_cause(caught)}"
        return Failure(APIConnectionError(message), Sort.PASSING)
    if not way.sends and goes_to.startswith("the proxy") and isinstance(caught, aiohttp.ClientError):
        message = f"{goes_to} gave no answer to CONNECT that is valid HTTP ({type(caught).__name__})"
        return Failure(APIConnectionError(message), Sort.PASSING)
    if isinstance(caught, _DISCONNECTED) and not way.answered:
        message = "the server closed the connection without an answer"
        return Failure(APIConnectionError(message), Sort.PASSING, early=True, stale=way.reused)
    if not isinstance(caught, aiohttp.ClientError | OSError) or isinstance(caught, aiohttp.InvalidURL):
        message = f"aiohttp, or a hook of the lent session, raised {type(caught).__name__}"
        return Failure(APIConnectionError(message), Sort.FINAL)
    what = "the answer was cut off" if way.answered else "the answer is no valid HTTP"
    return Failure(APIConnectionError(f"{what} ({type(caught).__name__})"), Sort.PASSING)


def _cause(caught: Exception) -> str:
    """Say why, from the operating system's or the TLS library's own words."""
    inner = getattr(caught, "certificate_error", None) or getattr(caught, "os_error", None) or caught
    return getattr(inner, "verify_message", None) or getattr(inner, "strerror", None) or type(inner).__name__


def _tls_advice(caught: Exception) -> str:
    """Say what to do, where that is known: only a certificate is a matter of trust."""
    inner = getattr(caught, "certificate_error", None) or getattr(caught, "os_error", None) or caught
    if isinstance(inner, ssl_module.CertificateError | aiohttp.ServerFingerprintMismatch):
        return "; pass ssl= with a context that trusts it"
    plain = getattr(inner, "reason", None) in ("WRONG_VERSION_NUMBER", "HTTP_REQUEST")
    return "; what answers there speaks no TLS: check base_url" if plain else ""
