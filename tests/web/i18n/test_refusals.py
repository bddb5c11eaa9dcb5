"""Refusals in Chinese: how they are looked up, and that none is missing."""

from __future__ import annotations

import json
import re
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import expect

from model import diagnostics
from model.config.settings import CHECKOUT
from model.diagnostics import adapter_error, folder_error
from tests.fake import FakeEngine, echo, fake_manager
from tests.web.app_server import serving
from tests.web.conftest import Serve
from tests.web.i18n.raised import kinds, sources
from tests.web.page_client import Caller, said
from training.preview import Preview
from web.chats.reply_generator import FAULT
from web.chats.store.errors import REASONS, UnknownChatError
from web.chats.transfer.import_models import MAX_ERROR
from web.i18n import texts
from web.i18n.refusals import LONGEST, Template, refused
from web.public_link.limits import LinkRules, PublicLink
from web.ui.share_panel import describe
from web.ui.train.view import data_view

CATALOGUE = CHECKOUT / "web" / "i18n" / "refusals.zh.json"
CHINESE: dict[str, str] = json.loads(CATALOGUE.read_text(encoding="utf-8"))

# What these refuse is never on the page.
ELSEWHERE = {
    "web/listen_socket.py",  # the start: the port
    "web/chats/open_store.py",  # the start: the data folder
    "web/api/admin.py",  # the API, and the six that follow
    "web/api/middleware.py",
    "web/api/request_models.py",
    "web/api/routes.py",
    "web/api/openai_format.py",
    "web/health_checks.py",
    "web/public_link/middleware.py",
    "model/config/argument_parser.py",  # flags, read before anything is served
    "model/config/settings.py",
    "model/config/secret_files.py",
    "training/options.py",
    "model/merge/planning.py",  # a command
    "web/passwords.py",  # another
}

# What is said without being raised, and what is put into a sentence for a value.
SAID = {
    "model/serving/background_loader.py": (
        "There is not enough memory to load this model. Try --quantization 8bit.",
        "Loading failed: {}",
    ),
    "model/engine/local_engine.py": (
        "There was not enough memory for this reply. Ask again with a shorter chat.",
        "The model failed on this reply: {}",
        "The engine stopped: {}",
    ),
    "model/text/prompt.py": (
        "The chat",
        "The question alone",
        "The question with the reply so far",
        "The system prompt alone",
    ),
    "model/folders/adapter_files.py": (
        "trained biases",
        "{} has nonsense in {}",
        "{} holds no JSON object",
        "{} is of no type that is served",
    ),
    "model/folders/tensor_schema.py": ("{} key heads do not divide {} heads",),
    "model/folders/model_folder.py": ("of an unknown family",),
    "model/text/tokenizer_files.py": (
        "it holds no JSON object",
        "; with {} rows it is likely {}",
    ),
    "model/folders/weights.py": (
        "it is no PyTorch file, or torn",
        "it ends too early",
        "its table of tensors does not fit the file",
        "its table of tensors is larger than {} MB",
        "it holds more than {} tensors",
        "it holds a tensor whose name is no plain text",
        "it became shorter while it was read",
        "it is in PyTorch's old format",
    ),
    "model/folders/bounded_files.py": (
        "it is no regular file",
        "it is nested too deeply",
        "it is a link that leads out of its folder",
        "it is larger than {} MB",
    ),
    "model/folders/torch_archive.py": (
        "it is no PyTorch file, or torn",
        "it unpacks to more than it holds",
        "its pickle is larger than {} MB",
        "it holds more than {} members",
    ),
    "model/text/tokenizer_bounds.py": (
        "it makes texts grow without bound",
        "it has too many added tokens, or some that are too long",
        "its normaliser is torn",
    ),
    "model/text/template_sandbox.py": (
        "it takes too many steps",
        "it makes a text or a list that is too long",
        "it is longer than {} characters",
        "it computes with a number that is too large",
    ),
    "model/convert/gguf.py": (
        "a mixture of experts",
        "factors of its own",
        "its metadata make no sense ({}: {})",
    ),
    "web/chats/transfer/json_reader.py": (
        "it is no JSON",
        "it is nested too deeply",
        "it has too many parts",
        "there is a number {} in it",
    ),
    "web/chats/transfer/import_file.py": ("{} chats, or {} messages",),
    "web/chats/reply_generator.py": (FAULT,),
    "web/public_link/limits.py": ("the base",),
    "training/dataset.py": ("{}; and {} more",),
    "training/encoding.py": ("its question alone is longer than {} tokens (--cutoff_len)",),
    "training/job.py": (
        "The training was ended by the system, probably for want of memory",
        "It ended with status {}",
    ),
    "training/data_preparation.py": (
        "{} {} left out: {}",
        "{} {} longer than {} tokens and lost the end (--cutoff_len)",
        "{} chats stand in the file more than once",
        "{} chats to learn, {} held out to measure with",
    ),
    "training/run.py": (
        "It had come to its end: going on with what is left to do",
        "Going on from {}",
    ),
    "training/finalize.py": (
        "It is worse than its base on what was held out. Fewer --num_epochs or a lower "
        "--learning_rate may help",
        "{} is ready. Held-out loss: {}",
    ),
    "training/report.py": (
        "not measured: nothing was held out",
        "{} of the base, {} of the adapter{}",
    ),
    "training/parsing.py": (
        "line {}: {}",
        "no JSON ({}, column {})",
        "no JSON ({})",
        "the list breaks off, or a comma is missing, behind this row",
    ),
    "finetune.py": (
        "Interrupted. The same command goes on with what was kept.",
        "There is not enough memory. Lower --micro_batch_size or --cutoff_len.",
        "This went wrong: {}: {}.",
    ),
}


