"""One memory budget for keys and values: of running sequences, and of ended ones kept for reuse.

Cached entries are evicted first, least recently used first; the scheduler chooses among running
sequences. While a cache grows, it takes up to twice its memory for a moment: the budget does not
count that.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as Seq

from model.engine.kv_cache import GROWTH, SequenceCache, rounded
from model.engine.prefix_cache import (
    MIN_PREFIX,
    PrefixCache,
    PrefixEntry,
    PrefixMatch,
    common_prefix,
)
from model.engine.sequence import Sequence
from model.layers.kv_layout import CacheFormat
from model.types import FinishReason

MIN_SHARED_TOKENS = 64  # fewer are computed sooner than the next step comes


class KVCacheManager:
    """Gives sequences their caches. Only the engine's thread uses it.

    Args:
        cache_format: of the keys and values.
        budget: bytes, or None: no bound, and nothing is kept or shared.
    """

    def __init__(self, cache_format: CacheFormat, budget: int | None) -> None:
        self._format = cache_format
        self._budget = budget
        self._prefixes = PrefixCache()

    @property
    def max_positions(self) -> int | None:
        """Positions that one sequence alone could have; None: no bound."""
        if self._budget is None:
            return None
        return self._budget // self._format.position_bytes // GROWTH * GROWTH

    @property
    def budget(self) -> int | None:
        """Bytes; None: no bound."""
        return self._budget

    def nbytes(self, running: Iterable[Sequence]) -> int:
        """Memory of the running sequences and of the entries kept for reuse."""
        return self._prefixes.nbytes + sum(sequence.cache.nbytes for sequence in running)

    def new_cache(self) -> SequenceCache:
        """An empty cache, which takes no memory."""
        return SequenceCache(self._format)

    def allocate(self, sequence: Sequence, running: Seq[Sequence]) -> bool:
        """Give a sequence room for its tokens and a step more, with the longest cached prefix.

        False: it does not fit beside the `running` ones, even with all entries evicted.
        """
        positions = self._needed_positions(sequence)
        nbytes = positions * self._format.position_bytes
        if not self._fits(nbytes, running):
            return False
        match = self._prefixes.find(sequence.prefix_key, sequence.token_array())
        cache = self._cache_for(match)
        self._make_room(max(nbytes, cache.nbytes), running)
        cache.reserve(positions)
        if match and match.entry.cache is not cache:
            cache.copy_from(match.entry.cache, match.length)
        sequence.start(cache)
        return True

    def extend(self, sequence: Sequence, running: Seq[Sequence]) -> bool:
        """Make room for one position more; False if there is none while the `running` ones stay."""
        cache = sequence.cache
        if cache.length < cache.capacity:
            return True
        positions = rounded(cache.length + 1) - cache.capacity
        if not self._make_room(positions * self._format.position_bytes, running):
            return False
        cache.reserve(cache.length + 1)
        return True

    def will_share(self, sequence: Sequence, others: Iterable[Sequence]) -> bool:
        """Whether one of `others`, which compute now, will have tokens that `sequence` needs."""
        if self._budget is None:
            return False
        tokens, enough = sequence.token_array(), sequence.cache.length + MIN_SHARED_TOKENS
        same_key = (other for other in others if other.prefix_key == sequence.prefix_key)
        return any(common_prefix(tokens, other.token_array()) >= enough for other in same_key)

    def share(self, sequence: Sequence, running: Seq[Sequence]) -> None:
        """Copy the longest prefix of a sequence that others, `running` or ended, have computed
        since it began."""
        if self._budget is None:
            return
        candidates = [(_shared_length(sequence, other), other.cache) for other in running]
        match = self._prefixes.find(sequence.prefix_key, sequence.token_array())
        if match:
            candidates.append((match.length, match.entry.cache))
        length, cache = max(candidates, key=lambda candidate: candidate[0])
        if length >= sequence.cache.length + MIN_PREFIX:
            sequence.copy_prefix(cache, length)

    def contains(self, sequence: Sequence) -> bool:
        """Whether all tokens of a sequence are cached already."""
        return self._prefixes.contains(sequence.prefix_key, sequence.token_array())

    def retain(self, sequence: Sequence) -> None:
        """Keep the cache of a sequence that ended or gave way; nothing after an error."""
        cache, failed = sequence.cache, sequence.finish_reason is FinishReason.ERROR
        if self._budget is None or failed or not cache.length:
            return
        try:
            cache.shrink()
        except (MemoryError, RuntimeError):
            return  # memory is too short to keep anything
        tokens = sequence.token_array()[: cache.length]
        self._prefixes.put(PrefixEntry(sequence.prefix_key, tokens, cache))

    def clear(self) -> bool:
        """Drop all entries kept for reuse; returns whether there was any."""
        had_entries = len(self._prefixes) > 0
        self._prefixes.clear()
        return had_entries

    def _needed_positions(self, sequence: Sequence) -> int:
        """Positions for the tokens, and for a step more where the whole budget has that much."""
        tokens = len(sequence.tokens)
        minimum = rounded(tokens)
        with_step = rounded(tokens + min(GROWTH, sequence.remaining_tokens))
        limit = self.max_positions
        return with_step if limit is None else max(minimum, min(with_step, limit))

    def _cache_for(self, match: PrefixMatch | None) -> SequenceCache:
        """The entry's own cache where the prompt continues it; else an empty one, to be filled."""
        if match is None:
            return self.new_cache()
        if match.is_complete:
            return self._prefixes.take(match.entry)
        # Another request may continue the entry's tokens: it stays, and is evicted last.
        self._prefixes.touch(match.entry)
        return self.new_cache()

    def _fits(self, nbytes: int, running: Seq[Sequence]) -> bool:
        """Whether `nbytes` fit beside the running sequences alone."""
        used = sum(other.cache.nbytes for other in running)
        return self._budget is None or used + nbytes <= self._budget

    def _make_room(self, nbytes: int, running: Seq[Sequence]) -> bool:
        """Evict entries until `nbytes` fit; False if evicting all would not be enough."""
        if not self._fits(nbytes, running):
            return False
        while not self._fits(nbytes + self._prefixes.nbytes, running):
            self._prefixes.evict()
        return True


def _shared_length(sequence: Sequence, other: Sequence) -> int:
    """Tokens with which both begin, as far as `other` has computed them; never the last one."""
    if other is sequence or other.prefix_key != sequence.prefix_key:
        return 0
    # Most have nothing in common: comparing a few tokens shows it.
    if sequence.tokens[:MIN_PREFIX] != other.tokens[:MIN_PREFIX]:
        return 0
    return common_prefix(sequence.token_array()[:-1], other.token_array()[: other.cache.length])
