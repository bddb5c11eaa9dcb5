"""How the next token is chosen: the parameters of sampling, with their bounds."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from model.errors import RequestError

MAX_STOPS = 20  # each token is searched for all of them, on the thread that all replies share
MAX_STOP = 200
MAX_BIASES = 1000
MAX_STOP_TOKENS = 1000
SAMPLING_BOUNDS: Mapping[str, object] = {
    "max_biases": MAX_BIASES,
    "max_stops": MAX_STOPS,
    "max_stop_tokens": MAX_STOP_TOKENS,
    "max_chars": MAX_STOP,
}


@dataclass(frozen=True)
class SamplingParameter:
    """A number of `Sampling`: its bounds, the value that switches it off, and its slider.

    Args:
        minimum, maximum: the bounds; an infinite maximum is excluded.
        above_minimum: whether the minimum is excluded, too.
        off: the value without any effect; None where there is none.
        slider: lowest value, highest value and step in the page; None where it has no slider.
        help: what it does, for `--help`.
    """

    minimum: float
    maximum: float = math.inf
    above_minimum: bool = False
    off: float | None = None
    slider: tuple[float, float, float] | None = None
    help: str = ""

    def check(self, name: str, value: float | None) -> None:
        """Checks `value`, which the parameter `name` is to have.

        Raises:
            RequestError: it is out of bounds, or not a number.
        """
        if value is None:
            return
        low_enough = value <= self.maximum and value < math.inf
        if low_enough and (value > self.minimum if self.above_minimum else value >= self.minimum):
            return
        if self.maximum == math.inf:
            raise RequestError("number_minimum", name=name, minimum=self.minimum)
        code = "number_above" if self.above_minimum else "number_range"
        raise RequestError(code, name=name, minimum=self.minimum, maximum=self.maximum)


SAMPLING_PARAMETERS: Mapping[str, SamplingParameter] = {
    "temperature": SamplingParameter(
        0, slider=(0, 2, 0.05), help="0 always takes the likeliest word"
    ),
    "top_p": SamplingParameter(
        0, 1, above_minimum=True, off=1.0, slider=(0.05, 1, 0.05),
        help="only the likeliest words that together have this share; 1: off",
    ),
    "top_k": SamplingParameter(
        0, off=0, slider=(0, 200, 1), help="only that many words; 0: off"
    ),
    "min_p": SamplingParameter(
        0, 1, off=0.0, slider=(0, 0.5, 0.01),
        help="only words with this share of the likeliest one's; 0: off",
    ),
    "repetition_penalty": SamplingParameter(
        0.1, 10, off=1.0, slider=(1, 2, 0.05),
        help="above 1, words become less likely once they occur; 1: off",
    ),
    "presence_penalty": SamplingParameter(-2, 2, off=0.0),
    "frequency_penalty": SamplingParameter(-2, 2, off=0.0),
    "max_tokens": SamplingParameter(1),
    "min_tokens": SamplingParameter(0, off=0),
}  # fmt: skip


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen, and when to stop. `temperature` 0 is greedy.

    `top_k` 0, `top_p` 1, `min_p` 0 and `repetition_penalty` 1 switch those filters off.
    `presence_penalty` and `frequency_penalty` are OpenAI's: they are subtracted from the logit of a
    token that was chosen before, the first one once, the second one for each time. `logit_bias` has
    pairs (token id, value to add to its logit). A token of `stop_token_ids` ends the reply and is
    no part of it, also with `ignore_eos`. With a `seed` of None a random one is used; the last
    Delta has it. `logprobs` is the number of alternatives to report for each token; None reports
    no log probabilities.
    """

    max_tokens: int | None = None
    min_tokens: int = 0
    temperature: float = 0.7
    top_k: int = 40
    top_p: float = 0.9
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: tuple[tuple[int, float], ...] = ()
    stop_token_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        for name, parameter in SAMPLING_PARAMETERS.items():
            parameter.check(name, getattr(self, name))
        checks = (
            (
                all(i >= 0 and -100 <= bias <= 100 for i, bias in self.logit_bias),
                "logit_bias_range",
            ),
            (len(self.logit_bias) <= MAX_BIASES, "too_many_biases"),
            (len(self.stop_token_ids) <= MAX_STOP_TOKENS, "too_many_stop_tokens"),
            (self.seed is None or 0 <= self.seed < 2**63, "seed_range"),
            (self.logprobs is None or 0 <= self.logprobs <= 20, "too_many_logprobs"),
            (all(self.stop), "stop_string_empty"),
            (len(self.stop) <= MAX_STOPS, "too_many_stop_strings"),
            (
                all(len(s) <= MAX_STOP for s in self.stop),
                "stop_string_too_long",
            ),
        )
        for valid, code in checks:
            if not valid:
                raise RequestError(code, **SAMPLING_BOUNDS)
