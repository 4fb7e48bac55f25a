"""The session's options: what is taken, what is refused, and that no secret shows."""

from __future__ import annotations

import copy
import pickle
import ssl
import traceback

import pytest
from yarl import URL

from leadstatus_async import _options
from leadstatus_async._options import (
    Proxy,
    Secret,
    checked_base_url,
    checked_format,
    checked_headers,
    checked_key,
    checked_proxy,
    checked_ssl,
)
from leadstatus_async._version import __version__
from leadstatus_async.errors import ConfigurationError

KEY = "sk_live_51H8x-A_b.c~d+e/f="
BASE = URL("https://api.sonarly.io")


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy", "SONARLY_API_KEY", "SONARLY_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def refusal(function, *args, **options):
    """Return the text of the ConfigurationError that a call raises, and check that no secret is in it."""
    with pytest.raises(ConfigurationError) as caught:
        function(*args, **options)
    error = caught.value
    shown = "".join(traceback.format_exception_only(error)) + repr(error) + str(vars(error))
    assert not [secret for secret in ("sk_live_51", "hunter2", "S3cret") if secret in shown]
    assert error.__cause__ is None
    return str(error)


def test_key_is_taken_as_it_is():
    """A bare key of printable ASCII is taken, and can be had only by `reveal`."""
    assert checked_key(KEY).reveal() == KEY


def test_key_falls_back_to_the_environment(monkeypatch):
    """Only None falls back to SONARLY_API_KEY; the key given wins."""
    monkeypatch.setenv("SONARLY_API_KEY", "sk_from_env")
    assert checked_key(None).reveal() == "sk_from_env"
    assert checked_key(KEY).reveal() == KEY
    assert "api_key is empty" in refusal(checked_key, "")


def test_missing_key():
    """Without a key anywhere, both places are named."""
    assert refusal(checked_key, None) == "api_key is missing: pass it, or set SONARLY_API_KEY"


@pytest.mark.parametrize(
    ("key", "wrong"),
    [
        ("", "api_key is empty"),
        (f"{KEY}\n", "whitespace around it"),
        (f" {KEY}", "whitespace around it"),
        ("sk_live_51 x", "contains whitespace, control or non-ASCII"),
        ("sk_live_51\r\nX-Evil: 1", "contains whitespace, control or non-ASCII"),
        ("sk_live_51\x00", "contains whitespace, control or non-ASCII"),
        ("sk_live_51é", "contains whitespace, control or non-ASCII"),
        (f"Bearer {KEY}", "starts with 'Bearer'"),
        (f"bearer {KEY}", "starts with 'Bearer'"),
        (KEY.encode(), "api_key must be a str, not bytes"),
        (12, "api_key must be a str, not int"),
    ],
    ids=[
        "empty",
        "newline",
        "space",
        "inside",
        "crlf",
        "nul",
        "non-ascii",
        "Bearer",
        "bearer",
        "bytes",
        "int",
    ],
)
def test_bad_key(key, wrong):
    """A key that could not be sent is refused at construction, and never echoed (a22)."""
    assert wrong in refusal(checked_key, key)


def test_bad_key_from_the_environment(monkeypatch):
    """An empty key in the environment is a bad value, not a missing one."""
    monkeypatch.setenv("SONARLY_API_KEY", "")
    assert "api_key is empty" in refusal(checked_key, None)
    assert "it comes from SONARLY_API_KEY" in refusal(checked_key, None)
    assert "SONARLY_API_KEY" not in refusal(checked_key, "")


def test_a_key_from_a_file_with_a_bom():
    """As some editors write them."""
    assert checked_key("\ufeffsk_live_x").reveal() == "sk_live_x"


@pytest.mark.parametrize(
    "bad", ["", "api.example", "http://api.example", "https://u:p@api.example", "https://a/?b"]
)
def test_a_bad_base_url_from_the_environment_is_told_as_that(monkeypatch, bad):
    """Else its user would look for it in the code."""
    monkeypatch.setenv("SONARLY_BASE_URL", bad)
    told = refusal(checked_base_url, None, allow_insecure=False)
    assert told.startswith(("base_url must be", "base_url must have"))
    assert told.endswith("it comes from SONARLY_BASE_URL")
    assert "SONARLY_BASE_URL" not in refusal(checked_base_url, bad, allow_insecure=False)


