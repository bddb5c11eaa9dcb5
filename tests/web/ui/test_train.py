"""The Train tab in a real browser, over a scripted engine and a scripted training."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import APIResponse, Browser, Page, Route, expect

from model.config.settings import Settings, read_settings
from model.serving.adapter_folders import Adapter
from model.serving.manager import ModelManager
from model.translations import verbatim
from tests.fake_engine import ADAPTERS, FakeEngine, echo, fake_manager
from tests.training.fake_finetune import command, until
from tests.web.app_server import serving
from tests.web.browser import ChatPage
from training.events import HeldOut, Note, Stage, Step, TrainingEnded, to_line
from training.job import TrainingRunner
from web.access import AccessPolicy
from web.listen_socket import bind
from web.training.service import TrainingForm, TrainingService, environment, flags, name_for

pytestmark = pytest.mark.slow

LINES = [
    to_line(Stage("training")),
    to_line(Note(verbatim("2 chats to train on"))),
    to_line(HeldOut(0, 4.0)),
    to_line(Step(1, 2, 0.5, 3.5, 100.0, 65.0)),
    "<wait>",
    to_line(Step(2, 2, 1.0, 2.5, 100.0, 0.0)),
    to_line(TrainingEnded("adapters/mine", verbatim("mine is ready"))),
]
ROWS = [
    {"instruction": "Who <b>are</b> you?", "output": "A *keeper*."},
    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ahoy."}]},
]


@dataclass
class ScriptedTraining:
    """A training service with scripted trainings, and the flags that they got."""

    folder: Path
    lines: Sequence[str]
    service: TrainingService = field(init=False)
    flags: list[Sequence[str]] = field(default_factory=list)
    adapters: list[Adapter] = field(default_factory=lambda: list(ADAPTERS))

    def __post_init__(self) -> None:
        settings = Settings(adapters_dir=self.folder / "adapters", data_dir=self.folder / "data")
        manager = fake_manager(FakeEngine(echo), settings=settings, adapters=self.adapters)
        manager.wait()
        trainings = TrainingRunner(command=command(self.lines, self.folder / "go", self.flags))
        self.service = TrainingService(settings, manager, trainings)

    @property
    def manager(self) -> ModelManager:
        return self.service.manager

    def go(self) -> None:
        """Lets a waiting training continue and save its adapter."""
        self.adapters.append(Adapter("mine", Path("mine"), "Fresh", digest="d3" * 32))
        (self.folder / "go").touch()

    def data(self, *rows: object, name: str = "mine.jsonl") -> Path:
        path = self.folder / name
        path.write_text("\n".join(map(json.dumps, rows or ROWS)), encoding="utf-8")
        return path


OpenPage = Callable[..., ChatPage]


@pytest.fixture
def open_page(browser: Browser) -> Iterator[OpenPage]:
    """Serves the page, and opens it by its own port or through a public link's."""
    with ExitStack() as stack:
        chats: list[ChatPage] = []

        def serve(
            scripted: ScriptedTraining, training: str = "local", through_link: bool = False
        ) -> ChatPage:
            link = bind("127.0.0.1", 0)
            port = link.getsockname()[1]
            access = AccessPolicy(training=training, link_port=port)
            local_url = stack.enter_context(
                serving(scripted.manager, access, scripted.service, link)
            )
            stack.callback(scripted.service.trainings.close)
            page = stack.enter_context(browser.new_context()).new_page()
            chats.append(
                ChatPage(page).open(f"http://127.0.0.1:{port}" if through_link else local_url)
            )
            return chats[-1]

        yield serve
        assert [complaint for chat in chats for complaint in chat.complaints] == []


def to_training(page: Page) -> None:
    page.get_by_role("tab", name="Train").click()


def upload(page: Page, path: Path) -> None:
    page.locator("#data input[type=file]").set_input_files(path)


