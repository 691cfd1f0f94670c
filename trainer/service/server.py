"""The process: a socket, signals, connections that must not be slow, and the watch over the folder."""

import asyncio
import errno
import importlib.util
import os
import resource
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.errors import ConfigError, UserError
from trainer.service.limits import Limits

if TYPE_CHECKING:
    from trainer.service.export import CurrentExport, Opener
    from trainer.service.guard import Guard

PACKAGES = {"fastapi": "fastapi", "uvicorn": "uvicorn", "prometheus_client": "prometheus-client"}
"""Packages by their modules; the extra `serve` has them all."""
KEY_VARIABLE = "SHARDTOWER_API_KEY"
LOOPBACK = ("127.", "::1", "localhost")
MOST_HEADERS = 16 * 1024
"""Bytes of a request's line and headers."""
FILES_KEPT = 64
"""File descriptors that are left for other things than connections."""
SWITCH_SECONDS = 0.0005
"""How long a computation may keep the event loop from the interpreter; a tenth of Python's own setting."""
GRACE = 5.0
"""Seconds beyond the timeout of a request that a stop waits for requests in flight."""


def serve(
    folder: Path,
    host: str,
    port: int,
    limits: Limits,
    key_file: Path | None = None,
    watch_seconds: float = 1.0,
    opener: "Opener | None" = None,
) -> None:
    """Serve an export until SIGTERM, then finish the requests in flight and return.

    SIGHUP, or a change in the folder, swaps in the export that the folder holds then.

    Args:
        folder: Export folder, or a symbolic link to one.
        host: Address to listen at.
        port: Port; 0 takes a free one.
        limits: Bounds of requests.
        key_file: File with API keys, one a line; without it, `SHARDTOWER_API_KEY` of the environment is the
            key.
        watch_seconds: Seconds between two looks at the folder; 0 waits for SIGHUP alone.
        opener: Opens an export folder; the recommender's own by default.

    Raises:
        UserError: A package is missing, the export or the keys cannot be used, or the address is taken.
        KeyboardInterrupt: It was stopped by SIGINT, after the requests in flight.
    """
    _check_packages()
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # while the export is opened it would end the process
    keys = read_keys(key_file)
    from trainer.service.app import make_app
    from trainer.service.export import CurrentExport

    # The socket comes first: a port that is taken should not cost the opening of a large export.
    with bound_socket(host, port) as listening:
        current = CurrentExport(folder, opener or _recommender_opener())
        app = make_app(current, limits, keys)
        address = _address(listening)
        if not keys and not host.startswith(LOOPBACK):
            print(
                f"warning: {address} can be reached from other machines, and no API key is asked for. "
                f"Give one by --api-key-file or {KEY_VARIABLE}",
                file=sys.stderr,
            )
        # No variable for the export: it would keep the first one in memory for as long as the process lives.
        ready = f"serving {current.export.name} ({current.export.items:,} items) at {address}"
        interrupted = _run(app, listening, limits, current, watch_seconds, ready)
    if interrupted:
        raise KeyboardInterrupt


def read_keys(key_file: Path | None) -> list[str]:
    """Return the API keys of a file, one a line, or the environment's one; none: everybody may ask.

    Raises:
        ConfigError: The file cannot be read or holds no key, or a key cannot stand in a header.
    """
    if key_file is None:
        place, text = KEY_VARIABLE, os.environ.get(KEY_VARIABLE)
        if text is None:
            return []
    else:
        place = str(key_file)
        try:
            text = key_file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "it is no text"
            raise ConfigError(f"{place}: cannot be read ({why}). Name a file with API keys") from None
    keys = [line.strip() for line in text.splitlines() if line.strip()]
    if not keys:
        raise ConfigError(
            f"{place}: holds no API key. Write one into it, for instance of: openssl rand -hex 32"
        )
    if any(not (key.isascii() and key.isprintable()) or " " in key for key in keys):
        raise ConfigError(f"{place}: a key may hold letters, digits and signs of ASCII, without spaces")
    return keys


def bound_socket(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to an address and not yet listening.

    Raises:
        ConfigError: The address is in use, not this machine's, or not to be had.
    """
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (socket.gaierror, UnicodeError):
        raise ConfigError(
            f"--host {host}: no such address. The usual ones are 127.0.0.1 and 0.0.0.0"
        ) from None
    listening = socket.socket(family, kind, protocol)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind(place)
        listening.listen(1024)
    except OSError as error:
        listening.close()
        remedies = {
            errno.EADDRINUSE: f"port {port} is in use. Take another --port, or 0 for a free one",
            errno.EACCES: f"port {port} needs more rights. Take a --port from 1024 up",
            errno.EADDRNOTAVAIL: "this machine has no such address. Take another --host",
        }
        remedy = remedies.get(error.errno or 0, f"{error.strerror}. Take another --host or --port")
        raise ConfigError(f"{host}: {remedy}") from None
    return listening


def _run(
    app: "Guard",
    listening: socket.socket,
    limits: Limits,
    current: "CurrentExport",
    watch_seconds: float,
    ready: str,
) -> bool:
    """Run the server until a signal, print `ready` when it answers; return whether the signal was SIGINT."""
    import uvicorn

    from trainer.service.connection import Server, connection_class

    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    config = uvicorn.Config(
        app,
        http=connection_class(limits.timeout, max(soft - FILES_KEPT, 1)),
        ws="none",
        lifespan="off",
        log_config=None,  # what matters is written by us
        log_level="critical",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=MOST_HEADERS,
        timeout_graceful_shutdown=int(limits.timeout + GRACE),
    )
    server = Server(config, ready)
    sys.setswitchinterval(SWITCH_SECONDS)
    asyncio.run(server.serve_and_watch(listening, current, watch_seconds))
    app.computing.close()
    if app.computing.overdue:
        # A thread that never ends would keep the process alive.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(130 if server.interrupted else 0)
    return server.interrupted


def _check_packages() -> None:
    missing = [name for module, name in PACKAGES.items() if importlib.util.find_spec(module) is None]
    if missing:
        install = "pip install fastapi uvicorn prometheus-client"
        raise UserError(f"{', '.join(missing)}: not installed, and `serve` needs it. Run: {install}")


def _recommender_opener() -> "Opener":
    from trainer.recommender.recommender import Recommender

    return Recommender.open


def _address(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"
