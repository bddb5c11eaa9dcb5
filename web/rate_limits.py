"""Rate limits for attempts at passwords and keys, and for requests.

Both use sliding windows, store a limited number of keys (the least recently used are dropped first)
and may be called from any thread. A call takes a few microseconds. (The library `limits` was
measured: its memory storage starts a thread for most calls, iterates over all keys each time, which
took 0.3 ms with 20,000 of them, and limits neither keys nor memory.)
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
    """Slows guesses of passwords and keys, by address and account.

    One address may fail `PAIR_FAILURES` times for one account, and `ADDRESS_FAILURES` times in
    total, in the periods below. A repeated wrong guess does not count.

    After `ACCOUNT_FAILURES` from any addresses, an account accepts one attempt each
    `ACCOUNT_PAUSE_SECONDS` from addresses that have not logged in to it before. So an attack from
    many addresses is slow, and does not lock the account's owner out.

    Call `check` before verifying a password, then `failed` or `succeeded`.

    Args:
        clock: monotonic time in seconds.
        max_keys: the number of addresses, of accounts and of pairs to remember.
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
        self._logged_in: OrderedDict[tuple[str, str], None] = OrderedDict()  # pairs
        self._next_attempts: OrderedDict[str, float] = OrderedDict()  # by account, clock times

    def check(self, address: str, account: str | None) -> None:
        """Raises TooManyAttemptsError if this attempt comes too soon.

        `account` None stands for keys, which have no account: only the address counts.
        """
        pair = _pair(address, account)
        with self._lock:
            now = self._clock()
            wait = max(self._pairs.wait(pair, now), self._addresses.wait(address, now))
            if not wait and account is not None and pair not in self._logged_in:
                wait = self._account_wait(pair[1], now)
        if wait > 0:
            raise TooManyAttemptsError(wait)

    def failed(self, address: str, account: str | None, guess: str = "") -> None:
        """Counts a wrong password or key. A repeated `guess` does not count."""
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
        """Resets the failures after a right password or key, and remembers the address as one that
        has logged in to the account."""
        pair = _pair(address, account)
        with self._lock:
            self._pairs.forget(pair)
            self._guesses.pop(pair, None)
            if account is not None:
                _remember(self._logged_in, pair, None, self._max_keys)

    def _account_wait(self, account: str, now: float) -> float:
        """Returns how many seconds a new address has to wait; 0 allows this attempt and delays the
        next one."""
        if not self._accounts.wait(account, now):
            return 0.0
        wait = self._next_attempts.get(account, now) - now
        if wait <= 0:
            pause = now + self.ACCOUNT_PAUSE_SECONDS
            _remember(self._next_attempts, account, pause, self._max_keys)
        return max(0.0, wait)

    def _is_repeated(self, pair: tuple[str, str], guess: str, now: float) -> bool:
        """Whether the guess is one of the pair's recent failures; remembers it if not."""
        recent = self._pairs.count(pair, now)
        guesses = self._guesses.get(pair, ())[-recent:] if recent else ()
        fingerprint = hash(guess)  # Python uses a new hash secret in each process
        if fingerprint in guesses:
            return True
        _remember(self._guesses, pair, (*guesses, fingerprint), self._max_keys)
        return False


class RequestLimiter:
    """Lets each key make `per_second` requests, and `burst` at once (a token bucket).

    Args:
        per_second: the sustained rate of a key.
        burst: requests that a key may make at once after a pause.
        clock: monotonic time in seconds.
        max_keys: the number of keys to remember; a forgotten key has its full burst again.
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
        """Counts a request of `key`.

        Raises:
            TooManyRequestsError: the request exceeds the limit, and is not counted.
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
        """Counts a failure; returns whether it is the one that reaches the limit."""
        before = self.wait(key, now) > 0
        times = [*self._recent(key, now), now][-self._limit :]
        _remember(self._times, key, times, self._max_keys)
        return not before and len(times) == self._limit

    def wait(self, key: Hashable, now: float) -> float:
        """Returns the seconds until there are fewer failures than `limit`."""
        times = self._recent(key, now)
        return times[0] + self._seconds - now if len(times) == self._limit else 0.0

    def count(self, key: Hashable, now: float) -> int:
        return len(self._recent(key, now))

    def forget(self, key: Hashable) -> None:
        self._times.pop(key, None)

    def _recent(self, key: Hashable, now: float) -> list[float]:
        return [at for at in self._times.get(key, ()) if at + self._seconds > now]


def _pair(address: str, account: str | None) -> tuple[str, str]:
    """Returns a pair's key. "=" precedes an account's name, so that it differs from that of
    keys."""
    return address[:MAX_NAME], "" if account is None else f"={account[:MAX_NAME]}"


def _remember(values: OrderedDict[K, V], key: K, value: V, max_keys: int) -> None:
    values[key] = value
    values.move_to_end(key)
    if len(values) > max_keys:
        values.popitem(last=False)
