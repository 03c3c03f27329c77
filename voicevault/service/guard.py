"""Keeps web pages away from a server that listens on a user's own machine, and sends what browsers should know.

A page of any site can send requests to ``http://127.0.0.1:8420``, and with a name that is re-bound to that address
(DNS rebinding) it can read the answers too. Against the first stand Origin and Sec-Fetch-Site, which browsers set and
pages cannot change; against the second stands Host, which then is the page's own name.
"""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from voicevault.errors import HostNotAllowedError
from voicevault.service.problems import problem_of

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})
ANY = "*"
RESPONSE_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Guard:
    """ASGI middleware: answers 403 HOST_NOT_ALLOWED where Host or Origin is not this server.

    Host must be a loopback name, the host that the server was told to listen on, or one of `allowed`; a server that
    listens beyond loopback also answers to IP addresses, which cannot be re-bound. Origin, where there is one, must be
    the Host itself or one of `allowed`. ``*`` among `allowed` lets every Host and Origin pass.

    Args:
        host: Where the server listens.
        allowed: Further host names; a port behind them says nothing.
    """

    def __init__(self, app: ASGIApp, host: str, allowed: list[str]) -> None:
        self._app = app
        self._allowed = {_hostname(f"//{name}") or _bare(name) for name in allowed}
        self._names = LOOPBACK | self._allowed | {_bare(host)}
        self._beyond_loopback = not _is_loopback(_bare(host))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        try:
            self._check(scope, Headers(scope=scope))
        except HostNotAllowedError as error:
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008, "reason": error.code})
            else:
                await problem_of(error)(scope, receive, _with_headers(send))
            return
        await self._app(scope, receive, _with_headers(send))

    def _check(self, scope: Scope, headers: Headers) -> None:
        if ANY in self._allowed:
            return
        hosts = headers.getlist("host")
        host = _hostname(f"//{hosts[0]}") if len(hosts) == 1 else None
        if host is None or not (host in self._names or (self._beyond_loopback and _is_address(host))):
            raise HostNotAllowedError(
                f"The server does not answer to the host {', '.join(hosts) or 'that is missing'}."
                " Add its name to VOICEVAULT_ALLOWED_HOSTS if it is yours.",
                host=", ".join(hosts),
            )
        origin = headers.get("origin")
        if origin is not None:
            same = urlsplit_netloc(origin) == hosts[0].lower()
            if not same and _hostname(origin) not in self._allowed:
                raise HostNotAllowedError(
                    f"A page of {origin} may not use this server."
                    " Add its host to VOICEVAULT_ALLOWED_HOSTS if it is yours.",
                    origin=origin,
                )
        elif headers.get("sec-fetch-site") in ("cross-site", "same-site"):
            # Images, scripts and forms of other pages carry no Origin on GET. A link that a person follows may pass.
            followed = (
                headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
            )
            if not (followed and scope.get("method") in ("GET", "HEAD")):
                raise HostNotAllowedError(
                    "A page of another site may not use this server.", site="cross-site"
                )


def urlsplit_netloc(url: str) -> str | None:
    """Host and port of a URL in lower case, None where it has none (``null``, the Origin of a sandboxed page)."""
    try:
        return urlsplit(url).netloc.lower() or None
    except ValueError:
        return None


def _hostname(url: str) -> str | None:
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises where it is none
        if parts.username is not None or parts.path or parts.query or parts.fragment:
            return None
        return _bare(parts.hostname) if parts.hostname else None
    except ValueError:
        return None


def _bare(name: str) -> str:
    return name.strip().strip("[]").rstrip(".").lower()


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _is_loopback(name: str) -> bool:
    return name in LOOPBACK or (_is_address(name) and ip_address(name).is_loopback)


def _with_headers(send: Send) -> Send:
    async def sender(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in RESPONSE_HEADERS.items():
                headers.setdefault(name, value)
        await send(message)

    return sender
