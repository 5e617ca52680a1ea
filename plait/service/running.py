"""The process: a port, signals, and how it goes down."""

import gc
import signal
import socket
import threading
import warnings
from collections.abc import Callable
from types import FrameType

import uvicorn

from plait.service.app import app_of
from plait.service.problems import Problem
from plait.service.service import Service

Report = Callable[[str], None]
BACKLOG = 2_048  # connections that wait to be taken
KEEP_S = 75  # an idle connection: longer than usual proxies keep theirs


def run(service: Service, report: Report) -> None:
    """Serves until SIGTERM or Ctrl-C, then answers what was taken. SIGHUP takes a new version of the model.

    Raises:
        ValueError: the port cannot be had.
    """
    settings = service.settings
    warnings.simplefilter("ignore", UserWarning)  # they quote what was asked; answers tell it
    port = _bound(settings.host, settings.port)
    config = uvicorn.Config(
        app_of(service),
        log_level="warning",
        access_log=False,
        server_header=False,
        lifespan="off",
        timeout_graceful_shutdown=max(1, round(settings.drain_s)),
        timeout_keep_alive=KEEP_S,
        h11_max_incomplete_event_size=64 * 1024,
    )
    server = uvicorn.Server(config)
    gc.freeze()  # what was imported is not looked through again and again: all of it takes an eighth of a second
    signal.signal(signal.SIGHUP, _reloading(service, report))
    signal.signal(signal.SIGTERM, _stopping(server))  # before uvicorn has its own, and again when it is down
    host, number = port.getsockname()[:2]
    models = [f"{name} {served.deployed.version}" for name, served in service.served.items()]
    report(f"serving {', '.join(models)} at http://{host}:{number}")
    try:
        server.run(sockets=[port])
    except KeyboardInterrupt:  # raised again likewise
        pass
    finally:
        service.close()
    report("stopped")


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((host, port))
        found.listen(BACKLOG)  # from now on nobody is turned away, though nobody is answered yet
    except OSError as error:
        found.close()
        raise ValueError(
            f"{host}:{port} cannot be had ({error.strerror}); stop what listens there, or take another port"
        ) from error
    return found


def _stopping(server: uvicorn.Server) -> Callable[[int, FrameType | None], None]:
    def stop(number: int, frame: FrameType | None) -> None:
        server.should_exit = True

    return stop


def _reloading(service: Service, report: Report) -> Callable[[int, FrameType | None], None]:
    """Aside, so that no request waits for it."""

    def reload() -> None:
        try:
            found, told = service.reload(), None
        except Problem as problem:
            found, told = problem.more.get("models", []), problem.detail
        for done in found:
            state = "swapped" if done["swapped"] else "served already"
            report(f"model {done['model']} {done['version']}: {state}")
        if told is not None:
            report(f"reload: {told}")

    return lambda number, frame: threading.Thread(target=reload, name="plait-reload", daemon=True).start()
