"""One budget for keys and values: those of running sequences, and those kept for later ones.

What is kept goes first, least recently used first; the running sequences are the scheduler's to
choose from. Growing takes up to twice a sequence's memory for a moment: the budget is for what
stays.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence as Seq

from model.engine.kv_cache import GROWTH, SequenceCache, rounded
from model.engine.prefix_cache import LEAST, PrefixCache, PrefixEntry, PrefixMatch, common_prefix
from model.engine.sequence import Sequence
from model.layers.kv_layout import CacheFormat
from model.types import FinishReason

WORTH_WAITING = 64  # tokens: less is computed sooner than another step has come


class KVCacheManager:
    """Gives sequences their keys and values. Only the engine's thread touches it.

    Args:
        form: of the keys and values.
        budget: bytes, or None: no bound, and nothing is kept or shared.
    """

    def __init__(self, form: CacheFormat, budget: int | None) -> None:
        self._form = form
        self._budget = budget
        self._position = form.position_bytes
        self._idle = PrefixCache()

    @property
    def most_positions(self) -> int | None:
        """What one sequence alone could have; None: no bound."""
        if self._budget is None:
            return None
        return self._budget // self._position // GROWTH * GROWTH

    @property
    def budget(self) -> int | None:
        """Bytes; None: no bound."""
        return self._budget

    def nbytes(self, running: Iterable[Sequence]) -> int:
        """What the running sequences and the kept ones take."""
        return self._idle.nbytes + sum(sequence.cache.nbytes for sequence in running)

    def new_cache(self) -> SequenceCache:
        """Keys and values of nothing, which take no memory."""
        return SequenceCache(self._form)

    def allocate(self, sequence: Sequence, running: Seq[Sequence]) -> bool:
        """Give a sequence room for its tokens and a step more, with what is known of them.

        False: it does not fit beside the `running` ones, whatever else goes.
        """
        wanted = self._wanted(sequence)
        if not self._fits(wanted * self._position, running):
            return False
        match = self._idle.find(sequence.key, sequence.token_array())
        cache = self._claimed(match)
        self._make_room(max(wanted * self._position, cache.nbytes), running)
        cache.reserve(wanted)
        if match and match.entry.cache is not cache:
            cache.copy_from(match.entry.cache, match.length)
        sequence.begin(cache)
        return True

    def extend(self, sequence: Sequence, running: Seq[Sequence]) -> bool:
        """Room for one position more; False if there is none while the `running` ones stay."""
        cache = sequence.cache
        if cache.length < cache.capacity:
            return True
        more = (rounded(cache.length + 1) - cache.capacity) * self._position
        if not self._make_room(more, running):
            return False
        cache.reserve(cache.length + 1)
        return True

    def will_share(self, sequence: Sequence, others: Iterable[Sequence]) -> bool:
        """Whether one of `others`, which compute now, is on its way to what `sequence` needs."""
        if self._budget is None:
            return False
        tokens, worth = sequence.token_array(), sequence.cache.length + WORTH_WAITING
        alike = (other for other in others if other.key == sequence.key)
        return any(common_prefix(tokens, other.token_array()) >= worth for other in alike)

    def share(self, sequence: Sequence, running: Seq[Sequence]) -> None:
        """Copy what others, `running` or ended since it began, have computed of its beginning."""
        if self._budget is None:
            return
        known = [(_in_common(sequence, other), other.cache) for other in running]
        match = self._idle.find(sequence.key, sequence.token_array())
        if match:
            known.append((match.length, match.entry.cache))
        length, cache = max(known, key=lambda pair: pair[0])
        if length >= sequence.cache.length + LEAST:
            sequence.copy_beginning(cache, length)

    def contains(self, sequence: Sequence) -> bool:
        """Whether all of its tokens are kept already."""
        return self._idle.holds(sequence.key, sequence.token_array())

    def retain(self, sequence: Sequence) -> None:
        """Keep what a sequence has computed that ended or gave way; nothing after an error."""
        cache, failed = sequence.cache, sequence.reason is FinishReason.ERROR
        if self._budget is None or failed or not cache.length:
            return
        try:
            cache.shrink()
        except (MemoryError, RuntimeError):
            return  # memory is too short to keep anything
        self._idle.put(PrefixEntry(sequence.key, sequence.token_array()[: cache.length], cache))

    def clear(self) -> bool:
        """Drop all that is kept; whether there was anything."""
        had = len(self._idle) > 0
        self._idle.clear()
        return had

    def _wanted(self, sequence: Sequence) -> int:
        """Positions for the tokens, and for a step more where the whole budget has that much."""
        tokens = len(sequence.tokens)
        least, wanted = rounded(tokens), rounded(tokens + min(GROWTH, sequence.remaining_tokens))
        most = self.most_positions
        return wanted if most is None else max(least, min(wanted, most))

    def _claimed(self, match: PrefixMatch | None) -> SequenceCache:
        """The entry's own memory where the prompt continues it; else empty, to be filled."""
        if match is None:
            return self.new_cache()
        if match.is_complete:
            return self._idle.take(match.entry)
        # Somebody may come back to what follows; if there is no room, it goes, but as the last.
        self._idle.touch(match.entry)
        return self.new_cache()

    def _fits(self, nbytes: int, running: Seq[Sequence]) -> bool:
        """Whether they fit beside the running ones alone."""
        used = sum(other.cache.nbytes for other in running)
        return self._budget is None or used + nbytes <= self._budget

    def _make_room(self, nbytes: int, running: Seq[Sequence]) -> bool:
        """Evict until `nbytes` fit; False if all of it would not do."""
        if not self._fits(nbytes, running):
            return False
        while not self._fits(nbytes + self._idle.nbytes, running):
            self._idle.evict()
        return True


def _in_common(sequence: Sequence, other: Sequence) -> int:
    """Tokens with which both begin, as far as `other` has computed them; never the last one."""
    if other is sequence or other.key != sequence.key:
        return 0
    # Most have nothing in common: a look at a few tokens tells.
    if sequence.tokens[:LEAST] != other.tokens[:LEAST]:
        return 0
    return common_prefix(sequence.token_array()[:-1], other.token_array()[: other.cache.length])
