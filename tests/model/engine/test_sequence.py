"""One reply from its first logits to its last delta."""

from __future__ import annotations

import pytest

from model.types import FinishReason
from tests.model.engine.sequence_reply import (
    EOS,
    AsciiDetokenizer,
    LateDetokenizer,
    SequenceReply,
    likeliest,
)

# Prefill


def test_prompt_is_computed_in_chunks_without_text_before_its_end() -> None:
    reply = SequenceReply(prompt="abcdefgh")
    sequence = reply.sequence
    chunks = []
    for _ in range(2):
        chunks.append(list(sequence.next_slice(3).tokens))
        sequence.accept_logits(likeliest("x"))
        assert sequence.prefilling
    chunks.append(list(sequence.next_slice(3).tokens))
    assert reply.deltas == []
    sequence.accept_logits(likeliest("x"))
    assert not sequence.prefilling
    assert "".join(chr(i) for chunk in chunks for i in chunk) == "abcdefgh"
    assert [len(chunk) for chunk in chunks] == [3, 3, 2]
    assert reply.text == "x"


def test_prefill_only_ends_after_its_prompt_without_text() -> None:
    reply = SequenceReply(prompt="abcdefgh", prefill_only=True)
    for _ in range(2):
        reply.sequence.next_slice(4)
        assert reply.deltas == []
        reply.sequence.accept_logits(likeliest("x"))
    (last,) = reply.deltas
    assert (last.text, last.finish_reason) == ("", FinishReason.STOP)
    assert last.stats
    assert (last.stats.prompt_tokens, last.stats.completion_tokens) == (8, 0)
    assert len(reply.sequence.tokens) == 8


def test_chosen_token_is_computed_next() -> None:
    reply = SequenceReply()
    reply.sequence.next_slice(10)
    reply.sequence.accept_logits(likeliest("x"))
    part = reply.sequence.next_slice(10)
    assert list(part.tokens) == [ord("x")]
    assert part.adapter_scale == 0.5


def test_every_slice_has_the_same_cache() -> None:
    sequence = SequenceReply(prompt="abcd").sequence
    assert sequence.next_slice(2).cache is sequence.next_slice(2).cache


# Finish reasons


def test_end_token_stops_and_is_no_text() -> None:
    reply = SequenceReply().feed("abc", then_eos=True)
    assert (reply.text, reply.finish_reason) == ("abc", FinishReason.STOP)
    assert reply.sequence.finished


def test_reply_of_nothing_but_the_end_token() -> None:
    reply = SequenceReply().feed("", then_eos=True)
    assert (reply.text, reply.finish_reason) == ("", FinishReason.STOP)
    assert len(reply.deltas) == 1


@pytest.mark.parametrize("max_tokens", [1, 2, 5])
def test_max_tokens_ends_the_reply(max_tokens: int) -> None:
    reply = SequenceReply(max_tokens=max_tokens).feed("abcdefgh")
    assert (reply.text, reply.finish_reason) == ("abcdefgh"[:max_tokens], FinishReason.LENGTH)
    assert reply.deltas[-1].stats
    assert reply.deltas[-1].stats.completion_tokens == max_tokens


def test_end_token_as_the_last_allowed_one_is_a_stop() -> None:
    assert SequenceReply(max_tokens=3).feed("ab", then_eos=True).finish_reason is FinishReason.STOP


def test_stop_string_as_the_last_allowed_token_is_a_stop() -> None:
    reply = SequenceReply(max_tokens=3, stop=("c",)).feed("abc")
    assert (reply.text, reply.finish_reason) == ("ab", FinishReason.STOP)


def test_without_max_tokens_the_reply_goes_on() -> None:
    reply = SequenceReply().feed("a" * 100)
    assert reply.finish_reason is None
    assert reply.text == "a" * 100


@pytest.mark.parametrize("min_tokens", [1, 3])
def test_end_token_waits_for_min_tokens(min_tokens: int) -> None:
    reply = SequenceReply(min_tokens=min_tokens)
    reply.sequence.next_slice(10)
    for count in range(1, min_tokens + 1):
        reply.sequence.accept_logits(likeliest(EOS))
        reply.sequence.next_slice(1)
        assert reply.finish_reason is None
        assert len(reply.text) == count
    reply.sequence.accept_logits(likeliest(EOS))
    assert reply.finish_reason is FinishReason.STOP


def test_ignored_end_token_does_not_end_the_reply() -> None:
    reply = SequenceReply(ignore_eos=True, max_tokens=4)
    reply.sequence.next_slice(10)
    for _ in range(4):
        reply.sequence.accept_logits(likeliest(EOS))
        reply.sequence.next_slice(1)
    assert reply.finish_reason is FinishReason.LENGTH
    assert chr(EOS) not in reply.text


@pytest.mark.parametrize("ignore_eos", [False, True])
def test_stop_token_ends_the_reply_and_is_no_text(ignore_eos: bool) -> None:
    """Also with `ignore_eos`, and also if it is the end token itself."""
    reply = SequenceReply(stop_token_ids=(ord("x"),), ignore_eos=ignore_eos).feed("abxc")
    assert (reply.text, reply.finish_reason) == ("ab", FinishReason.STOP)
    reply = SequenceReply(stop_token_ids=(EOS,), ignore_eos=ignore_eos).feed("ab", then_eos=True)
    assert (reply.text, reply.finish_reason) == ("ab", FinishReason.STOP)


def test_stop_token_waits_for_min_tokens() -> None:
    reply = SequenceReply(stop_token_ids=(ord("x"),), min_tokens=2)
    reply.sequence.next_slice(10)
    for _ in range(2):
        reply.sequence.accept_logits(likeliest("x"))
        reply.sequence.next_slice(1)
    assert "x" not in reply.text
    assert reply.finish_reason is None
    assert reply.feed("x").finish_reason is FinishReason.STOP