@pytest.mark.parametrize(
    "host", ["localhost", "localhost.", "LOCALHOST", "127.0.0.1", "127.8.9.1", "[::1]", "[::ffff:127.0.0.1]"]
)
def test_loopback_hosts_need_no_tls(host):
    """In whatever spelling."""
    assert checked_base_url(f"http://{host}:8080", allow_insecure=False).port == 8080


@pytest.mark.parametrize("host", ["localhost.example", "[::ffff:10.0.0.1]", "10.0.0.1", "[::2]"])
def test_other_hosts_do(host):
    """However near they look."""
    assert "https://" in refusal(checked_base_url, f"http://{host}:8080", allow_insecure=False)


def test_a_proxy_in_the_environment_needs_no_scheme(monkeypatch):
    """Other programs take it so."""
    monkeypatch.setenv("https_proxy", "proxy.example:3128")
    monkeypatch.delenv("no_proxy", raising=False)
    proxy = checked_proxy(None, from_env=True, base_url=URL("https://api.example"))
    assert str(proxy.url) == "http://proxy.example:3128"


def test_secret_shows_nothing():
    """No repr, format, vars, pickle or copy gives a secret away."""
    secret = Secret("hunter2")
    assert "hunter2" not in repr(secret) + str(secret) + f"{secret}" + repr([secret])
    assert not hasattr(secret, "__dict__")
    for way in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="a secret cannot be pickled or copied"):
            way(secret)


@pytest.mark.parametrize(
    ("value", "url"),
    [
        ("https://api.sonarly.io", "https://api.sonarly.io/"),
        ("https://api.sonarly.io/", "https://api.sonarly.io/"),
        ("https://gateway.example/sonarly", "https://gateway.example/sonarly"),
        ("https://gateway.example/sonarly/eu/", "https://gateway.example/sonarly/eu"),
        ("https://gateway.example/a%2Fb//", "https://gateway.example/a%2Fb"),
        ("https://gateway.example:8443", "https://gateway.example:8443/"),
        ("http://localhost:8080", "http://localhost:8080/"),
        ("HTTP://LocalHost/", "http://localhost/"),
        ("http://127.0.0.1:9", "http://127.0.0.1:9/"),
        ("http://127.9.9.9", "http://127.9.9.9/"),
        ("http://[::1]:8080/", "http://[::1]:8080/"),
    ],
)
def test_base_url(value, url):
    """Https anywhere and http to loopback are fine, with a path and with or without a last slash."""
    assert str(checked_base_url(value, allow_insecure=False)) == url


def test_base_url_falls_back(monkeypatch):
    """Only None falls back to SONARLY_BASE_URL, and then to the API's own address."""
    assert str(checked_base_url(None, allow_insecure=False)) == "https://api.sonarly.io/"
    monkeypatch.setenv("SONARLY_BASE_URL", "https://staging.example")
    assert str(checked_base_url(None, allow_insecure=False)) == "https://staging.example/"
    assert str(checked_base_url("https://x.example", allow_insecure=False)) == "https://x.example/"
    assert "base_url" in refusal(checked_base_url, "", allow_insecure=False)
    monkeypatch.setenv("SONARLY_BASE_URL", "")
    assert "base_url" in refusal(checked_base_url, None, allow_insecure=False)