def bare(text: str) -> str:
    """Without values and the last full stop."""
    return re.sub(r"\{\w*(?:[:!][^{}]*)?\}", "{}", text).removesuffix(".")


def by_findings() -> set[str]:
    entries = diagnostics.texts("en").values()
    return {bare(entry[part]) for entry in entries for part in ("message", "remedy")}


def has_chinese(template: str) -> bool:
    known = {bare(key) for key in CHINESE} | by_findings() | {bare(texts("en")["fault"])}
    return bare(template) in known or all(bare(part) in known for part in template.split(". "))


def shown() -> dict[str, set[str]]:
    """Messages and remedies that can come to the page, by file."""
    return {
        # A key of the page's texts is as good.
        name: source.refusals(kinds()) - texts("en").keys()
        for name, source in sources().items()
        if name not in ELSEWHERE
    }


def test_every_refusal_has_its_chinese() -> None:
    found = shown()
    assert sum(map(len, found.values())) > 200
    missing = {
        f"{name}: {text}" for name, said in found.items() for text in said if not has_chinese(text)
    }
    assert missing == set()


@pytest.mark.parametrize("name", SAID)
def test_and_so_has_what_is_said_otherwise(name: str) -> None:
    literals = sources()[name].literals()
    for text in SAID[name]:
        assert text in literals
        assert has_chinese(text), text


def test_and_what_the_database_says() -> None:
    for reason, remedy in REASONS.values():
        assert has_chinese(bare(reason)), reason
        assert has_chinese(bare(remedy)), remedy


def test_no_module_is_excused_in_vain() -> None:
    for name in ELSEWHERE:
        assert sources()[name].refusals(kinds()), name


def test_nothing_in_the_catalogue_is_left_over() -> None:
    literals = {text for source in sources().values() for text in source.literals()}
    said = {bare(part) for text in literals for part in (text, *text.split(". "))}
    assert {key for key in CHINESE if bare(key) not in said} == set()
    assert {key for key in CHINESE if bare(key) in by_findings()} == set(), "written twice"


@pytest.mark.parametrize("key", CHINESE)
def test_an_entry_reads_as_chinese(key: str) -> None:
    chinese = CHINESE[key]
    places = set(re.findall(r"\{(.*?)\}", chinese))
    assert places <= {str(number) for number in range(key.count("{}"))}
    assert re.search(r"[一-鿿]", chinese)
    assert not re.search(r"[一-鿿][,.:;?!()]", chinese), "full-width punctuation"
    assert key.endswith(".") == chinese.endswith("。")


def test_the_findings_places_are_those_of_their_english() -> None:
    for code, entry in diagnostics.texts("en").items():
        for part in ("message", "remedy"):
            used, there = (
                set(re.findall(r"\{(\w+)[:!}]", table[part]))
                for table in (diagnostics.texts("zh")[code], entry)
            )
            assert used <= there, code


LOCKED = "The chats cannot be saved: another program holds /data/chats.sqlite3."
ROWS = (
    "line 1: the reply is empty; line 2: messages[0] is a list where text was expected; "
    "line 9: messages[1] has the role 'x'; known are system, user and assistant; and 2 more"
)