def test_abort_ends_the_reply_with_its_text_so_far() -> None:
    reply = SequenceReply().feed("ab")
    reply.sequence.finish(FinishReason.ABORT)
    assert (reply.text, reply.finish_reason) == ("ab", FinishReason.ABORT)
    assert reply.deltas[-1].error is None


def test_abort_before_the_first_token() -> None:
    reply = SequenceReply()
    reply.sequence.finish(FinishReason.ABORT)
    assert (reply.text, reply.finish_reason) == ("", FinishReason.ABORT)
    assert reply.deltas[-1].stats
    assert reply.deltas[-1].stats.completion_tokens == 0


def test_error_is_in_the_last_delta() -> None:
    reply = SequenceReply().feed("ab")
    reply.sequence.finish(FinishReason.ERROR, "no memory")
    assert (reply.finish_reason, reply.deltas[-1].error) == (FinishReason.ERROR, "no memory")
    assert reply.text == "ab"


def test_reply_ends_only_once() -> None:
    reply = SequenceReply(max_tokens=1).feed("a")
    reply.sequence.finish(FinishReason.ABORT)
    reply.sequence.finish(FinishReason.ERROR, "late")
    assert [delta.finish_reason for delta in reply.deltas if delta.finish_reason] == [
        FinishReason.LENGTH
    ]


def test_only_the_last_delta_has_a_reason_and_stats() -> None:
    reply = SequenceReply().feed("abc", then_eos=True)
    assert all(d.finish_reason is None and d.stats is None for d in reply.deltas[:-1])


def test_stats_count_prompt_and_reply() -> None:
    reply = SequenceReply(prompt="Hello", seed=77).feed("abc", then_eos=True)
    stats = reply.deltas[-1].stats
    assert stats
    assert (stats.prompt_tokens, stats.completion_tokens, stats.seed) == (5, 4, 77)
    assert stats.first_token_seconds >= 0
    assert stats.decode_seconds >= 0


def test_drawn_seed_is_in_the_stats() -> None:
    stats = SequenceReply(seed=None).feed("", then_eos=True).deltas[-1].stats
    assert stats
    assert 0 <= stats.seed < 2**63


# Text


def test_each_token_is_emitted_at_once() -> None:
    reply = SequenceReply().feed("abc")
    assert [delta.text for delta in reply.deltas] == ["a", "b", "c"]


def test_halves_of_characters_give_no_delta() -> None:
    reply = SequenceReply().feed("a~b")
    assert [delta.text for delta in reply.deltas] == ["a", "~b"]


def test_stop_string_ends_the_reply_before_it() -> None:
    reply = SequenceReply(stop=("END",)).feed("abENDcd")
    assert (reply.text, reply.finish_reason) == ("ab", FinishReason.STOP)
    assert reply.sequence.finished


def test_beginning_of_a_stop_string_is_held_back_and_then_shown() -> None:
    reply = SequenceReply(stop=("END",)).feed("aEN")
    assert reply.text == "a"
    reply.feed("x")
    assert reply.text == "aENx"


@pytest.mark.parametrize("reason", [FinishReason.ABORT, FinishReason.ERROR, FinishReason.LENGTH])
def test_held_back_text_comes_out_at_the_end(reason: FinishReason) -> None:
    reply = SequenceReply(stop=("END",)).feed("aEN")
    reply.sequence.finish(reason)
    assert reply.text == "aEN"


def test_held_back_text_comes_out_before_the_end_token() -> None:
    assert SequenceReply(stop=("END",)).feed("aEN", then_eos=True).text == "aEN"


def test_detokenizer_is_flushed_at_the_end() -> None:
    assert SequenceReply(detokenizer=LateDetokenizer()).feed("abc", then_eos=True).text == "abc"


class FailingDetokenizer(AsciiDetokenizer):
    def push(self, token_id: int) -> str:
        if token_id == ord("x"):
            raise ValueError("no text")
        return super().push(token_id)

    def flush(self) -> str:
        raise ValueError("no text")


@pytest.mark.parametrize("reason", [FinishReason.ABORT, FinishReason.ERROR])
def test_reply_whose_detokenizer_fails_can_be_ended(reason: FinishReason) -> None:
    """The engine ends it, and must not fail for the others."""
    reply = SequenceReply(detokenizer=FailingDetokenizer(), stop=("bcd",)).feed("abc")
    with pytest.raises(ValueError, match="no text"):
        reply.feed("x")
    reply.sequence.finish(reason)
    assert (reply.finish_reason, reply.text) == (reason, "abc")


def test_failing_flush_is_raised_where_a_reply_would_end_well() -> None:
    reply = SequenceReply(detokenizer=FailingDetokenizer(), max_tokens=3)
    with pytest.raises(ValueError, match="no text"):
        reply.feed("abc")
    assert not reply.sequence.finished


def test_stop_string_is_found_in_the_flushed_text() -> None:
    reply = SequenceReply(detokenizer=LateDetokenizer(), stop=("END",), max_tokens=7).feed(
        "abENDcd"
    )
    assert reply.text == "ab"


def test_stop_string_that_began_in_the_previous_text_ends_the_reply() -> None:
    reply = SequenceReply(so_far="Hi.\nUser", stop=("\nUser:",)).feed(": me")
    assert (reply.text, reply.finish_reason) == ("", FinishReason.STOP)
    reply = (
        SequenceReply(so_far="Hi.\nUser", stop=("\nUser:",)).feed("s are").feed("x", then_eos=True)
    )
    assert reply.text == "s arex"