@pytest.mark.parametrize(
    ("value", "wrong"),
    [
        ("https://user:hunter2@api.example", "no user or password"),
        ("https://user@api.example", "no user or password"),
        ("https://:hunter2@api.example", "no user or password"),
        ("https://user:hunter2@api.example/?q=1", "no user or password"),
        ("https://api.example/?key=sk_live_51x", "no query or fragment, only https://api.example and a path"),
        ("https://api.example/p#sk_live_51x", "no query or fragment"),
        ("https://api.example?", "no query or fragment"),
        ("https://api.example#", "no query or fragment"),
        ("https://api.example?#", "no query or fragment"),
        ("http://api.example", "base_url must be https://, not 'http://api.example'"),
        ("http://localhost.example", "base_url must be https://"),
        ("http://10.0.0.1", "base_url must be https://"),
        ("http://user:hunter2@api.example", "no user or password"),
        ("ftp://api.example", "must be an http(s) URL"),
        ("api.sonarly.io", "must be an http(s) URL"),
        ("//api.sonarly.io", "must be an http(s) URL"),
        ("https://", "must be an http(s) URL with a host"),
        (" https://api.example", "no whitespace"),
        ("https://api.example\n", "no whitespace"),
        ("https://api.exa\nmple", "no whitespace"),
        ("https://api .example", "no whitespace"),
        ("https://api.example:99999", "is no valid URL"),
        ("https://[::1", "is no valid URL"),
        ("https://xn--\u2000.example", "is no valid URL"),
        (b"https://api.example", "base_url must be a str, not bytes"),
        (URL("https://api.example"), "base_url must be a str, not URL"),
    ],
)
def test_bad_base_url(value, wrong):
    """What would lose or show the key, or is no URL, is refused; what may be secret in it is not shown."""
    assert wrong in refusal(checked_base_url, value, allow_insecure=False)


def test_insecure_can_be_allowed():
    """`allow_insecure=True` allows plain http to any host."""
    assert str(checked_base_url("http://api.example/x/", allow_insecure=True)) == "http://api.example/x"


@pytest.mark.parametrize(
    ("value", "url", "credentials"),
    [
        ("http://proxy.example:3128", "http://proxy.example:3128", None),
        ("https://proxy.example", "https://proxy.example", None),
        ("http://user:hunter2@proxy.example:3128", "http://proxy.example:3128", ("user", "hunter2")),
        ("http://user@proxy.example", "http://proxy.example", ("user", "")),
        ("http://:hunter2@proxy.example", "http://proxy.example", ("", "hunter2")),
        ("http://us%40er:hun%3Ater2@proxy.example", "http://proxy.example", ("us@er", "hun:ter2")),
    ],
)
def test_proxy(value, url, credentials):
    """Credentials are taken out of the address, decoded, and shown by nothing."""
    proxy = checked_proxy(value, from_env=False, base_url=BASE)
    assert proxy is not None
    assert proxy.url == URL(url)
    if credentials is None:
        assert proxy.credentials is None
    else:
        user, password = proxy.credentials
        assert (user, password.reveal()) == credentials
        assert "us" not in repr(proxy).replace(str(proxy.url), "")
    assert "hun" not in repr(proxy)


@pytest.mark.parametrize(
    "value",
    [
        "socks5://proxy.example",
        "proxy.example:3128",
        "user:hunter2@proxy",
        "http://",
        "http://u:hunter2@[x",
        80,
        "",
    ],
)
def test_bad_proxy(value):
    """A proxy that aiohttp could not use is refused without showing what it holds."""
    assert refusal(checked_proxy, value, from_env=False, base_url=BASE).startswith("proxy ")


def test_no_proxy():
    """Without either option there is none, whatever the environment says."""
    assert checked_proxy(None, from_env=False, base_url=BASE) is None


def test_proxy_is_read_from_the_environment_on_request(monkeypatch):
    """Opted in, the proxy of the base URL's scheme is used."""
    assert checked_proxy(None, from_env=True, base_url=BASE) is None
    monkeypatch.setenv("https_proxy", "http://u:hunter2@secure.example:1")
    monkeypatch.setenv("http_proxy", "http://plain.example:2")
    secure = checked_proxy(None, from_env=True, base_url=BASE)
    plain = checked_proxy(None, from_env=True, base_url=URL("http://localhost"))
    assert secure is not None
    assert plain is not None
    assert (str(secure.url), str(plain.url)) == ("http://secure.example:1", "http://plain.example:2")
    assert secure.credentials is not None


def test_no_proxy_list_is_obeyed(monkeypatch):
    """A host in `no_proxy` is asked directly."""
    monkeypatch.setenv("https_proxy", "http://secure.example:1")
    monkeypatch.setenv("no_proxy", "sonarly.io")
    assert checked_proxy(None, from_env=True, base_url=BASE) is None


