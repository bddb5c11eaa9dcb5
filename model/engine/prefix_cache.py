"""Keys and values of ended sequences, kept for prompts that begin with the same tokens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from model.engine.kv_cache import SequenceCache

MIN_PREFIX = 16  # tokens; computing a shorter prefix is as fast as copying it
MAX_ENTRIES = 256  # each is compared with every new prompt

Tokens = npt.NDArray[np.int32]
PrefixKey = tuple[str, float]  # the adapter's digest and adapter_scale; ("", 0.0) for the base


@dataclass(frozen=True, eq=False)
class PrefixEntry:
    """`tokens` [cache.length] and their keys and values, computed under `key`."""

    key: PrefixKey
    tokens: Tokens
    cache: SequenceCache


@dataclass(frozen=True)
class PrefixMatch:
    """The first `length` tokens of `entry` begin a prompt."""

    entry: PrefixEntry
    length: int

    @property
    def is_complete(self) -> bool:
        """Whether the prompt continues the entry just where it ends."""
        return self.length == len(self.entry.tokens)


class PrefixCache:
    """Idle entries, in the order of their last use. It has no budget: see `KVCacheManager`."""

    def __init__(self) -> None:
        self._entries: list[PrefixEntry] = []
        self.nbytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, key: PrefixKey, tokens: Tokens) -> PrefixMatch | None:
        """The entry with the longest common prefix, the most recently used of several.

        The last of `tokens` never counts: its logits have to be computed.
        """
        best: PrefixMatch | None = None
        for entry in reversed(self._entries):
            if entry.key != key:
                continue
            match = PrefixMatch(entry, common_prefix(entry.tokens, tokens[:-1]))
            if match.length >= MIN_PREFIX or (match.is_complete and match.length):
                best = _better(best, match)
        return best

    def contains(self, key: PrefixKey, tokens: Tokens) -> bool:
        """Whether an entry begins with all of `tokens`; it then counts as used just now."""
        for entry in reversed(self._entries):
            if entry.key == key and common_prefix(entry.tokens, tokens) == len(tokens):
                self.touch(entry)
                return True
        return False

    def put(self, entry: PrefixEntry) -> None:
        """Add an entry, unless another one contains all of it; it replaces those it contains."""
        for other in [o for o in self._entries if o.key == entry.key]:
            common = common_prefix(other.tokens, entry.tokens)
            if common == len(entry.tokens):
                self.touch(other)
                return
            if common == len(other.tokens):
                self.take(other)
        if len(self._entries) == MAX_ENTRIES:
            self.evict()
        self._entries.append(entry)
        self.nbytes += entry.cache.nbytes

    def take(self, entry: PrefixEntry) -> SequenceCache:
        """Remove an entry; returns its keys and values."""
        self._entries.remove(entry)
        self.nbytes -= entry.cache.nbytes
        return entry.cache

    def touch(self, entry: PrefixEntry) -> None:
        """Count an entry as used just now."""
        self._entries.remove(entry)
        self._entries.append(entry)

    def evict(self) -> None:
        """Drop the least recently used entry."""
        self.take(self._entries[0])

    def clear(self) -> None:
        self._entries.clear()
        self.nbytes = 0


def common_prefix(a: Tokens, b: Tokens) -> int:
    """Number of tokens with which both begin."""
    length = min(len(a), len(b))
    differs = a[:length] != b[:length]
    return int(differs.argmax()) if differs.any() else length


def _better(best: PrefixMatch | None, match: PrefixMatch) -> PrefixMatch:
    """The longer match; of two as long the one that need not be copied, then the first."""
    if best is None or (match.length, match.is_complete) > (best.length, best.is_complete):
        return match
    return best
