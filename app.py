"""Serves the chat page and the API: `python app.py --help`."""

from __future__ import annotations

import os
import sys
import threading
from typing import TYPE_CHECKING

from model.program import run_program

if TYPE_CHECKING:
    from socket import socket

    from model.config.settings import Settings
    from model.folders.model_folder import ModelFolder
    from web.public_link.limits import PublicLink


def main(argv: list[str]) -> int:
    """Serves until a signal; returns 0, 1 on failure, 2 for wrong use."""
    from model.errors import LinlyError, missing_package_text

    try:
        from model.config.process_secrets import hide_secrets
        from model.config.secret_files import exposure_warnings
        from model.config.settings import read_settings, secret_files

        settings = read_settings(argv, os.environ)
        for warning in exposure_warnings(secret_files(settings, os.environ)):
            print(warning, file=sys.stderr)
        hide_secrets()
        return run(settings)
    except LinlyError as error:
        return _fail(str(error), error.exit_status)
    except ModuleNotFoundError as error:
        return _fail(str(missing_package_text(error)), 1)


def run(settings: Settings) -> int:
    """Opens the page at once, and loads the model in the background."""
    from model.serving.local_backend import check_early
    from web.listen_socket import bind

    folder = check_early(settings)
    sock = bind(settings.server_name, settings.server_port)
    # The public link leads to its own port, which identifies its visitors.
    link_sock = bind("127.0.0.1", 0) if settings.share or settings.share_public else None
    return _serve(settings, folder, sock, link_sock)


def _serve(
    settings: Settings, folder: ModelFolder | None, sock: socket, link_sock: socket | None
) -> int:
    from model.serving.manager import ModelManager
    from training.job import TrainingRunner
    from web import access, console, logs, server
    from web.chats.open_store import open_store
    from web.training.service import TrainingService, environment

    logs.configure(settings)
    store_handle = open_store(settings.data_dir, settings.database_url)
    manager = ModelManager(settings, folder=folder)
    trainings = TrainingRunner(environment(settings))
    link_port = link_sock.getsockname()[1] if link_sock else None
    policy = access.access_policy(settings, link_port)
    training = TrainingService(settings, manager, trainings)
    link = _public_link(settings, policy.passphrase) if link_sock else None
    app = server.build_app(manager, policy, store_handle, training, link, settings.data_dir)
    console.print_address(settings.server_name, sock.getsockname()[1])
    manager.start()
    threading.Thread(target=console.report_loading, args=(manager, link), daemon=True).start()
    if link_port and link:
        args = (settings, policy, link_port, link)
        threading.Thread(target=console.open_link, args=args, daemon=True).start()
    server.serve(app, [sock, link_sock] if link_sock else [sock], on_end=manager.close)
    trainings.close()
    store_handle.close()
    return 0


def _public_link(settings: Settings, passphrase: str | None) -> PublicLink:
    from web.public_link.limits import PublicLink, link_rules
    from web.public_link.tunnel import close_tunnels

    return PublicLink(link_rules(settings), close_tunnels, passphrase)


def _fail(sentence: str, status: int) -> int:
    print(sentence, file=sys.stderr)
    return status


if __name__ == "__main__":
    run_program(main, lambda: 0)