def test_bad_proxy_in_the_environment_is_named(monkeypatch):
    """A bad proxy there is told by the name of its variable, not by its value."""
    monkeypatch.setenv("https_proxy", "socks5://u:hunter2@proxy.example")
    text = refusal(checked_proxy, None, from_env=True, base_url=BASE)
    assert text.startswith("https_proxy in the environment must be an http")


def test_two_proxies():
    """A proxy given and one from the environment exclude each other."""
    assert "not both" in refusal(checked_proxy, "http://p.example", from_env=True, base_url=BASE)


def test_proxy_holds_no_readable_secret():
    """A proxy's repr is its address alone."""
    assert (
        repr(Proxy(URL("http://p.example:1"), ("S3cretUser", Secret("hunter2"))))
        == "<Proxy http://p.example:1>"
    )


def test_headers_by_default():
    """By default each request says what it takes and who asks; the key is not among these."""
    headers = checked_headers(None)
    assert set(headers) == {"Accept", "User-Agent"}
    assert headers["Accept"] == "application/json"
    assert headers["User-Agent"].startswith(f"leadstatus-async/{__version__} Python/3.")


def test_users_headers_win():
    """The user's headers are added, and win over ours however they are spelled."""
    headers = checked_headers({"X-Request-Source": "crm\tnightly", "user-agent": "mine", "ACCEPT": "*/*"})
    assert headers == {"X-Request-Source": "crm\tnightly", "user-agent": "mine", "ACCEPT": "*/*"}
    assert checked_headers({}) == checked_headers(None)


@pytest.mark.parametrize("name", ["Authorization", "authorization", "AUTHORIZATION"])
def test_authorization_is_refused(name):
    """The key has one place only."""
    text = refusal(checked_headers, {name: "Bearer sk_live_51x"})
    assert text == "headers must not hold Authorization; the key goes into api_key"


@pytest.mark.parametrize(
    ("headers", "wrong"),
    [
        ({"X-A": "S3cret\r\nEvil: 1"}, "headers['X-A'] must be a str of printable Latin-1 characters"),
        ({"X-A": "S3cret\x00"}, "headers['X-A']"),
        ({"X-A": "S3cret\x85"}, "headers['X-A']"),
        ({"X-A": "S3cret привет"}, "printable Latin-1"),
        ({"X-A": 1}, "headers['X-A']"),
        ({"X-A": None}, "headers['X-A']"),
        ({"X A": "v"}, "'X A' is no header name"),
        ({"": "v"}, "'' is no header name"),
        ({"X-A\n": "v"}, "is no header name"),
        ({"X-Ä": "v"}, "is no header name"),
        ({1: "v"}, "1 is no header name"),
        ([("X-A", "v")], "headers must be a mapping, not list"),
        ("X-A: v", "headers must be a mapping, not str"),
    ],
    ids=ascii,
)
def test_bad_headers(headers, wrong):
    """A header that could not be sent, or would smuggle another one, is refused without its value."""
    assert wrong in refusal(checked_headers, headers)


@pytest.mark.parametrize("value", ["comma", "repeat"])
def test_format(value):
    """Both wire forms are taken."""
    assert checked_format(value) == value


@pytest.mark.parametrize("value", ["Comma", "", None, 1, ["comma"]], ids=repr)
def test_bad_format(value):
    """Any other wire form is refused, naming the two."""
    text = refusal(checked_format, value)
    assert text == f'lead_ids_format must be "comma" or "repeat", not {value!r}'


def test_ssl():
    """A context of one's own is taken as it is; None means the default one."""
    context = ssl.create_default_context()
    assert checked_ssl(context) is context
    assert checked_ssl(None) is None


@pytest.mark.parametrize("value", [False, True, "ca.pem", 0], ids=repr)
def test_verification_cannot_be_turned_off(value):
    """There is no switch for verification, and no silent one either (a15)."""
    assert refusal(checked_ssl, value) == f"ssl must be an ssl.SSLContext or None, not {value!r}"


def test_default_address():
    """The address that is used without any setting is the vendor's."""
    assert _options.DEFAULT_BASE_URL == "https://api.sonarly.io"
