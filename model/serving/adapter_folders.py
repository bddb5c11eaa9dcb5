"""Finds the adapter folders of this machine, and reads and checks each one that has changed.

Folders are foreign input: what fails in one, or takes too long, is the problem of that folder
alone.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

from model.diagnostics import Finding, finding
from model.display import clean_description, is_plain_name, printable_name
from model.doctor.chat_format import own_template, own_tokenizer
from model.doctor.check_adapter import check_adapter, default_template
from model.doctor.vocabulary import adapter_tokenizer, replaces_vocabulary
from model.errors import AdapterError, lacks_memory
from model.folders.adapter_config import CONFIG
from model.folders.adapter_files import FILES, digest, opens_thought, read_card
from model.folders.base_info import BaseInfo
from model.serving.folder_checks import FolderChecks
from model.text.prompt_template import PromptTemplate
from model.text.tokenizer import Tokenizer
from model.text.tokenizer_files import CHAT_TEMPLATE, TOKENIZER_FILES

MAX_ADAPTERS = 2000  # folders that are checked; a check of an unchanged one takes 20 µs
MAX_ENTRIES = 100_000  # of the directory that is listed
CHECK_TIMEOUT = 10.0  # seconds for one folder
STARTUP_CHECK_TIMEOUT = 300.0  # for folders that the user named when starting the program
LISTING = ""  # the key of the check that lists the directory
SLOW = finding("adapter_slow")
OUT_OF_MEMORY = finding("adapter_out_of_memory")

Stamp = tuple[float, ...]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Adapter:
    """An adapter folder as it was read. `problem` says why it cannot be used, if it cannot;
    `warnings` what a user should know. `tokenizer` is set if chats use the adapter's own, with its
    own vocabulary or with the base's.
    `opens_thought`: see `PromptTemplate`. `own_template` is the chat template in its folder, if the
    card names no other."""

    name: str
    path: Path
    description: str = ""
    template: str | None = None
    digest: str = ""
    problem: Finding | None = None
    warnings: tuple[Finding, ...] = ()
    tokenizer: Tokenizer | None = None
    replaces_vocabulary: bool = False
    opens_thought: bool = True
    own_template: PromptTemplate | None = None

    @property
    def ready(self) -> bool:
        return self.problem is None


@dataclass(frozen=True)
class ScannedFolder:
    """An adapter, and the stamp that its files had before they were read. An empty stamp means
    that the folder is read again by the next scan."""

    adapter: Adapter
    stamp: Stamp = ()
    exists: bool = True


class AdapterFolders:
    """The adapter folders in `directory`, and others. For one caller at a time.

    Args:
        directory: where the adapter folders are.
        base: what the adapters have to fit; None: not checked.
        templates: names of the known prompt templates.
        extra_folders: adapter folders in other places. The user named each of them, so it replaces
            a folder of the same name in `directory`.
        timeout: seconds that the check of one folder may take.
    """

    def __init__(
        self,
        directory: Path,
        base: BaseInfo | None,
        templates: Collection[str],
        extra_folders: Sequence[Path] = (),
        timeout: float = CHECK_TIMEOUT,
    ) -> None:
        self._directory = directory
        self._base = base
        self._templates = templates
        self._extra_folders = extra_folders
        self._listings = FolderChecks[list[Path]](timeout)
        self._checks = FolderChecks[ScannedFolder](timeout)
        self._paths: list[Path] = []
        self._scanned: dict[str, ScannedFolder] = {}
        self._is_first_scan = True
        self._limit_logged = False

    @property
    def count(self) -> int:
        """Number of folders that the last scan listed."""
        return len(self._paths)

    def scan(self) -> Mapping[str, Adapter]:
        """Lists the folders and reads those that have changed. Returns the adapters by name."""
        listed = self._listings.run({LISTING: self._list_folders})
        self._paths = listed.get(LISTING, self._paths)
        self._scanned = self._check(self._paths)
        self._is_first_scan = False
        return {name: folder.adapter for name, folder in self._scanned.items()}

    def refresh(self, name: str) -> Adapter | None:
        """Reads one folder again, if it has changed. Returns None if only a scan can tell: the
        folder is new or has gone. So a request does not pay for the other folders."""
        cached = self._scanned.get(name)
        if cached is None or not cached.stamp:
            return None
        folder = self._check([cached.adapter.path]).get(name)
        if folder is None:
            return None
        self._scanned[name] = folder
        return folder.adapter

    def _check(self, paths: Sequence[Path]) -> dict[str, ScannedFolder]:
        """Returns the folders at `paths` by name; reads only those that have changed."""
        plain = {path.name: path for path in paths if is_plain_name(path.name)}
        scanned = {
            printable_name(path.name): ScannedFolder(_with_unfit_name(path))
            for path in paths
            if path.name not in plain
        }
        checks = {str(path): partial(self._check_one, path) for path in plain.values()}
        is_startup = self._is_first_scan and any(path in self._extra_folders for path in paths)
        results = self._checks.run(checks, STARTUP_CHECK_TIMEOUT if is_startup else 0.0)
        for name, path in plain.items():
            folder = results.get(str(path)) or ScannedFolder(Adapter(name, path, problem=SLOW))
            if folder.exists:
                scanned[name] = folder
        return scanned

    def _check_one(self, path: Path) -> ScannedFolder:
        stamp = file_stamp(path)
        cached = self._scanned.get(path.name)
        if cached and cached.adapter.path == path and stamp and cached.stamp == stamp:
            return cached
        adapter = read_adapter(path, self._base, self._templates)
        is_known = adapter.problem != OUT_OF_MEMORY
        return ScannedFolder(adapter, stamp if is_known else (), bool(stamp))

    def _list_folders(self) -> list[Path]:
        entries: list[Path] = []
        with contextlib.suppress(OSError), os.scandir(self._directory) as directory:
            entries = [self._directory / entry.name for entry in islice(directory, MAX_ENTRIES)]
        folders: dict[str, Path] = {}
        for path in sorted(entries):
            if len(folders) >= MAX_ADAPTERS:
                self._log_limit()
                break
            if _has_config(path):
                folders[path.name] = path
        folders |= {path.name: path for path in self._extra_folders if _has_config(path)}
        return [folders[name] for name in sorted(folders)]

    def _log_limit(self) -> None:
        """Logs once that there are too many folders."""
        if not self._limit_logged:
            log.warning(
                "Only the first %d adapters of %s are served", MAX_ADAPTERS, self._directory
            )
        self._limit_logged = True


def read_adapter(path: Path, base: BaseInfo | None, templates: Collection[str]) -> Adapter:
    """Reads and checks the adapter in `path`. Raises nothing: `problem` tells what failed.

    `OUT_OF_MEMORY` is a problem of the moment, after which the folder is to be read again.
    """
    try:
        findings = tuple(check_adapter(path, base, templates))
        card = read_card(path)
        sha256 = digest(path)
        has_own_rows = any(entry.code == "adapter_vocabulary" for entry in findings)
        replaced_vocabulary = replaces_vocabulary(findings)
        tokenizer = adapter_tokenizer(path) if has_own_rows else own_tokenizer(path, base)
        own = None if card.get("template") else own_template(path)
    except BaseException as error:  # Rust libraries panic with exceptions that are no Exception
        if lacks_memory(error):
            return Adapter(path.name, path, problem=OUT_OF_MEMORY)
        if isinstance(error, AdapterError):
            return Adapter(path.name, path, problem=_problem(error))
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        return Adapter(path.name, path, problem=finding("adapter_unreadable", reason=reason))
    return Adapter(
        path.name,
        path,
        description=clean_description(card.get("description")),
        template=card.get("template")
        or (own.name if own else default_template(replaced_vocabulary, templates)),
        digest=sha256,
        warnings=tuple(entry for entry in findings if entry.level == "warning"),
        tokenizer=tokenizer,
        replaces_vocabulary=replaced_vocabulary,
        opens_thought=opens_thought(card),
        own_template=own,
    )


def file_stamp(path: Path) -> Stamp:
    """Times and sizes of the files of an adapter; differs if one of them changes, comes or goes."""
    stamp: list[float] = []
    folder = os.fspath(path)
    for name in (*FILES, *TOKENIZER_FILES, CHAT_TEMPLATE):
        try:
            status = os.stat(f"{folder}/{name}")  # noqa: PTH116 -- a third of Path's time, each second
        except OSError:
            continue
        stamp += [status.st_mtime_ns, status.st_size]
    return tuple(stamp)


def _with_unfit_name(path: Path) -> Adapter:
    """An adapter whose name cannot be sent or shown; its folder is not opened."""
    return Adapter(printable_name(path.name), path, problem=finding("adapter_name_unfit"))


def _has_config(path: Path) -> bool:
    try:
        return stat.S_ISREG(os.stat(f"{os.fspath(path)}/{CONFIG}").st_mode)  # noqa: PTH116 -- as above
    except OSError:
        return False


def _problem(error: AdapterError) -> Finding:
    if isinstance(error.text, Finding):
        return error.text
    return finding("adapter_unreadable", reason=error)
