"""Prints the program's status: the page's address, the progress of loading, the public link."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from model.config.settings import Settings
from model.errors import ShareError
from model.serving.adapter_folders import Adapter
from model.serving.manager import ModelManager
from model.suggestions import did_you_mean
from model.types import Phase, Status
from web.access import AccessPolicy
from web.logs import print_status
from web.public_link.limits import BASE, PublicLink
from web.public_link.tunnel import open_tunnel

PHASE_TEXTS = {
    Phase.STARTING: "Starting",
    Phase.FETCHING: "Fetching the model (once)",
    Phase.CONVERTING: "Converting the model (once, about half a minute)",
    Phase.READING: "Reading the weights",
}
ALL_INTERFACES = ("0.0.0.0", "::")  # noqa: S104 (only compared with)
BAR_WIDTH = 24  # characters
POLL_SECONDS = 0.2


def print_address(host: str, port: int) -> None:
    """Prints the page's address."""
    name = "127.0.0.1" if host in ALL_INTERFACES else host
    print_status(f"Linly Chat: http://{name}:{port} (press Ctrl-C to stop)")


def report_loading(manager: ModelManager, link: PublicLink | None = None) -> None:
    """Prints each phase until the model is ready, on a terminal with a progress bar.

    Then prints problems: broken adapters, and adapters of the `link` that do not exist.
    """
    began = time.monotonic()
    redraws = sys.stdout.isatty()
    last_phase: Phase | None = None
    while (status := manager.wait(POLL_SECONDS)).phase in PHASE_TEXTS:
        text = PHASE_TEXTS[status.phase]
        if redraws:
            print(f"\r\x1b[K{text} {_bar(status.progress)}", end="", flush=True)
        elif status.phase is not last_phase:
            print_status(f"{text} …")
        last_phase = status.phase
    if redraws and last_phase:
        print("\r\x1b[K", end="")
    _print_outcome(status, time.monotonic() - began)
    adapters = manager.adapters()
    _print_adapter_problems(adapters)
    if status.ready and link:
        _print_missing_adapters(link.rules.adapters or (), [adapter.name for adapter in adapters])


def _print_adapter_problems(adapters: Sequence[Adapter]) -> None:
    for adapter in adapters:
        if adapter.problem:
            message = adapter.problem.message().rstrip(".")
            print_status(
                f"The adapter {adapter.name} is broken: {message}. {adapter.problem.remedy()}"
            )
        for warning in adapter.warnings:
            print_status(f"The adapter {adapter.name}: {warning.message()}. {warning.remedy()}")


def _print_outcome(status: Status, seconds: float) -> None:
    if status.ready:
        local_model = f"{status.base_model}, {status.quantization}, on {status.device}"
        print_status(
            f"Ready after {seconds:.0f} s: {status.base_model if status.remote else local_model}."
        )
    elif not status.remote:  # a remote server may still answer; the log says whether it does
        print_status(f"The model could not be loaded. {status.error}")


def _print_missing_adapters(shared: Sequence[str], existing: Sequence[str]) -> None:
    """Prints the names in `--share_adapters` that do not exist: their replies would all fail."""
    names = [BASE, *existing]
    for name in shared:
        if name not in names:
            remedy = did_you_mean(name, names, "there_are", names=tuple(names))
            print_status(f"--share_adapters: there is no adapter {name}. {remedy}")


def open_link(settings: Settings, access: AccessPolicy, port: int, link: PublicLink) -> None:
    """Opens the public link, and prints its address and passphrase."""
    print_status("Opening a public link …")
    try:
        address = open_tunnel(port)
    except ShareError as error:
        link.problem = error.text
        print_status(str(link.problem))
        return
    link.opened(address)
    print_status(f"Public link: {address}")
    if settings.share_public:
        print_status("Everyone who has the link can chat: --share_public sets no passphrase.")
    elif access.passphrase:
        print_status(f"Passphrase:  {access.passphrase}")


def _bar(progress: float) -> str:
    done = round(progress * BAR_WIDTH)
    return f"[{'#' * done}{' ' * (BAR_WIDTH - done)}] {progress:4.0%}"
