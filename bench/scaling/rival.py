"""llama.cpp on the same weights in Q8_0, asked for one user's tokens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from bench.peers.base import BenchFixtures, PeerError, PeerMissing
from bench.peers.llamacpp import LlamaCpp
from bench.scaling.figures import Loading
from bench.scaling.options import BEHIND
from bench.scaling.room import check_room
from bench.scaling.source import Source

MAX_SECONDS = 600.0
FIRST_ID = 3  # after the control tokens


class LlamaCppBaseline(LlamaCpp):
    """Its server with one slot."""

    def __init__(self, source: Source, scratch: Path, threads: int, steps: int) -> None:
        stage = BenchFixtures(source.folder.path, scratch, (), source.kept, scratch, threads)
        tokens = min(steps, BEHIND) + 1  # few: they lengthen the context
        super().__init__(stage, slots=1, context=BEHIND + 2 * tokens)
        self._request = {
            "prompt": list(range(FIRST_ID, FIRST_ID + BEHIND)),
            "n_predict": tokens,
            "ignore_eos": True,
            "temperature": 0,
            "samplers": ["top_k"],
            "cache_prompt": True,
        }

    def token_seconds(self) -> float:
        """Its own account of a token after the first one, without the prompt and HTTP.

        Raises:
            PeerError: it did not answer, or not with as many tokens as it should.
        """
        self.resume()
        try:
            answer = httpx.post(
                f"{self.address}/completion", json=self._request, timeout=MAX_SECONDS
            )
        except httpx.TransportError as error:
            raise PeerError(f"it does not answer: {error}") from error
        finally:
            self.pause()
        if not answer.is_success:
            raise PeerError(f"it answers {answer.status_code}: {answer.text[:200]}")
        timings = answer.json()["timings"]
        count = timings["predicted_n"]
        if count != self._request["n_predict"]:
            raise PeerError(f"a reply ended after {count} tokens")
        return float(timings["predicted_ms"]) / 1000 / (count - 1)


@contextmanager
def started(
    source: Source, loading: Loading, ours: int, scratch: Path, threads: int, steps: int
) -> Iterator[tuple[LlamaCppBaseline | None, str]]:
    """The rival, warm and waiting, and what it is; or None, and why it cannot be measured here.

    `ours` is the memory that our side will take.

    Raises:
        PeerError: it does not come up, or fails later.
    """
    rival = LlamaCppBaseline(source, scratch, threads, steps)
    try:
        yield _start(rival, source, loading.int8_bytes, ours)
    except PeerError as error:
        raise PeerError(f"llama.cpp: {error}. --no_llama_cpp leaves it out") from error
    finally:
        rival.stop()


def _start(
    rival: LlamaCppBaseline, source: Source, int8_bytes: int, ours: int
) -> tuple[LlamaCppBaseline | None, str]:
    try:
        check_room(source, int8_bytes, ours)
        about = rival.start()
        rival.token_seconds()
    except PeerMissing as missing:
        return None, f"not measured, {missing}"
    return rival, about
