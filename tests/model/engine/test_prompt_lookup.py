"""Guesses: where they come from."""

from __future__ import annotations

import pytest

from model.engine.prompt_lookup import NGRAM_TO_DRAFT_LEN, PromptLookup


@pytest.mark.parametrize(
    ("tokens", "guess"),
    [
        ([], ()),
        ([1], ()),
        ([1, 2], ()),
        ([1, 2, 3, 4], ()),
        ([1, 2, 3, 4, 2], (3,)),  # one alike says one token
        ([1, 2, 3, 4, 5, 1, 2], (3, 4)),  # two say two
        ([1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3], (4, 5, 6, 7, 8)),
        ([1, 2, 3, 4, 1, 2, 3, 5, 1, 2, 3], (5, 1, 2, 3)),  # the last time counts
        ([1, 2, 3, 9, 2, 3, 5, 1, 2, 3], (9, 2, 3, 5, 1)),  # three alike before two
        ([7, 7, 7, 7], (7,)),
        ([1, 2, 3, 1, 2, 3], (1, 2, 3)),
    ],
)
def test_what_followed_the_same_tokens_before(tokens: list[int], guess: tuple[int, ...]) -> None:
    assert PromptLookup(tokens).propose(8) == guess


@pytest.mark.parametrize("most", range(4))
def test_no_more_than_wanted(most: int) -> None:
    assert PromptLookup([1, 2, 3, 4, 5, 6, 7, 1, 2, 3]).propose(most) == (4, 5, 6)[:most]


@pytest.mark.parametrize(
    ("tokens", "guesses"),
    [
        ([1, 2, 3, 4, 2], [(3,), (), ()]),
        ([1, 2, 3, 4, 1, 2], [(3, 4), (3, 4), ()]),
        ([1, 2, 3, 4, 1, 2, 3], [(4, 1, 2, 3)] * 3),
    ],
)
def test_nothing_where_too_little_is_alike(
    tokens: list[int], guesses: list[tuple[int, ...]]
) -> None:
    assert [PromptLookup(tokens).propose(8, least) for least in (1, 2, 3)] == guesses


def test_token_by_token_is_the_same_as_at_once() -> None:
    tokens: list[int] = []
    growing = PromptLookup(tokens)
    for token in [1, 2, 3, 4, 1, 2, 3, 5, 1, 2, 3, 4, 4, 4, 4, 2, 3, 4, 1, 2]:
        tokens.append(token)
        assert growing.propose(3) == PromptLookup(list(tokens)).propose(3)


def test_reaches_begin_with_the_longest() -> None:
    assert list(NGRAM_TO_DRAFT_LEN) == sorted(NGRAM_TO_DRAFT_LEN, reverse=True)