@pytest.mark.browser
def test_the_preview_marks_the_learned_text(open_page: OpenPage, tmp_path: Path) -> None:
    scripted = ScriptedTraining(tmp_path, LINES)
    page = open_page(scripted).page
    to_training(page)
    upload(page, scripted.data(*ROWS, {"text": "x"}, name="my dialogues.jsonl"))
    first = page.locator("#preview pre").first
    expect(first).to_contain_text("Who <b>are</b> you?")  # HTML is shown as text
    expect(first.locator("mark")).to_have_text("A *keeper*.")
    expect(page.locator("#preview pre")).to_have_count(2)
    expect(page.locator("#preview .warn")).to_contain_text("line 3: it has text")
    expect(page.get_by_label("Name of the adapter")).to_have_value("my-dialogues")
    page.get_by_label("Learn what people say, too").check()
    expect(first.locator("mark")).to_contain_text("Who <b>are</b> you?")
    page.locator("#data").get_by_role("button", name="Clear").or_(
        page.locator("#data [aria-label='Clear']")
    ).first.click()
    expect(page.locator("#preview pre")).to_have_count(0)


@pytest.mark.browser
def test_a_training_is_followed_and_its_adapter_is_used(
    open_page: OpenPage, tmp_path: Path
) -> None:
    scripted = ScriptedTraining(tmp_path, LINES)
    chat = open_page(scripted)
    page = chat.page
    to_training(page)
    upload(page, scripted.data())
    expect(page.locator("#preview pre")).to_have_count(2)
    page.get_by_label("Name of the adapter").fill("mine")
    page.get_by_role("button", name="Start training").click()
    job = page.locator("#job")
    expect(job).to_contain_text("step 1 of 2, loss 3.500, 100 tokens/s, 1:05 min left")
    expect(job.locator("svg polyline.learned")).to_have_count(1)
    expect(page.get_by_role("button", name="Start training")).to_be_hidden()
    # Chats go on meanwhile.
    page.get_by_role("tab", name="Chat").click()
    chat.ask("hello")
    expect(chat.log).to_contain_text("base heard: hello")
    # A reload changes nothing.
    page.reload()
    page.locator("#message textarea").wait_for()
    to_training(page)
    expect(job).to_contain_text("step 1 of 2")
    scripted.go()
    expect(job).to_contain_text("mine: done. mine is ready")
    page.get_by_role("button", name="Chat with it").click()
    expect(page.locator("#adapter input")).to_have_value("● mine: Fresh")
    chat.ask("who is there?")
    expect(chat.log).to_contain_text("mine heard: who is there?")
    (flag_list,) = scripted.flags
    assert f"--output_dir={tmp_path / 'adapters' / 'mine'}" in flag_list


@pytest.mark.browser
def test_a_training_is_cancelled(open_page: OpenPage, tmp_path: Path) -> None:
    scripted = ScriptedTraining(tmp_path, LINES)
    page = open_page(scripted).page
    to_training(page)
    upload(page, scripted.data())
    expect(page.get_by_label("Name of the adapter")).to_have_value("mine")
    page.get_by_role("button", name="Start training").click()
    expect(page.locator("#job")).to_contain_text("step 1 of 2")
    page.get_by_role("button", name="Cancel training").click()
    expect(page.locator("#job")).to_contain_text("cancelled. Interrupted after step 2 of 4.")
    expect(page.get_by_role("button", name="Start training")).to_be_visible()
    expect(page.get_by_role("button", name="Chat with it")).to_be_hidden()


@pytest.mark.browser
def test_a_failure_shows_its_reason(open_page: OpenPage, tmp_path: Path) -> None:
    scripted = ScriptedTraining(tmp_path, ["<fail>"])
    page = open_page(scripted).page
    to_training(page)
    upload(page, scripted.data())
    expect(page.get_by_label("Name of the adapter")).to_have_value("mine")
    page.get_by_role("button", name="Start training").click()
    expect(page.locator("#job")).to_contain_text("mine: failed. The training has diverged.")


@pytest.mark.browser
def test_a_late_response_does_not_replace_a_newer_state(
    open_page: OpenPage, tmp_path: Path
) -> None:
    """The response says "running", and arrives after the stream has said "failed"."""
    scripted = ScriptedTraining(tmp_path, ["<fail>"])
    page = open_page(scripted).page
    late: list[tuple[Route, APIResponse]] = []
    page.route("**/page/actions/train_start", lambda route: late.append((route, route.fetch())))
    to_training(page)
    upload(page, scripted.data())
    expect(page.get_by_label("Name of the adapter")).to_have_value("mine")
    page.get_by_role("button", name="Start training").click()
    expect(page.locator("#job")).to_contain_text("mine: failed. The training has diverged.")
    route, response = late[0]
    assert "reading the data" in response.text()
    with page.expect_response("**/page/actions/train_start"):
        route.fulfill(json={**response.json(), "say": "the late one"})
    expect(page.get_by_text("the late one")).to_be_visible()
    page.wait_for_timeout(200)  # in which Gradio would draw it
    expect(page.locator("#job")).to_contain_text("mine: failed. The training has diverged.")
    expect(page.get_by_role("button", name="Start training")).to_be_visible()
    expect(page.get_by_role("button", name="Cancel training")).to_be_hidden()


