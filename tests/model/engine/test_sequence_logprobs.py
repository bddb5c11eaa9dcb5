"""Log-probabilities of one reply."""

from __future__ import annotations

import math

import pytest

from tests.model.engine.sequence_reply import EOS, VOCAB, LateDetokenizer, SequenceReply


def test_logprobs_come_with_their_token() -> None:
    reply = SequenceReply(logprobs=2).feed("ab")
    first = reply.deltas[0].logprobs
    assert [entry.token for entry in first] == ["<a>"]
    expected = 5.0 - math.log(math.exp(5.0) + VOCAB - 1)
    assert first[0].logprob == pytest.approx(expected, abs=1e-5)
    assert len(first[0].top) == 2
    assert first[0].top[0].token == "<a>"
    assert first[0].top[0].logprob == pytest.approx(first[0].logprob)


def test_no_logprobs_unless_requested() -> None:
    assert all(delta.logprobs == () for delta in SequenceReply().feed("ab", then_eos=True).deltas)


def test_the_end_token_has_its_logprobs_too() -> None:
    """A reply that ended with its first token had none."""
    for letters in ("", "ab"):
        reply = SequenceReply(logprobs=1).feed(letters, then_eos=True)
        *_, last = [entry for delta in reply.deltas for entry in delta.logprobs]
        assert (last.token, last.offset) == (f"<{chr(EOS)}>", len(letters))
        assert len(last.top) == 1


@pytest.mark.parametrize("stop", [(), ("bc",)])
def test_logprobs_tell_where_their_token_begins(stop: tuple[str, ...]) -> None:
    """Two tokens of one character begin at the same place; held-back text counts."""
    reply = SequenceReply(logprobs=0, stop=stop).feed("a~bc")
    offsets = [entry.offset for delta in reply.deltas for entry in delta.logprobs]
    assert offsets == [0, 1, 1, 3]


@pytest.mark.parametrize(
    ("letters", "stop"), [("a~bc", ()), ("aENx", ("END",)), ("abEND", ("END",))]
)
def test_every_token_has_its_logprobs_though_its_text_is_held_back(
    letters: str, stop: tuple[str, ...]
) -> None:
    reply = SequenceReply(logprobs=0, stop=stop).feed(letters)
    tokens = [entry.token for delta in reply.deltas for entry in delta.logprobs]
    assert tokens == [f"<{letter}>" for letter in letters]


def test_the_end_token_begins_after_text_that_was_held_back() -> None:
    reply = SequenceReply(logprobs=0, detokenizer=LateDetokenizer()).feed("ab", then_eos=True)
    *_, last = [entry for delta in reply.deltas for entry in delta.logprobs]
    assert (reply.text, last.offset) == ("ab", 2)
