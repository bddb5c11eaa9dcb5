"""Serve the chat page and the API: settings -> manager -> web."""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from model.config.settings import Settings

JOIN_SECONDS = 2.0  # for the loading thread to notice that nobody wants its model any more


def main(argv: list[str]) -> int:
    """Serve until told to end: 0 then, 1 when it cannot, 2 for wrong use."""
    # Until the server has its own handlers: the imports alone take seconds.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)
    try:
        from model.config.process_secrets import hide_secrets
        from model.config.secret_files import exposure_warnings
        from model.config.settings import read_settings, secret_files
        from model.errors import LinlyError
    except ModuleNotFoundError as error:
        return _complain(_missing(error), 1)
    try:
        settings = read_settings(argv, os.environ)
        for warning in exposure_warnings(secret_files(settings, os.environ)):
            print(warning, file=sys.stderr)
        hide_secrets()
        return run(settings)
    except LinlyError as error:
        return _complain(str(error), error.exit_status)
    except ModuleNotFoundError as error:
        return _complain(_missing(error), 1)


def run(settings: Settings) -> int:
    """Open the page at once and load the model behind it."""
    from model.serving.local_backend import check_early
    from model.serving.manager import ModelManager
    from web.listen_socket import bind

    folder = check_early(settings)
    sock = bind(settings.server_name, settings.server_port)
    port = sock.getsockname()[1]
    from training.job import TrainingRunner
    from web import access, console, logs, server
    from web.chats.open_store import open_store
    from web.public_link import limits, tunnel
    from web.training.service import TrainingService, environment

    logs.configure(settings)
    store_handle = open_store(settings.data_dir, settings.database_url)
    # The public link leads to a port of its own, so that its visitors are told apart.
    link = bind("127.0.0.1", 0) if settings.share or settings.share_public else None
    link_port = link.getsockname()[1] if link else None
    manager = ModelManager(settings, folder=folder)
    trainings = TrainingRunner(environment(settings))
    rules = access.decide(settings, link_port)
    desk = TrainingService(settings, manager, trainings)
    quota = limits.link_rules(settings)
    public = limits.PublicLink(quota, tunnel.close_tunnels, rules.passphrase) if link else None
    app = server.build_app(manager, rules, store_handle, desk, public, settings.data_dir)
    console.greet(settings.server_name, port)
    manager.start()
    threading.Thread(target=console.follow_loading, args=(manager, public), daemon=True).start()
    if link_port and public:
        told = (settings, rules, link_port, public)
        threading.Thread(target=console.share_link, args=told, daemon=True).start()
    server.serve(app, [sock, link] if link else [sock], on_end=manager.close)
    trainings.close()
    store_handle.close()
    if not manager.join(JOIN_SECONDS):
        # Torch aborts a process that ends while it works in another thread; nothing is left to do.
        tunnel.close_tunnels()
        sys.stdout.flush()
        os._exit(0)
    return 0


def _end(*_: object) -> NoReturn:
    sys.exit(0)


def _missing(error: ModuleNotFoundError) -> str:
    return (
        f"The Python package {error.name} is missing: run "
        f"`{sys.executable} -m pip install -r requirements.txt`, or use `make run`."
    )


def _complain(sentence: str, status: int) -> int:
    print(sentence, file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
