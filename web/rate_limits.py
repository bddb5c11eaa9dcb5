"""Limits on how often a client may try a password or key, and how often it may ask.

Both count by moving time, hold a bounded number of keys (the least recently used go first) and may
be called from any thread. A call takes a few microseconds. (The library `limits` was measured
for this: its memory storage starts a thread for most calls, goes through all keys each time, which
took 0.3 ms with 20,000 of them, and bounds neither keys nor memory.)
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import TypeVar

from model.errors import LinlyError
from web.log_escaping import one_line

MAX_KEYS = 10_000  # of each kind
MAX_NAME = 64  # characters of an account's name that count, and that are logged

log = logging.getLogger("linly.access")

Clock = Callable[[], float]
K = TypeVar("K")
V = TypeVar("V")


class TooManyAttemptsError(LinlyError):
    """Too many wrong passwords or keys; `retry_after` is in seconds."""

    http_status = 429
    code = "too_many_attempts"

    def __init__(self, retry_after: float) -> None:
        super().__init__("too_many_attempts", seconds=max(1, round(retry_after)))
        self.retry_after = retry_after


class TooManyRequestsError(LinlyError):
    """More requests than one client may make; `retry_after` is in seconds."""

    http_status = 429
    code = "too_many_requests"

    def __init__(self, retry_after: float) -> None:
        super().__init__("too_many_requests")
        self.retry_after = retry_after


class AttemptLimiter:
    """Slows the guessing of passwords and keys, by address and account.

    One address may fail `PAIR_FAILURES` times for one account, and `ADDRESS_FAILURES` times in
    all, in the periods below. The same wrong guess again is no guessing and does not count.

    An account for which `ACCOUNT_FAILURES` came from any addresses takes one attempt each
    `ACCOUNT_PAUSE_SECONDS` from addresses that have not logged in to it before. So an attack from
    many addresses is slow, and does not lock the account's owner out.

    Call `check` before a password is looked at, then `failed` or `succeeded`.

    Args:
        clock: seconds that never go back.
        max_keys: addresses, accounts and pairs of them that are remembered.
    """

    PAIR_FAILURES, PAIR_SECONDS = 5, 60.0
    ADDRESS_FAILURES, ADDRESS_SECONDS = 30, 600.0
    ACCOUNT_FAILURES, ACCOUNT_SECONDS = 20, 600.0
    ACCOUNT_PAUSE_SECONDS = 10.0

    def __init__(self, clock: Clock = time.monotonic, max_keys: int = MAX_KEYS) -> None:
        self._clock = clock
        self._max_keys = max_keys
        self._lock = threading.Lock()
        self._pairs = _Failures(self.PAIR_FAILURES, self.PAIR_SECONDS, max_keys)
        self._addresses = _Failures(self.ADDRESS_FAILURES, self.ADDRESS_SECONDS, max_keys)
        self._accounts = _Failures(self.ACCOUNT_FAILURES, self.ACCOUNT_SECONDS, max_keys)
        self._guesses: OrderedDict[tuple[str, str], tuple[int, ...]] = OrderedDict()
        self._known: OrderedDict[tuple[str, str], None] = OrderedDict()  # pairs that logged in
        self._next_attempts: OrderedDict[str, float] = OrderedDict()  # by account, in the clock

    def check(self, address: str, account: str | None) -> None:
        """Raise TooManyAttemptsError if this attempt comes too soon.

        `account` None stands for keys, which belong to nobody: only the address counts.
        """
        pair = _pair(address, account)
        with self._lock:
            now = self._clock()
            wait = max(self._pairs.wait(pair, now), self._addresses.wait(address, now))
            if not wait and account is not None and pair not in self._known:
                wait = self._account_wait(pair[1], now)
        if wait > 0:
            raise TooManyAttemptsError(wait)

    def failed(self, address: str, account: str | None, guess: str = "") -> None:
        """A password or key was wrong. With `guess`, the same one again does not count."""
        pair = _pair(address, account)
        with self._lock:
            now = self._clock()
            if guess and self._is_repeated(pair, guess, now):
                return
            locked = self._pairs.add(pair, now)
            locked = self._addresses.add(address, now) or locked
            slowed = account is not None and self._accounts.add(pair[1], now)
        name = "keys" if account is None else f"the account {one_line(account[:MAX_NAME])}"
        if locked:
            log.warning("Too many wrong attempts from %s, last for %s", one_line(address), name)
        if slowed:
            log.warning("Many wrong attempts for %s: new addresses must wait", name)

    def succeeded(self, address: str, account: str | None) -> None:
        """A password or key was right: the address is known to the account from now on."""
        pair = _pair(address, account)
        with self._lock:
            self._pairs.forget(pair)
            self._guesses.pop(pair, None)
            if account is not None:
                _remember(self._known, pair, None, self._max_keys)

    def _account_wait(self, account: str, now: float) -> float:
        """For a new address, in seconds; 0 lets this attempt through, and the next one wait."""
        if not self._accounts.wait(account, now):
            return 0.0
        wait = self._next_attempts.get(account, now) - now
        if wait <= 0:
            pause = now + self.ACCOUNT_PAUSE_SECONDS
            _remember(self._next_attempts, account, pause, self._max_keys)
        return max(0.0, wait)

    def _is_repeated(self, pair: tuple[str, str], guess: str, now: float) -> bool:
        """Whether it is one of those that the pair's recent failures were."""
        recent = self._pairs.count(pair, now)
        guesses = self._guesses.get(pair, ())[-recent:] if recent else ()
        fingerprint = hash(guess)  # keyed anew by Python in each process
        if fingerprint in guesses:
            return True
        _remember(self._guesses, pair, (*guesses, fingerprint), self._max_keys)
        return False


