"""The objects behind the page, built and connected: chats, replies, controls, actions, tabs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import gradio as gr

from model.serving.manager import ModelManager
from web.chats.chat_service import ChatService
from web.chats.identity import Owner
from web.chats.open_store import OpenStore
from web.chats.prefill_ahead import PrefillAhead
from web.chats.reply_generator import ReplyGenerator
from web.chats.tab_sessions import TabSession, TabSessions
from web.public_link.limits import PublicLink
from web.training.service import TrainingService
from web.training.uploads import Uploads
from web.ui.actions import Actions
from web.ui.control_updates import ControlUpdates
from web.ui.layout import Layout
from web.ui.model_watcher import ModelWatcher
from web.ui.page import build_page
from web.ui.prompt_library import PromptLibrary
from web.ui.train_actions import TrainActions
from web.workers import LoopCaller, Workers

UPLOADS = "uploads"  # in the data folder


@dataclass(frozen=True)
class PageService:
    """The objects that the page's endpoints use."""

    blocks: gr.Blocks
    layout: Layout
    chat_service: ChatService
    workers: Workers
    controls: ControlUpdates
    actions: Actions
    watcher: ModelWatcher
    uploads: Uploads | None

    def check(self) -> None:
        """Checks that a page can be drawn: controls for an unknown visitor, and free threads.

        Raises:
            Exception: it cannot be drawn.
        """
        tab = TabSession(Owner("session:health", persistent=False))
        updates = self.layout.controls.encode(self.controls.all(tab))
        json.dumps(updates, ensure_ascii=False).encode()
        self.workers.check()

    def bind(self) -> None:
        """Binds the running event loop. A request may come before any tab is open."""
        self.tab_sessions.on_loop.bind()
        self.tab_sessions.subscribe(self.chat_service.on_replica_event)

    def begin(self) -> None:
        """Prepares for a new tab, on the running event loop."""
        self.bind()
        self.watcher.begin()

    @property
    def tab_sessions(self) -> TabSessions:
        return self.chat_service.tab_sessions

    @classmethod
    def build(
        cls,
        manager: ModelManager,
        store_handle: OpenStore,
        training_service: TrainingService | None,
        link: PublicLink | None,
        data_dir: Path,
    ) -> PageService:
        """Builds the service. With a `training_service` the page has a Train tab."""
        blocks, layout = build_page(manager.status().remote, training_service is not None)
        workers = Workers()
        chat_service = _chat_service(manager, store_handle, link, workers)
        library = PromptLibrary(store_handle.store)
        training = uploads = None
        if training_service is not None and layout.train is not None:
            uploads = Uploads(data_dir / UPLOADS)
            training = TrainActions(training_service, layout.train, uploads)
        controls = ControlUpdates(chat_service, library, layout, training)
        prefill_ahead = PrefillAhead(manager, chat_service, workers)
        actions = Actions(chat_service, library, layout, controls, prefill_ahead, training)
        watcher = ModelWatcher(chat_service, training_service)
        return cls(blocks, layout, chat_service, workers, controls, actions, watcher, uploads)


def _chat_service(
    manager: ModelManager, store_handle: OpenStore, link: PublicLink | None, workers: Workers
) -> ChatService:
    tab_sessions = TabSessions(store_handle.replica_bus, LoopCaller())
    reply_generator = ReplyGenerator(
        manager,
        store_handle.store,
        store_handle.lock.id,
        tab_sessions.notify_changed,
        tab_sessions.notify_progress,
        tab_sessions.notify_saved,
        store_handle.replica_bus,
        workers,
        tab_sessions.on_loop,
    )
    return ChatService(
        manager,
        store_handle.store,
        tab_sessions,
        reply_generator,
        link,
        store_handle.mark_interrupted_replies,
    )
