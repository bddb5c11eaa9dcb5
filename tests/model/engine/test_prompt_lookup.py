"""Draft tokens from earlier occurrences of the last tokens."""

from __future__ import annotations

import pytest

from model.engine.prompt_lookup import PromptLookup


@pytest.mark.parametrize(
    ("tokens", "draft"),
    [
        ([], ()),
        ([1], ()),
        ([1, 2], ()),
        ([1, 2, 3, 4], ()),
        ([1, 2, 3, 4, 2], (3,)),  # one matching token proposes one
        ([1, 2, 3, 4, 5, 1, 2], (3, 4)),  # two propose two
        ([1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2, 3], (4, 5, 6, 7, 8)),
        ([1, 2, 3, 4, 1, 2, 3, 5, 1, 2, 3], (5, 1, 2, 3)),  # the last occurrence counts
        ([1, 2, 3, 9, 2, 3, 5, 1, 2, 3], (9, 2, 3, 5, 1)),  # a match of three before one of two
        ([7, 7, 7, 7], (7,)),
        ([1, 2, 3, 1, 2, 3], (1, 2, 3)),
    ],
)
def test_draft_is_what_followed_the_same_tokens_before(
    tokens: list[int], draft: tuple[int, ...]
) -> None:
    assert PromptLookup(tokens).propose(8) == draft


@pytest.mark.parametrize("max_tokens", range(4))
def test_draft_has_at_most_max_tokens(max_tokens: int) -> None:
    lookup = PromptLookup([1, 2, 3, 4, 5, 6, 7, 1, 2, 3])
    assert lookup.propose(max_tokens) == (4, 5, 6)[:max_tokens]


@pytest.mark.parametrize(
    ("tokens", "drafts"),
    [
        ([1, 2, 3, 4, 2], [(3,), (), ()]),
        ([1, 2, 3, 4, 1, 2], [(3, 4), (3, 4), ()]),
        ([1, 2, 3, 4, 1, 2, 3], [(4, 1, 2, 3)] * 3),
    ],
)
def test_no_draft_where_fewer_than_min_match_are_equal(
    tokens: list[int], drafts: list[tuple[int, ...]]
) -> None:
    assert [PromptLookup(tokens).propose(8, min_match) for min_match in (1, 2, 3)] == drafts


def test_indexing_token_by_token_is_the_same_as_at_once() -> None:
    tokens: list[int] = []
    growing = PromptLookup(tokens)
    for token in [1, 2, 3, 4, 1, 2, 3, 5, 1, 2, 3, 4, 4, 4, 4, 2, 3, 4, 1, 2]:
        tokens.append(token)
        assert growing.propose(3) == PromptLookup(list(tokens)).propose(3)