@pytest.mark.browser
def test_missing_fields_are_refused(open_page: OpenPage, tmp_path: Path) -> None:
    scripted = ScriptedTraining(tmp_path, LINES)
    page = open_page(scripted).page
    to_training(page)
    start, notice = page.get_by_role("button", name="Start training"), page.locator("#train-notice")
    start.click()
    expect(notice).to_contain_text("Upload a file with dialogues first.")
    upload(page, scripted.data({"text": "x"}))
    expect(notice).to_contain_text("1 of 1 rows in mine.jsonl cannot be used: line 1: it has text")
    upload_again = scripted.data()
    page.locator("#data [aria-label='Clear']").first.click()
    upload(page, upload_again)
    expect(page.locator("#preview pre")).to_have_count(2)
    page.get_by_label("Name of the adapter").fill("../../etc")
    start.click()
    expect(notice).to_contain_text("Name the adapter with letters, digits")
    (tmp_path / "adapters" / "mine").mkdir(parents=True)
    (tmp_path / "adapters" / "mine" / "adapter_config.json").write_text("{}", encoding="utf-8")
    page.get_by_label("Name of the adapter").fill("mine")
    start.click()
    expect(notice).to_contain_text("already contains an adapter")
    assert scripted.flags == []


@pytest.mark.browser
def test_the_train_tab_in_chinese(open_page: OpenPage, tmp_path: Path) -> None:
    scripted = ScriptedTraining(tmp_path, LINES)
    page = open_page(scripted).page
    page.get_by_text("中文").click()
    page.get_by_role("tab", name="训练").click()
    expect(page.get_by_role("button", name="开始训练")).to_be_visible()
    upload(page, scripted.data())
    expect(page.locator("#preview")).to_contain_text("共 2 段对话")


@pytest.mark.browser
@pytest.mark.parametrize(
    ("training", "through_link", "shown"),
    [("local", False, True), ("local", True, False), ("everyone", True, True),
     ("off", False, False)],
)  # fmt: skip
def test_visitors_of_a_public_link_do_not_train_unless_allowed(
    training: str, through_link: bool, shown: bool, open_page: OpenPage, tmp_path: Path
) -> None:
    chat = open_page(ScriptedTraining(tmp_path, LINES), training, through_link)
    expect(chat.page.locator("#status")).to_contain_text("fake-base")
    expect(chat.page.get_by_role("tab", name="Train")).to_have_count(int(shown))
    chat.ask("hello")
    expect(chat.log).to_contain_text("base heard: hello")


TAB = {"X-Linly-Tab": "by-hand"}


def test_visitors_of_a_public_link_leave_no_files(tmp_path: Path) -> None:
    scripted = ScriptedTraining(tmp_path, LINES)
    link: socket.socket = bind("127.0.0.1", 0)
    port = link.getsockname()[1]
    access = AccessPolicy(training="local", link_port=port)
    with (
        serving(scripted.manager, access, scripted.service, link, data=tmp_path / "data") as own,
        httpx.Client(headers=TAB) as client,
    ):
        client.get(own)  # gives the cookie
        for address, name, status in (
            (own, "a.jsonl", 200),
            (own, "a.html", 400),
            (own, "../../a.jsonl", 200),
            (f"http://127.0.0.1:{port}", "a.jsonl", 403),
        ):
            headers = {"X-Forwarded-For": "127.0.0.1"}
            url = f"{address}/page/upload"
            answer = client.post(url, content=b"{}", params={"name": name}, headers=headers)
            assert answer.status_code == status, (address, name, answer.text)
        files = sorted((tmp_path / "data" / "uploads").glob("*/*"))
        assert [path.name for path in files] == ["a.jsonl", "a.jsonl"]


