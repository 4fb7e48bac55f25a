"""The options that commands share: where IDs come from, and how a session asks.

A command takes them as one argument each; `taking` puts the options of a group into its signature, where
typer finds them. Every option may be given by an environment variable named after it: `LEADSTATUS_RATE`.
"""

from __future__ import annotations

import inspect
import os
import re
import ssl
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from leadstatus_async.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Callable

_RATE = re.compile(r"(\d+(?:\.\d+)?)(?:/(\d+(?:\.\d+)?)?(s|sec|min|m|h|d))?\Z")
_UNITS = {"s": 1.0, "sec": 1.0, "m": 60.0, "min": 60.0, "h": 3600.0, "d": 86400.0}


def option(help_: str, *names: str, env: str | None = None, **more: Any) -> Any:
    """Return an option, with its environment variable."""
    return typer.Option(*names, help=help_, envvar=env and f"LEADSTATUS_{env}", **more)


Account = Annotated[str, option("Account group ID.", env="ACCOUNT")]
Campaigns = Annotated[
    list[str], option("Campaign ID; may be given several times.", "--campaign", env="CAMPAIGN")
]


def session_options(
    *,
    rate: Annotated[
        list[str],
        option(
            "Requests at most: 20, 20/s, 600/min, 5000/h, or none. May be given several times.", env="RATE"
        ),
    ] = ["10/s"],  # noqa: B006 - typer wants a list
    burst: Annotated[int | None, option("Requests that may go at once.", env="BURST")] = None,
    concurrency: Annotated[int, option("Requests in flight at most.", env="CONCURRENCY")] = 16,
    chunk_size: Annotated[int, option("Leads per request at most.", env="CHUNK_SIZE")] = 100,
    max_url_bytes: Annotated[int, option("Bytes of a request's path and query.", env="MAX_URL_BYTES")] = 4000,
    timeout: Annotated[float, option("Seconds for an attempt.", env="TIMEOUT")] = 30.0,
    max_attempts: Annotated[
        int, option("How often a request is sent; 1 retries nothing.", env="MAX_ATTEMPTS")
    ] = 5,
    lead_ids_format: Annotated[
        str, option("comma (leadIds=a,b) or repeat (leadIds=a&leadIds=b).", env="LEAD_IDS_FORMAT")
    ] = "comma",
    proxy: Annotated[str | None, option("URL of a proxy.", env="PROXY")] = None,
    ca_file: Annotated[str | None, option("File of CA certificates to trust.", env="CA_FILE")] = None,
    insecure_http: Annotated[
        bool, option("Allow http:// to other machines: the key can be read on the way.", env="INSECURE_HTTP")
    ] = False,
    api_key_file: Annotated[
        str | None, option("File that holds the key; else SONARLY_API_KEY.", env="API_KEY_FILE")
    ] = None,
    base_url: Annotated[str | None, option("Base URL; else SONARLY_BASE_URL.", env="BASE_URL")] = None,
) -> dict[str, Any]:
    """Return the options of a `LeadStatusSession`.

    Raises:
        ConfigurationError: a file cannot be read, or a rate is none.
    """
    from leadstatus_async import RetryPolicy  # noqa: PLC0415

    return {
        "api_key": api_key(api_key_file),
        "base_url": base_url,
        "rate_limit": rate_limits(rate, burst),
        "concurrency": concurrency,
        "chunk_size": chunk_size,
        "max_url_bytes": max_url_bytes,
        "timeout": timeout,
        "retry": RetryPolicy(max_attempts=max_attempts),
        "lead_ids_format": lead_ids_format,
        "proxy": proxy,
        "ssl": _trusting(ca_file),
        "allow_insecure": insecure_http,
    }


def source(
    ids: Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Lead IDs; - is stdin.")] = None,
    *,
    file: Annotated[str | None, option("File of leads; - is stdin.", "--file", "-f")] = None,
    input_format: Annotated[
        str, option("auto (by suffix), text, csv, tsv or jsonl.", env="INPUT_FORMAT")
    ] = "auto",
    column: Annotated[str | None, option("Header or key of the lead IDs.", env="COLUMN")] = None,
    encoding: Annotated[str, option("Of the file: utf-8, cp1252 ...", env="ENCODING")] = "utf-8",
    skip_blank: Annotated[bool, option("Leave out blank lines.", "--skip-blank", env="SKIP_BLANK")] = False,
    comment: Annotated[str | None, option("Leave out lines that begin with this.", env="COMMENT")] = None,
) -> tuple[list[str], str | None, Any]:
    """Return what a `Source` is made of."""
    from leadstatus_async.cli.inputs import Reading  # noqa: PLC0415

    return ids or [], file, Reading(input_format, column, encoding, skip_blank, comment)


def taking(**groups: Callable[..., Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Let a command take groups of options, each as the argument of that name."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def taken(**given: Any) -> None:
            made = {
                name: group(**{one: given.pop(one) for one in inspect.signature(group).parameters})
                for name, group in groups.items()
            }
            command(**made, **given)

        own = [
            one
            for one in inspect.signature(command, eval_str=True).parameters.values()
            if one.name not in groups
        ]
        shared = [
            one
            for group in groups.values()
            for one in inspect.signature(group, eval_str=True).parameters.values()
        ]
        parameters = [one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in (*own, *shared)]
        taken.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        taken.__annotations__ = {one.name: one.annotation for one in parameters}
        return taken

    return decorate


def rate_limits(given: list[str], burst: int | None) -> Any:
    """Return what `rate_limit=` takes for rates as they are written on a command line.

    Raises:
        ConfigurationError: one is no rate, or "none" is not alone.
    """
    from leadstatus_async import RateLimit  # noqa: PLC0415

    if given == ["none"]:
        return None
    limits: list[tuple[float, float]] = []
    for text in given:
        found = _RATE.match(text)
        if found is None:
            raise ConfigurationError(
                f"--rate must be 20, 20/s, 600/min, 5000/h or, alone, none; not {text!r}"
            )
        count, times, unit = found.groups()
        limits.append((float(count), float(times or 1) * _UNITS[unit or "s"]))
    shortest = min(limits, key=lambda limit: limit[1])
    return [
        RateLimit(rate, per=per, burst=burst if (rate, per) == shortest else None) for rate, per in limits
    ]


def api_key(file: str | None) -> str | None:
    """Return the key in `file`, without the newline at its end; None leaves it to the environment.

    Raises:
        ConfigurationError: there is no key at all, or the file cannot be read.
    """
    if file is None:
        if not os.environ.get("SONARLY_API_KEY"):
            raise ConfigurationError("no API key: set SONARLY_API_KEY, or give --api-key-file F")
        return None
    try:
        return Path(file).read_text(encoding="utf-8-sig").strip()
    except UnicodeDecodeError:
        raise ConfigurationError(f"{file} is no UTF-8 text") from None
    except OSError as error:
        raise ConfigurationError(f"cannot read {file}: {error.strerror}") from None


def _trusting(file: str | None) -> ssl.SSLContext | None:
    if file is None:
        return None
    try:
        return ssl.create_default_context(cafile=file)
    except (ssl.SSLError, OSError) as error:
        why = "it holds no certificates" if isinstance(error, ssl.SSLError) else error.strerror
        raise ConfigurationError(f"cannot read --ca-file {file}: {why}") from None
