"""The socket that a server listens on, and uvicorn on it until a signal: answers under way are finished first."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import threading
from collections.abc import Iterator
from typing import Any

from llava_finetune.errors import UserError


def listen(host: str, port: int) -> socket.socket:
    """A listening socket, taken before the model is loaded so that a busy port is told at once."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    out = socket.socket(family, socket.SOCK_STREAM)
    out.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        out.bind((host, port))
    except (OSError, UnicodeError) as error:  # the latter: no name of a host
        out.close()
        why = getattr(error, "strerror", None) or error
        raise UserError(f"cannot listen on {host[:100]}:{port}: {why}; choose others with --host and --port") from error
    out.listen(2048)
    return out


def run(application: Any, server: Any, listening: socket.socket, grace: float) -> None:
    """Serve on a socket until a signal; then take nothing new, finish answers, and leave."""
    graceful_server(configuration(application, grace), server).run(sockets=[listening])


def configuration(application: Any, grace: float) -> Any:
    """uvicorn's settings; `grace` seconds are left for answers under way when the server is stopped."""
    import uvicorn

    return uvicorn.Config(
        application,
        http="h11",  # bounds what a client may send as headers; httptools takes any amount
        log_level="warning",
        access_log=False,
        timeout_graceful_shutdown=max(1, int(grace)),
        lifespan="on",
    )


def graceful_server(config: Any, server: Any) -> Any:
    """uvicorn's server, which leaves once the last answer is out: an open page would hold it for the whole grace."""
    import uvicorn

    class GracefulServer(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            """As uvicorn's, which raises the signal again at the end: then nothing would be cleaned up."""
            if threading.current_thread() is not threading.main_thread():
                yield
                return
            before = {number: signal.signal(number, self.handle_exit) for number in (signal.SIGINT, signal.SIGTERM)}
            try:
                yield
            finally:
                for number, handler in before.items():
                    signal.signal(number, handler)

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            for engine in server.engines.values():
                engine.closing = True
            release = asyncio.create_task(self.release_when_done())
            await super().shutdown(sockets)
            release.cancel()

        async def release_when_done(self) -> None:
            while server.under_way or any(engine.busy for engine in server.engines.values()):
                await asyncio.sleep(0.05)
            await asyncio.sleep(0.5)  # the last bytes reach their readers
            self.force_exit = True

    return GracefulServer(config)
