"""What the terminal says: where the page is, how loading goes, the public link."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from model.config.settings import Settings
from model.errors import ShareError
from model.serving.manager import ModelManager
from model.suggestions import did_you_mean
from model.types import Phase, Status
from web.access import AccessPolicy
from web.logs import print_status
from web.public_link.limits import BASE, PublicLink
from web.public_link.tunnel import open_tunnel

WORDS = {
    Phase.STARTING: "Starting",
    Phase.FETCHING: "Fetching the model (once)",
    Phase.CONVERTING: "Converting the model (once, about half a minute)",
    Phase.READING: "Reading the weights",
}
EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104 (only compared with)
BAR = 24  # characters
POLL_SECONDS = 0.2


def greet(host: str, port: int) -> None:
    """Where the page is."""
    shown = "127.0.0.1" if host in EVERYWHERE else host
    print_status(f"Linly Chat: http://{shown}:{port} (press Ctrl-C to stop)")


def follow_loading(manager: ModelManager, link: PublicLink | None = None) -> None:
    """Tell each phase until the model is ready, with a bar where a line can be redrawn.

    Then what is amiss: broken adapters, and those that the `link` is for and that are not there.
    """
    began = time.monotonic()
    redraws = sys.stdout.isatty()
    told: Phase | None = None
    while (status := manager.wait(POLL_SECONDS)).phase in WORDS:
        words = WORDS[status.phase]
        if redraws:
            print(f"\r\x1b[K{words} {_bar(status.progress)}", end="", flush=True)
        elif status.phase is not told:
            print_status(f"{words} …")
        told = status.phase
    if redraws and told:
        print("\r\x1b[K", end="")
    _tell_outcome(status, time.monotonic() - began)
    for adapter in manager.adapters():
        if adapter.problem:
            message = adapter.problem.message().rstrip(".")
            print_status(
                f"The adapter {adapter.name} is broken: {message}. {adapter.problem.remedy()}"
            )
        for warning in adapter.warnings:
            print_status(f"The adapter {adapter.name}: {warning.message()}. {warning.remedy()}")
    if status.ready and link:
        _tell_absent(link.rules.adapters or (), [one.name for one in manager.adapters()])


def _tell_outcome(status: Status, seconds: float) -> None:
    if status.ready:
        what = f"{status.base_model}, {status.quantization}, on {status.device}"
        print_status(
            f"Ready after {seconds:.0f} s: {status.base_model if status.remote else what}."
        )
    elif not status.remote:  # a server elsewhere may answer yet; the log says whether it does
        print_status(f"The model could not be loaded. {status.error}")


def _tell_absent(shared: Sequence[str], there: Sequence[str]) -> None:
    """Each name of `--share_adapters` that nothing stands for: its replies would all fail."""
    names = [BASE, *there]
    for name in shared:
        if name not in names:
            remedy = did_you_mean(name, names, "there_are", names=tuple(names))
            print_status(f"--share_adapters: there is no adapter {name}. {remedy}")


def share_link(settings: Settings, rules: AccessPolicy, port: int, link: PublicLink) -> None:
    """Open the public link, and say how to come in."""
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
    elif rules.passphrase:
        print_status(f"Passphrase:  {rules.passphrase}")


def _bar(progress: float) -> str:
    done = round(progress * BAR)
    return f"[{'#' * done}{' ' * (BAR - done)}] {progress:4.0%}"