@pytest.mark.parametrize(
    ("english", "chinese"),
    [
        (str(UnknownChatError()), "这个对话不存在，或已被删除。请在侧栏另选一个。"),
        ("The program is shutting down", "程序正在关闭。"),
        ("The program is shutting down.", "程序正在关闭。"),  # as it is kept with a reply
        ("There is no file a.b/c.json. Mend the path of --data_path.",
         "没有文件 a.b/c.json。请更正 --data_path 的路径。"),
        # In another order.
        ("3 of 5 rows in my.json cannot be used: line 1: the reply is empty. "
         "Mend them, or take them out.",
         "my.json 的 5 行中有 3 行无法使用：第 1 行：回复为空。请修正或去掉它们。"),
        # A reason has its own words, and values.
        (f"{LOCKED} Close that program, then try again.",
         "无法读写对话记录：/data/chats.sqlite3 正被另一个程序占用。请关闭那个程序，然后重试。"),
        ("The question alone is 30 tokens long and there is room for 20",
         "仅这个问题就长 30 个词元，而最多容纳 20 个。"),
        ("The model could not be loaded: There is no model folder x. Did you mean y?",
         "模型无法加载：没有模型文件夹 x。你是不是要找 y？"),
        ("The adapter 'x' is broken: it cannot be read: a.json holds no JSON object",
         "适配器 'x' 已损坏：无法读取：a.json 里不是 JSON 对象。"),
        (ROWS, "第 1 行：回复为空；第 2 行：messages[0] 应为文本；"
               "第 9 行：messages[1] 的角色是 'x'，只能是 system、user 或 assistant；另有 2 行。"),
        # A value may be sentences, too.
        ("Loading failed: No. Never. Really", "加载失败：No. Never. Really。"),
        ("The prompt template 'x' cannot write this chat: It must. Alternate: so. "
         "Choose another template or change the order of the messages.",
         "提示词模板 'x' 写不出这个对话：It must. Alternate: so。请换一个模板，或调整消息的顺序。"),
        ("The disk with x is full. Make room. checkpoint-3 is kept: the same command goes on from "
         "there", "x 所在的磁盘已满。请腾出空间。checkpoint-3 已保留，用同一命令会从那里继续"),
        (FAULT, texts("zh")["fault"]),
        # What a training tells.
        ("2 rows are left out: line 1: the reply is empty; line 2: no JSON (Extra data)",
         "略去 2 行：第 1 行：回复为空；第 2 行：不是 JSON（Extra data）。"),
        ("mine is ready. Held-out loss: 3.636 of the base, 0.666 of the adapter (-82%)",
         "mine 已就绪。留出损失：基础模型 3.636，适配器 0.666 (-82%)。"),
        ("It is worse than its base on what was held out. Fewer --num_epochs or a lower "
         "--learning_rate may help", "在留出的对话上，它比基础模型更差。减小 --num_epochs 或降低 "
         "--learning_rate 可能有帮助。"),
        # Nothing of it is known, or only what is wrong.
        ("Nobody knows. Try again in a moment.", "Nobody knows. Try again in a moment."),
        ("The title is empty. Sing one. Now.", "标题为空。Sing one. Now."),
        ("文本", "文本"),
        ("", ""),
    ],
)  # fmt: skip
def test_a_sentence(english: str, chinese: str) -> None:
    assert refused(english, "zh") == chinese
    assert refused(english, "en") == english


def test_findings_have_their_own_words() -> None:
    error = folder_error("disk_too_small", folder="/m", needed=12.34, free=1.0)
    assert error.finding.message("zh") in refused(str(error), "zh")  # type: ignore[attr-defined]
    error = folder_error("rows_without_text", rows=32000, pieces=7, likely="")
    assert '{"vocab_size": 32000}' in refused(str(error), "zh")
    found = adapter_error("adapter_file_missing", name="x").finding
    told = f"The adapter 'y' is broken: {found.message()}. {found.remedy()}"  # type: ignore[attr-defined]
    assert refused(told, "zh") == f"适配器 'y' 已损坏：缺少 x。{found.remedy('zh')}"  # type: ignore[attr-defined]


@pytest.mark.parametrize("code", diagnostics.texts("en"))
def test_every_finding_is_known_by_its_english(code: str) -> None:
    entry = diagnostics.texts("en")[code]
    places = set(re.findall(r"(?<!\{)\{(\w+)([:!]?)", entry["message"] + entry["remedy"]))
    numbers = {name: 7.5 for name, how in places if how == ":"}
    found = diagnostics.finding(code, **({name: f"q{name}" for name, _ in places} | numbers))
    english = f"{found.message().rstrip('.')}. {found.remedy()}".removesuffix(". ")
    remedy = found.remedy("zh")
    assert refused(english, "zh") == found.message("zh") + ("。" + remedy if remedy else "。")