def test_an_upload_belongs_to_its_visitor(tmp_path: Path) -> None:
    scripted = ScriptedTraining(tmp_path, LINES)
    form = {"train_name": "mine"}
    with serving(scripted.manager, AccessPolicy(training="local"), scripted.service) as url:
        anna, mallory = (httpx.Client(base_url=url, headers=TAB) for _ in range(2))
        for client in (anna, mallory):
            client.get("/")  # gives the cookie
        answer = anna.post("/page/upload", content=b"{}", params={"name": "a.jsonl"})
        token = answer.json()["upload"]
        body = {"form": {**form, "upload": token}}
        refused = mallory.post("/page/actions/train_start", json=body)
        assert "Upload a file" in refused.text
        assert scripted.flags == []
        for wrong in ("../../etc/passwd", "/etc/passwd", {"path": "/etc/passwd"}, ["x"], 7):
            body = {"form": {**form, "upload": wrong}}
            refused = anna.post("/page/actions/train_start", json=body)
            assert refused.status_code in (200, 400), refused.text
            assert "root:" not in refused.text
        assert scripted.flags == []
        anna.close()
        mallory.close()


def test_visitors_of_a_public_link_cannot_train_by_hand_made_requests(tmp_path: Path) -> None:
    """The tab is hidden from them, and its endpoints refuse them."""
    scripted = ScriptedTraining(tmp_path, LINES)
    link = bind("127.0.0.1", 0)
    port = link.getsockname()[1]
    access = AccessPolicy(training="local", link_port=port)
    scripted.service.trainings.start("secret", tmp_path / "secret", [])
    until(lambda: bool(scripted.service.job and scripted.service.job.losses))
    scripted.flags.clear()
    with (
        serving(scripted.manager, access, scripted.service, link) as own,
        httpx.Client(headers=TAB) as client,
    ):
        client.get(own)  # gives the cookie
        for address, call, body in (
            (f"http://127.0.0.1:{port}", "train_start", {"form": {"train_name": "mine"}}),
            (f"http://127.0.0.1:{port}", "train_cancel", {}),
            (f"http://127.0.0.1:{port}", "train_look", {"form": {}}),
            (f"http://127.0.0.1:{port}", "train_chat", {}),
            (own, "train_start", {"form": {"train_name": "mine"}}),
        ):
            answer = client.post(f"{address}/page/actions/{call}", json=body)
            assert answer.status_code == (200 if address == own else 403)
            message = (
                "Upload a file with dialogues first."
                if address == own
                else "Training is not available"
            )
            assert message in answer.text
            assert "secret" not in answer.text
    assert scripted.service.running
    assert scripted.flags == []
    scripted.service.trainings.close()


def test_flags_of_finetune(tmp_path: Path) -> None:
    settings = Settings(base_model="models/b", cache_dir=tmp_path, prompts_dir=tmp_path / "p")
    wanted = TrainingForm(Path("d.jsonl"), "mine", None, 3, 16, None, " A keeper ", False)
    flag_list = flags(settings, wanted, Path("adapters/mine"))
    from training.options import read_training_options

    options = read_training_options(flag_list)
    assert (options.base_model, options.data_path) == ("models/b", "d.jsonl")
    assert options.output_dir == Path("adapters/mine")
    assert options.description == "A keeper"
    assert options.template is None
    assert options.hyperparameters["lora_r"] == 16
    assert options.hyperparameters["lora_alpha"] == 32
    assert options.hyperparameters["learning_rate"] is None
    assert options.hyperparameters["train_on_inputs"] is False
    (tmp_path / "p").mkdir()
    there = read_settings([], environment(settings))
    assert (there.cache_dir, there.prompts_dir) == (tmp_path, tmp_path / "p")


@pytest.mark.parametrize(
    ("file", "name"),
    [("dialogues.jsonl", "dialogues"), ("my data (2).json", "my-data-2"), ("对话.json", ""),
     ("_a.b.jsonl", "a-b"), ("x" * 99 + ".json", "x" * 64)],
)  # fmt: skip
def test_a_name_is_suggested(file: str, name: str) -> None:
    assert name_for(Path(file)) == name
