"""The Train tab's file."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Locator, expect

from tests.web.ui.static.harness import Harness

pytestmark = pytest.mark.browser

EMPTY = "Drop a file here or click to choose one"
DROP = """(names) => {
  const files = new DataTransfer();
  for (const name of names) files.items.add(new File(['{}'], name));
  const event = new DragEvent('drop',
    { bubbles: true, cancelable: true, dataTransfer: files });
  document.querySelector('.upload').dispatchEvent(event);
  return event.defaultPrevented;
}"""


@pytest.fixture
def box(harness: Harness) -> Locator:
    harness.log()
    return harness.page.locator(".upload")


def file(name: str) -> dict[str, Any]:
    return {"name": name, "mimeType": "application/json", "buffer": '[{"船": 1}]'.encode()}


def choose(harness: Harness, name: str = "ships.json") -> None:
    harness.page.locator(".upload input").set_input_files(file(name))


def previewed_token(harness: Harness) -> str | None:
    """Returns the token of the previewed file."""
    (action,) = [one for one in harness.actions(form=True) if one["kind"] == "train_look"]
    token: str | None = action["form"]["upload"]
    return token


def test_a_chosen_file_is_uploaded(harness: Harness, box: Locator) -> None:
    expect(box).to_contain_text("Dialogues (.json, .jsonl, .csv)")
    harness.answer("upload", upload="token", name="ships.json")
    with harness.page.expect_file_chooser() as chooser:
        box.get_by_role("button", name=EMPTY).click()
    chooser.value.set_files(file("船 1.json"))
    post, look = harness.wait_for_posts(2)
    assert (post["path"], post["query"]) == ("page/upload", "?name=%E8%88%B9+1.json")
    assert post["body"] == '[{"船": 1}]'
    assert post["headers"]["x-linly-tab"] == "t1"
    assert look["path"] == "page/actions/train_look"
    assert '"upload":"token"' in look["body"]
    expect(box.get_by_role("button", name="船 1.json")).to_be_visible()
    harness.control("train_start", train_name="ships", train_epochs=2)
    (start,) = harness.actions(form=True)
    assert (
        start["form"].items()
        >= {"upload": "token", "train_name": "ships", "train_epochs": 2}.items()
    )


def test_a_dropped_file_is_uploaded(harness: Harness, box: Locator) -> None:
    assert harness.page.evaluate(DROP, ["ships.jsonl", "second.jsonl"])
    (post, _) = harness.wait_for_posts(2)
    assert post["query"] == "?name=ships.jsonl"
    assert harness.page.evaluate(DROP, [])  # a text, or a folder
    assert harness.posts() == []


def test_an_unfinished_upload_has_no_token(harness: Harness, box: Locator) -> None:
    harness.answer("upload", upload="token", delayed=True)
    choose(harness)
    expect(box).to_have_attribute("aria-busy", "true")
    expect(box.get_by_role("button", name="ships.json")).to_be_visible()
    harness.wait_for_posts()
    harness.control("train_look")
    assert previewed_token(harness) is None
    harness.release()
    expect(box).to_have_attribute("aria-busy", "false")
    assert previewed_token(harness) == "token"


def test_a_file_is_cleared(harness: Harness, box: Locator) -> None:
    harness.answer("upload", upload="token")
    expect(box.get_by_role("button", name="Clear")).to_be_hidden()
    choose(harness)
    harness.wait_for_posts(2)
    box.get_by_role("button", name="Clear").click()
    assert previewed_token(harness) is None
    expect(box.get_by_role("button", name="Clear")).to_be_hidden()
    expect(box.get_by_role("button", name=EMPTY)).to_be_focused()
    harness.answer("upload", upload="another")
    choose(harness)  # the same one again
    harness.wait_for_posts(2)
    expect(box.get_by_role("button", name="ships.json")).to_be_visible()


def test_a_refused_upload_shows_its_error(harness: Harness, box: Locator) -> None:
    harness.refuse("upload", "Files of this kind cannot be read.", 415)
    choose(harness, "ships.exe")
    expect(harness.page.get_by_text("Files of this kind cannot be read.")).to_be_visible()
    expect(box.get_by_role("button", name=EMPTY)).to_be_visible()
    harness.wait_for_posts(2)
    harness.control("train_look")
    assert previewed_token(harness) is None


def test_the_file_chosen_last_counts(harness: Harness, box: Locator) -> None:
    """A slow upload replaced the file that was chosen after it."""
    harness.answer("upload", upload="slow", delayed=True)
    harness.answer("upload", upload="quick")
    choose(harness, "slow.json")
    choose(harness, "quick.json")
    harness.wait_for_posts(3)
    harness.release()
    expect(box.get_by_role("button", name="quick.json")).to_be_visible()
    harness.control("train_look")
    assert previewed_token(harness) == "quick"


def test_a_cleared_upload_does_not_come_back(harness: Harness, box: Locator) -> None:
    harness.answer("upload", upload="token", delayed=True)
    choose(harness)
    box.get_by_role("button", name="Clear").click()
    harness.wait_for_posts(2)
    harness.release()
    harness.control("train_look")
    assert previewed_token(harness) is None
    expect(box.get_by_role("button", name=EMPTY)).to_be_visible()


def test_upload_texts_follow_the_language(harness: Harness, box: Locator) -> None:
    harness.log(language="zh")
    expect(box).to_contain_text("对话文件")
    expect(box.get_by_role("button", name="将文件拖到这里")).to_be_visible()