@pytest.mark.parametrize(
    "text",
    ["layer " + " " * 200 + " is made for  and the base has " * 9, ": ".join("ab" * 99),
     "The title is empty. " * 15, "line 1: " * 36],
)  # fmt: skip
def test_a_text_that_was_made_to_take_long_does_not(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With regular expressions, each message of an imported chat took a fifth of a second."""
    looks = 0
    read = Template._values

    def counted(self: Template, text: str) -> list[str] | None:
        nonlocal looks
        looks += 1
        return read(self, text)

    monkeypatch.setattr(Template, "_values", counted)
    refused(text[:MAX_ERROR], "zh")
    assert looks < 10_000


def test_what_is_too_long_to_be_ours_is_not_looked_at() -> None:
    """An imported chat can hold anything, and is drawn on the thread that all share."""
    told = "The title is empty. "
    assert refused(told * (LONGEST // len(told) + 1), "zh").startswith("The title")


def test_a_link_that_could_not_be_opened() -> None:
    problem = (
        "No public link: the tunnel was refused (timeout). Try again later. The local page goes on."
    )
    link = PublicLink(LinkRules(), lambda: None, problem=problem)
    assert "没有公开链接：隧道被拒绝" in describe(link, "zh")
    assert "请稍后再试。本机页面仍可使用。" in describe(link, "zh")
    assert "the tunnel was refused" in describe(link, "en")


def test_rows_that_are_left_out_of_a_training() -> None:
    shown = Preview((), 1, 1.0, 1, "line 2: the reply is empty")
    assert "第 2 行：回复为空。" in data_view(shown, "zh")


def test_a_refusal_on_the_page(tmp_path: Path) -> None:
    manager = fake_manager(FakeEngine(echo))
    manager.wait()
    english, chinese = (
        "There are no votes yet. Compare adapters, and vote.",
        "还没有投票。请对比适配器并投票。",
    )
    with serving(manager, data=tmp_path) as url:
        with Caller(url) as caller:
            assert said(caller.export("pairs")) == english
        with Caller(url, language="zh") as caller:
            assert said(caller.export("pairs")) == chinese
        with Caller(url, language="fr") as caller:
            assert said(caller.export("pairs")) == english


REFUSED = {
    "/page/actions/send": (404, "这里没有内容", {"path": "/page/actions/send/x"}),
    "method": (405, "此路径不接受 PUT 请求", {"method": "PUT"}),
    "host": (421, "本页不以 'evil.example' 这个名称提供服务。"
                  "请用 --allowed_hosts 加上该名称启动程序。", {"host": "evil.example"}),
    "origin": (403, "该请求来自另一个网页。若经过代理，请让它原样转发 Host 标头。",
               {"origin": "https://evil.example"}),
    "site": (403, "该请求来自另一个网页。请直接打开本页。", {"sec-fetch-site": "cross-site"}),
    "size": (413, "内容超过 1,000,000 字节", {"content": "1000001"}),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_of_the_gate_is_in_the_browser_s_language(name: str, tmp_path: Path) -> None:
    """It comes before the page's own language is known."""
    status, chinese, changed = REFUSED[name]
    method, path = changed.pop("method", "POST"), changed.pop("path", "/page/actions/stop")
    manager = fake_manager(FakeEngine(echo))
    with serving(manager, data=tmp_path) as url:
        headers = {"accept-language": "zh-CN,zh;q=0.9", **changed}
        content = b" " * int(headers.pop("content", 0))
        answer = httpx.request(method, f"{url}{path}", content=content, headers=headers)
    assert answer.status_code == status
    told = answer.json()["error"]["message"] if method == "POST" else answer.text.strip()
    assert told.removesuffix("。") == chinese.removesuffix("。")


@pytest.mark.browser
def test_a_model_that_cannot_be_loaded(visit: Serve) -> None:
    """The notice, and what is kept with a reply, follow the language of whoever looks."""
    failure = folder_error("weights_torn", file="/m/model.safetensors", said="it ends too early")
    page = visit(FakeEngine(echo), fail=failure, locale="zh-CN").page
    told = "无法读取 model.safetensors：文件不完整。请重新下载该文件。"
    expect(page.locator("#notice")).to_contain_text(told)
    page.locator("#message textarea").fill("你好")
    page.get_by_role("button", name=texts("zh")["send"], exact=True).click()
    log = page.get_by_role("log")
    expect(log).to_contain_text(told)
    page.get_by_text("English").click()
    expect(page.locator("#notice")).to_contain_text("Download the file again.")
    expect(log).to_contain_text("model.safetensors cannot be read: it ends too early.")
