"""The options of a session, checked and resolved once, before any I/O.

Every bad value is a `ConfigurationError` that names the option, the value and what is allowed;
secrets (the key, proxy credentials) are never echoed.
"""

from __future__ import annotations

import ipaddress
import os
import platform
import re
import ssl as ssl_module
import urllib.request
from base64 import b64encode
from typing import TYPE_CHECKING, Any

from yarl import URL

from leadstatus_async._engine.transport.credentials import Proxy, Secret
from leadstatus_async._steps.redact import Redactor
from leadstatus_async._version import __version__
from leadstatus_async.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from leadstatus_async._steps.chunk import LeadIdsFormat

DEFAULT_BASE_URL = "https://api.sonarly.io"
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_UNPRINTABLE = re.compile(r"[^\t\x20-\x7e\xa0-\xff]")
_INVISIBLE = re.compile(r"[\s\x00-\x1f\x7f]")


def checked_key(value: object) -> Secret:
    """Return the API key, from `SONARLY_API_KEY` if None is given (a22)."""
    given = os.environ.get("SONARLY_API_KEY") if value is None else value
    if given is None:
        raise ConfigurationError("api_key is missing: pass it, or set SONARLY_API_KEY")
    if not isinstance(given, str):
        raise ConfigurationError(f"api_key must be a str, not {type(given).__name__}")
    given = given.removeprefix("\ufeff")  # from a file that begins with a BOM
    if wrong := _wrong_key(given):
        source = "; it comes from SONARLY_API_KEY" if value is None else ""
        raise ConfigurationError(
            f"api_key {wrong}; give the bare key, as in sk_live_... (not shown here){source}"
        )
    return Secret(given)


def _wrong_key(key: str) -> str | None:
    if not key:
        return "is empty"
    if key[:6].lower() == "bearer":
        return "starts with 'Bearer', which the client adds itself"
    if key != key.strip():
        return "has whitespace around it (a trailing newline, from a file?)"
    if not all("!" <= character <= "~" for character in key):
        return "contains whitespace, control or non-ASCII characters"
    return None


def checked_base_url(value: object, *, allow_insecure: bool) -> URL:
    """Return the base URL without its last slash, from `SONARLY_BASE_URL` if None is given."""
    if value is not None:
        return _checked_base_url(value, allow_insecure=allow_insecure)
    given = os.environ.get("SONARLY_BASE_URL", DEFAULT_BASE_URL)
    try:
        return _checked_base_url(given, allow_insecure=allow_insecure)
    except ConfigurationError as wrong:
        raise ConfigurationError(f"{wrong}; it comes from SONARLY_BASE_URL") from None


def _checked_base_url(given: object, *, allow_insecure: bool) -> URL:
    url = _checked_url("base_url", given)
    if url.raw_user is not None or url.raw_password is not None:
        raise ConfigurationError("base_url must have no user or password in it; the key goes into api_key")
    if "?" in str(given) or "#" in str(given):  # not shown: people put keys there
        raise ConfigurationError(f"base_url must have no query or fragment, only {url.origin()} and a path")
    if url.scheme == "http" and not allow_insecure and not _is_loopback(url.host or ""):
        raise ConfigurationError(
            f"base_url must be https://, not {given!r:.200}: plain http would show the key on the way "
            "(allow_insecure=True allows it; loopback hosts always are)"
        )
    return url.with_path(url.raw_path.rstrip("/") or "/", encoded=True)


def checked_proxy(value: object, *, from_env: bool, base_url: URL) -> Proxy | None:
    """Return the proxy to use: the one given, or, opted in, the environment's, read once (a14)."""
    if value is not None and from_env:
        raise ConfigurationError("give proxy or proxy_from_env=True, not both")
    name = "proxy"
    if from_env:
        name = f"{base_url.scheme}_proxy in the environment"
        if urllib.request.proxy_bypass(base_url.host or ""):
            return None
        value = urllib.request.getproxies().get(base_url.scheme)
        if value is not None and "://" not in value:
            value = f"http://{value}"  # as other programs take it
    if value is None:
        return None
    url = _checked_url(name, value)
    if url.raw_user is None and url.raw_password is None:
        return Proxy(url)
    if ":" in (url.user or ""):
        raise ConfigurationError(f"{name} has a colon in its user name, which HTTP has no way to send")
    return Proxy(url.with_user(None), (url.user or "", Secret(url.password or "")))


def redactor_of(key: Secret, proxy: Proxy | None) -> Redactor:
    """Return what takes the key and the proxy's credentials out of text (h4)."""
    if proxy is None or proxy.credentials is None:
        return Redactor([key.reveal()])
    user, password = proxy.credentials[0], proxy.credentials[1].reveal()
    pair = f"{user}:{password}"
    secrets = [key.reveal(), pair, b64encode(pair.encode()).decode().rstrip("="), password]
    # Some proxies take a token for the user, and no password.
    return Redactor(secrets if password else [*secrets, user], [password])


def checked_headers(value: Mapping[str, str] | None) -> dict[str, str]:
    """Return the headers of every request but `Authorization`; the user's win over ours."""
    headers = {"Accept": "application/json", "User-Agent": _user_agent()}
    ours = {name.lower(): name for name in headers}
    for name, text in _items(value):
        if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):
            raise ConfigurationError(f"headers must map header names to str; {name!r:.100} is no header name")
        if name.lower() == "authorization":
            raise ConfigurationError("headers must not hold Authorization; the key goes into api_key")
        if not isinstance(text, str) or _UNPRINTABLE.search(text):
            raise ConfigurationError(f"headers[{name!r}] must be a str of printable Latin-1 characters")
        headers.pop(ours.get(name.lower(), ""), None)
        headers[name] = text
    return headers


def checked_format(value: object) -> LeadIdsFormat:
    """Return `lead_ids_format`."""
    if value in ("comma", "repeat"):
        return value
    raise ConfigurationError(f'lead_ids_format must be "comma" or "repeat", not {value!r:.100}')


def checked_ssl(value: object) -> ssl_module.SSLContext | None:
    """Return the TLS context; there is no way to turn verification off but a context of one's own (a15)."""
    if value is None or isinstance(value, ssl_module.SSLContext):
        return value
    raise ConfigurationError(f"ssl must be an ssl.SSLContext or None, not {value!r:.100}")


def _checked_url(name: str, value: object) -> URL:
    """Return an http(s) URL with a host. What is wrong is said without the value: it may hold a password."""
    if not isinstance(value, str):
        raise ConfigurationError(f"{name} must be a str, not {type(value).__name__}")
    try:
        url = URL(value)
        host = url.host  # decoded on access, which can fail too
    except ValueError:
        raise ConfigurationError(f"{name} is no valid URL; give one as in {DEFAULT_BASE_URL}") from None
    if url.scheme not in ("http", "https") or not host or _INVISIBLE.search(value):
        raise ConfigurationError(
            f"{name} must be an http(s) URL with a host and no whitespace, as in {DEFAULT_BASE_URL}"
        )
    return url


def _is_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host.rstrip(".") == "localhost"
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return (mapped or address).is_loopback


def _items(value: Any) -> Any:
    if value is None:
        return ()
    try:
        return list(value.items())
    except AttributeError:
        raise ConfigurationError(f"headers must be a mapping, not {type(value).__name__}") from None


def _user_agent() -> str:
    return f"leadstatus-async/{__version__} Python/{platform.python_version()}"
