"""Runs the service until it is told to stop."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Callable
from contextlib import suppress

import uvicorn

from voicevault.bootstrap import open_vault
from voicevault.cores import available_cores
from voicevault.errors import SettingsError
from voicevault.service.app import create_app
from voicevault.service.protocol import HttpProtocol
from voicevault.settings import Settings
from voicevault.vault import Vault

log = logging.getLogger(__name__)
GRACE_SECONDS = 25
"""How long requests under way may take to end when the server stops."""
END_SECONDS = 30
"""When a process that was told to stop is gone, whatever still runs in it."""


def say(url: str) -> None:
    print(f"voicevault listens on {url}", flush=True)


class Server(uvicorn.Server):
    """uvicorn's server, which says where it listens.

    Attributes:
        announce: Gets the URL when the server listens.
        overdue: Called in a thread, `END_SECONDS` after the server was told to stop; None where others need the process.
    """

    def __init__(self, config: uvicorn.Config, announce: Callable[[str], None]) -> None:
        super().__init__(config)
        self.announce = announce
        self.overdue: Callable[[], None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self.announce(address(self.servers[0].sockets[0]))

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        if self.overdue is not None:
            timer = threading.Timer(END_SECONDS, self.overdue)
            timer.daemon = True
            timer.start()
        await super().shutdown(sockets)


def address(listener: socket.socket) -> str:
    """The URL of a listening socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def make_server(vault: Vault, settings: Settings, announce: Callable[[str], None] = say) -> Server:
    """The server of an open vault, ready to run; `announce` gets its URL when it listens."""
    config = uvicorn.Config(
        create_app(vault, settings),
        loop="uvloop" if os.name == "posix" else "asyncio",
        http=HttpProtocol,
        log_level="warning",
        access_log=False,  # paths hold speaker ids
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
    )
    return Server(config, announce)


def serve(settings: Settings, announce: Callable[[str], None] = say) -> None:
    """Opens the vault, answers on `settings.host` and `settings.port` until SIGINT or SIGTERM, and closes the vault. That is all
    the process is for: `END_SECONDS` after the signal it ends.

    Raises:
        SettingsError: It cannot listen there; and what `Vault.open` raises.
    """
    with listen(settings) as listener:
        if settings.threads is None:
            # Requests run side by side; threads of one inference would only fight with those of the others.
            cores = available_cores()
            settings = settings.changed(threads=max(1, cores // (settings.concurrency or cores)))
        server = make_server(open_vault(settings, serving=True), settings, announce)
        server.overdue = end_process
        # uvicorn raises the signal again when it has shut down; without a handler SIGTERM would then count as a crash.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with suppress(KeyboardInterrupt):
            server.run(sockets=[listener])


def end_process() -> None:
    """Ends the process at once: neither Python nor the system can end a thread that hangs, and Python waits for all of them."""
    log.error("What still ran %g s after the server was told to stop is cut off.", END_SECONDS)
    os._exit(1)


def listen(settings: Settings) -> socket.socket:
    """A socket bound to the address of the settings. Raises SettingsError."""
    try:
        family, _, _, _, where = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(where[:2], family=family, backlog=2048)
    except (OSError, UnicodeError) as error:  # the latter for what can be no host's name
        raise SettingsError(
            f"Cannot listen on {settings.host} port {settings.port}: {getattr(error, 'strerror', None) or error}."
            " Set another VOICEVAULT_HOST or VOICEVAULT_PORT, or stop what listens there.",
            host=settings.host,
            port=settings.port,
        ) from error
