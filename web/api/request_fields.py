"""Tables of the fields that are not served: those of OpenAI, vLLM, llama.cpp and common clients.

A field of a request is exactly one of these:

- served: its pydantic model in `request_models` has it;
- without effect: the reply is the same with any value;
- unsupported: it would change the reply, so only its values that change nothing are accepted;
- unknown: refused by name.

Null counts as missing for all of them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from model.display import clean_text
from model.errors import RequestError
from model.suggestions import did_you_mean
from model.translations import LocalizedText

# Of llama.cpp: which of the tokens before are penalized, and the values that mean all of them.
PENALTY_OPTIONS: Mapping[str, object] = {"repeat_last_n": -1, "penalize_nl": True}
MAX_PATH = 200  # characters of a field's path in an error
Json = Mapping[str, Any]
# By the code of the remedy: unsupported fields, with the values that change nothing.
Unsupported = Mapping[str, Mapping[str, tuple[object, ...]]]

# Not for the reply: for billing, logs, tracing, caches, scheduling, and the client's own use.
NO_EFFECT = frozenset({
    # OpenAI
    "metadata", "parallel_tool_calls", "prediction", "prompt_cache_options",
    "prompt_cache_retention", "safety_identifier", "service_tier", "store",
    # vLLM: the options of images, and a hint for the size of chunks
    "media_io_kwargs", "mm_processor_kwargs", "priority", "request_id", "return_mm_kwargs",
    "return_token_offsets", "session_id", "stream_interval", "truncation_side",
    # llama.cpp: its cache and slots
    "backend_sampling", "cache_prompt", "id_slot", "n_cache_reuse", "n_discard", "n_keep",
    "parse_tool_calls", "preserved_tokens", "slot_id", "speculative.n_max", "speculative.n_min",
    "speculative.p_min", "speculative_ngram", "sse_ping_interval",
    # Options of samplers that are refused themselves; `PENALTY_OPTIONS` without a penalty
    "adaptive_decay", "dry_allowed_length", "dry_base", "dry_penalty_last_n",
    "dry_sequence_breakers", "dynatemp_exponent", "mirostat_eta", "mirostat_tau", "penalize_nl",
    "post_sampling_probs", "repeat_last_n", "xtc_threshold",
    # Extra facts in the response, beside the reply: they are left out
    "return_progress", "return_token_ids", "return_tokens", "timings_per_token", "verbose",
    # Open WebUI and Ollama's clients
    "background_tasks", "chat_id", "features", "keep_alive", "tool_ids",
})  # fmt: skip

UNSUPPORTED: Unsupported = {
    "remedy_ask_for_format": {
        "response_format": ({"type": "text"},), "structured_outputs": (), "structural_tag": (),
        "guided_json": (), "guided_regex": (), "guided_choice": (), "guided_grammar": (),
        "guided_decoding_backend": (), "guided_whitespace_pattern": (),
        "grammar": ("",), "grammar_lazy": (False,), "grammar_string": ("",),
        "grammar_triggers": ([],), "json_schema": (), "regex": (), "ebnf": (), "format": ("",),
    },
    "remedy_tool_choice_none": {"tools": ([],), "functions": ([],)},
    "remedy_leave_out": {
        # Tools, and other results than text
        "tool_choice": ("none", "auto"), "function_call": ("none", "auto"),
        "web_search_options": (), "modalities": (["text"],), "audio": (), "moderation": (),
        # Reasoning
        "reasoning": (), "reasoning_effort": ("medium",), "reasoning_format": ("none", "auto"),
        "reasoning_budget_tokens": (-1,), "thinking": (), "thinking_budget": (),
        "thinking_token_budget": (-1,), "enable_thinking": (), "include_reasoning": (True,),
        "verbosity": ("medium",),
        # The prompt
        "prompt_embeds": (), "truncate_prompt_tokens": (), "documents": ([],), "suffix": ("",),
        "negative_prompt": ("",), "guidance_scale": (1,),
        # The search for tokens, and their probabilities
        "use_beam_search": (False,), "num_beams": (1,), "best_of": (1,), "length_penalty": (1,),
        "early_stopping": (False,), "prompt_logprobs": (), "logprob_token_ids": ([],),
        "return_tokens_as_token_ids": (False,), "routed_experts_prompt_start": (0,),
        # Samplers
        "adaptive_target": (-1,), "dry_multiplier": (0,), "dynamic_temperature": (False,),
        "dynatemp_range": (0,), "encoder_repetition_penalty": (1,), "epsilon_cutoff": (0,),
        "eta_cutoff": (0,), "min_keep": (0,), "mirostat": (0,), "mirostat_mode": (0,),
        "no_repeat_ngram_size": (0,), "nsigma": (0,), "penalty_alpha": (0,),
        "repetition_detection": (), "sampler_order": (), "sampler_priority": (), "samplers": (),
        "smoothing_factor": (0,), "temperature_last": (False,), "tfs": (1,), "tfs_z": (1,),
        "top_a": (0,), "top_n_sigma": (0, -1), "typical": (1,), "typical_p": (1,),
        "watermarking": (False,), "xtc_probability": (0,),
        "custom_logit_processor": (), "logits_processors": ([],), "vllm_xargs": ({},),
        # What is shown of the reply, and when it ends
        "include_stop_str_in_output": (False,), "n_indent": (0,), "response_fields": ([],),
        "skip_special_tokens": (True,), "spaces_between_special_tokens": (True,),
        "t_max_predict_ms": (0, -1),
        # A promise of privacy, and transfers between servers
        "cache_salt": (), "ec_transfer_params": ({},), "kv_transfer_params": ({},),
    },
    "remedy_use_logit_bias": {
        "allowed_token_ids": (), "bad_words": ([],), "banned_strings": ([],),
        "banned_tokens": ([],), "custom_token_bans": ("", []),
    },
    "remedy_use_completions": {
        "add_generation_prompt": (True,), "chat_template": (), "chat_template_kwargs": ({},),
        "continue_final_message": (False,), "echo": (False,), "generation_prompt": ("",),
        "return_prompt_text": (False,), "add_special_tokens": (False,),
    },
}  # fmt: skip

# Other servers' names of a field that is served.
OTHER_NAMES: Mapping[str, tuple[str, tuple[object, ...]]] = {
    "ban_eos_token": ("ignore_eos", (False,)), "do_sample": ("temperature", (True,)),
    "lora": ("model", ([],)), "max_length": ("max_tokens", ()),
    "max_new_tokens": ("max_tokens", ()),
    "min_length": ("min_tokens", (0,)), "n_cmpl": ("n", (1,)), "n_predict": ("max_tokens", (-1,)),
    "n_probs": ("logprobs", (0,)), "num_predict": ("max_tokens", (-1,)),
    "random_seed": ("seed", ()), "rep_pen": ("repetition_penalty", (1,)),
    "repeat_penalty": ("repetition_penalty", (1,)), "stop_sequence": ("stop", ([],)),
    "stopping_strings": ("stop", ([],)),
}  # fmt: skip


@dataclass(frozen=True)
class FieldRules:
    """Which fields an object of a request may have, beside those of its pydantic model.

    Args:
        no_effect: fields that change nothing, with any value.
        unsupported: fields that are accepted with some values only.
        other_names: for each field, the one to use instead, and the values that change nothing.
    """

    no_effect: Collection[str] = frozenset()
    unsupported: Unsupported = field(default_factory=dict)
    other_names: Mapping[str, tuple[str, tuple[object, ...]]] = field(default_factory=dict)

    def check(self, extra: Json, served: Collection[str], path: str = "") -> None:
        """Checks the fields that the pydantic model does not have.

        Args:
            extra: these fields with their values.
            served: the fields of the pydantic model.
            path: of the object in the request, with a full stop at the end.

        Raises:
            FieldError: one of them is unknown, or its value would change the reply.
        """
        for name, value in extra.items():
            if value is None or name in self.no_effect:
                continue
            neutral = self.neutral_values(name)
            if neutral is None:
                remedy = did_you_mean(name[:MAX_PATH], served, "remedy_leave_out")
                raise FieldError("field_unknown", field=(path + name)[:MAX_PATH], remedy=remedy)
            if not any(_is_same(value, other) for other in neutral):
                raise FieldError("field_unsupported", field=path + name, remedy=self._remedy(name))

    def neutral_values(self, name: str) -> tuple[object, ...] | None:
        """Returns the values of an unsupported field that change nothing; None for other fields."""
        if name in self.other_names:
            return self.other_names[name][1]
        groups = (group[name] for group in self.unsupported.values() if name in group)
        return next(groups, None)

    def _remedy(self, name: str) -> LocalizedText:
        if name in self.other_names:
            return LocalizedText("remedy_use_field", {"name": self.other_names[name][0]})
        code = next(code for code, group in self.unsupported.items() if name in group)
        return LocalizedText(code)

    def json_schema(self, served: Collection[str]) -> dict[str, Any]:
        """Returns the schemas of the fields by name, for the document at /docs."""
        unsupported = [name for group in self.unsupported.values() for name in group]
        values = {
            name: self.neutral_values(name) or () for name in (*unsupported, *self.other_names)
        }
        fields: dict[str, Any] = {name: {"description": "No effect"} for name in self.no_effect}
        for name, neutral in values.items():
            fields[name] = {"description": "Not supported", "enum": [None, *neutral]}
        return {name: fields[name] for name in sorted(fields) if name not in served}


class FieldError(RequestError):
    """One field of a request is wrong.

    Args:
        text: the code of its texts.
        field: the field's path in the request, such as messages.0.content.
        facts: other values for the texts' placeholders.
    """

    def __init__(self, text: str, /, *, field: str, **facts: object) -> None:
        super().__init__(text, field=field, **facts)
        self.param = clean_text(field, MAX_PATH)


CHAT_FIELDS = FieldRules(NO_EFFECT, UNSUPPORTED, OTHER_NAMES)
COMPLETION_FIELDS = FieldRules(
    NO_EFFECT,
    {"remedy_send_token_ids": {"add_special_tokens": (True,)}, **UNSUPPORTED},
    {**OTHER_NAMES, "top_logprobs": ("logprobs", (0,))},
)
MESSAGE_FIELDS = FieldRules(
    # Chat templates get no names and no earlier reasoning. The others are the client's own.
    {
        "annotations", "cache_control", "id", "name", "provider_specific_fields", "reasoning",
        "reasoning_content", "reasoning_details", "thinking_blocks", "timestamp",
    },
    {
        "remedy_leave_out": {
            "audio": (), "files": ([],), "images": ([],), "type": ("text", "message"),
        },
        "remedy_use_completions": {"partial": (False,), "prefix": (False,)},
    },
)  # fmt: skip
PART_FIELDS = FieldRules({"annotations", "cache_control"})
STREAM_FIELDS = FieldRules({"continuous_usage_stats", "include_obfuscation"})


def _is_same(value: object, neutral: object) -> bool:
    """Whether two values of JSON are equal. In Python, true equals 1."""
    return value == neutral and isinstance(value, bool) is isinstance(neutral, bool)