class RequestLimiter:
    """Lets each key make `per_second` requests, and `burst` at once (a token bucket).

    Args:
        per_second: requests that a key may make for as long as it likes.
        burst: requests that it may make at once after a pause.
        clock: seconds that never go back.
        max_keys: that are remembered; a forgotten key has its whole burst again.
    """

    def __init__(
        self,
        per_second: float,
        burst: int,
        clock: Clock = time.monotonic,
        max_keys: int = MAX_KEYS,
    ) -> None:
        self._interval = 1 / per_second
        self._tolerance = (burst - 1) / per_second
        self._clock = clock
        self._max_keys = max_keys
        self._lock = threading.Lock()
        # When the bucket of a key would be full again (GCRA: the theoretical arrival time).
        self._full_at: OrderedDict[Hashable, float] = OrderedDict()

    def check(self, key: Hashable) -> None:
        """Count a request of `key`.

        Raises:
            TooManyRequestsError: it is one too many, and was not counted.
        """
        with self._lock:
            now = self._clock()
            full_at = max(self._full_at.get(key, now), now)
            wait = full_at - now - self._tolerance
            if wait <= 0:
                _remember(self._full_at, key, full_at + self._interval, self._max_keys)
        if wait > 0:
            raise TooManyRequestsError(wait)


class _Failures:
    """Times of the last `limit` failures by key, within `seconds`."""

    def __init__(self, limit: int, seconds: float, max_keys: int) -> None:
        self._limit = limit
        self._seconds = seconds
        self._max_keys = max_keys
        self._times: OrderedDict[Hashable, list[float]] = OrderedDict()

    def add(self, key: Hashable, now: float) -> bool:
        """Count a failure; whether it is the one that reaches the limit."""
        before = self.wait(key, now) > 0
        times = [*self._recent(key, now), now][-self._limit :]
        _remember(self._times, key, times, self._max_keys)
        return not before and len(times) == self._limit

    def wait(self, key: Hashable, now: float) -> float:
        """Seconds until there are fewer failures than `limit`."""
        times = self._recent(key, now)
        return times[0] + self._seconds - now if len(times) == self._limit else 0.0

    def count(self, key: Hashable, now: float) -> int:
        return len(self._recent(key, now))

    def forget(self, key: Hashable) -> None:
        self._times.pop(key, None)

    def _recent(self, key: Hashable, now: float) -> list[float]:
        return [at for at in self._times.get(key, ()) if at + self._seconds > now]


def _pair(address: str, account: str | None) -> tuple[str, str]:
    """With "=" before an account's name, so that no name is that of the keys."""
    return address[:MAX_NAME], "" if account is None else f"={account[:MAX_NAME]}"


def _remember(values: OrderedDict[K, V], key: K, value: V, max_keys: int) -> None:
    values[key] = value
    values.move_to_end(key)
    if len(values) > max_keys:
        values.popitem(last=False)
