"""Everything behind the page, tied together: chats, replies, controls, actions, tabs."""

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
from web.ui.library import PromptLibrary
from web.ui.model_watcher import ModelWatcher
from web.ui.page import build_page
from web.ui.train_actions import TrainActions
from web.workers import LoopCaller, Workers

UPLOADS = "uploads"  # in the data folder


@dataclass(frozen=True)
class PageService:
    """What the page's endpoints use."""

    blocks: gr.Blocks
    layout: Layout
    chat_service: ChatService
    workers: Workers
    controls: ControlUpdates
    actions: Actions
    watch: ModelWatcher
    uploads: Uploads | None

    def check(self) -> None:
        """That a page can be drawn now: controls for an unknown visitor, and threads that work.

        Raises:
            Exception: it cannot.
        """
        visit = TabSession(Owner("session:health", persistent=False))
        updates = self.layout.controls.encode(self.controls.all(visit))
        json.dumps(updates, ensure_ascii=False).encode()
        self.workers.check()

    def bind(self) -> None:
        """Something is asked for on the event loop that runs now; it may precede any tab."""
        self.tab_sessions.on_loop.bind()
        self.tab_sessions.subscribe(self.chat_service.on_replica_event)

    def begin(self) -> None:
        """A tab has been opened, on the event loop that runs now."""
        self.bind()
        self.watch.begin()

    @property
    def tab_sessions(self) -> TabSessions:
        return self.chat_service.tab_sessions

    @classmethod
    def build(
        cls,
        manager: ModelManager,
        store_handle: OpenStore,
        desk: TrainingService | None,
        link: PublicLink | None,
        data_dir: Path,
    ) -> PageService:
        """The service for `manager`; with a `desk` the page has a tab for training."""
        blocks, layout = build_page(manager.status().remote, desk is not None)
        workers, on_loop = Workers(), LoopCaller()
        store = store_handle.store
        tab_sessions = TabSessions(store_handle.replica_bus, on_loop)
        reply_generator = ReplyGenerator(
            manager,
            store,
            store_handle.lock.id,
            tab_sessions.notify_changed,
            tab_sessions.notify_progress,
            tab_sessions.notify_saved,
            store_handle.replica_bus,
            workers,
            on_loop,
        )
        chat_service = ChatService(
            manager,
            store,
            tab_sessions,
            reply_generator,
            link,
            store_handle.mark_interrupted_replies,
        )
        shelf = PromptLibrary(store)
        training = uploads = None
        if desk is not None and layout.train is not None:
            uploads = Uploads(data_dir / UPLOADS)
            training = TrainActions(desk, layout.train, uploads)
        controls = ControlUpdates(chat_service, shelf, layout, training)
        ahead = PrefillAhead(manager, chat_service, workers)
        actions = Actions(chat_service, shelf, layout, controls, ahead, training)
        watch = ModelWatcher(chat_service, desk)
        return cls(blocks, layout, chat_service, workers, controls, actions, watch, uploads)
