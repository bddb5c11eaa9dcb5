"""Patterns of tokenizers: those of published ones pass, and those that backtrack do not."""

from __future__ import annotations

from itertools import product

import pytest
from tokenizers import Regex
from tokenizers.pre_tokenizers import Split

from model.bounded_files import UnfitFileError
from model.text.regex_bounds import is_linear
from model.text.tokenizer_bounds import (
    MAX_GROWTH,
    REPLACEMENTS,
    check_tokenizer_data,
    replace_patterns,
)

CONTRACTIONS = "'s|'t|'re|'ve|'m|'ll|'d"
UPPER = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
TAIL = r"\s*[\r\n]+|\s+(?!\S)|\s+"
PUBLISHED = {
    "GPT-2": rf"{CONTRACTIONS}| ?\p{{L}}+| ?\p{{N}}+| ?[^\s\p{{L}}\p{{N}}]+|\s+(?!\S)|\s+",
    "Llama 3": rf"(?i:{CONTRACTIONS})|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}"
               rf"| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{TAIL}",
    "Qwen2": rf"(?i:{CONTRACTIONS})|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}"
             rf"| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{TAIL}",
    "o200k": rf"{UPPER}*{LOWER}+(?i:{CONTRACTIONS})?|{UPPER}+{LOWER}*(?i:{CONTRACTIONS})?"
             rf"|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{TAIL}",
    "Tekken": rf"{UPPER}*{LOWER}+|{UPPER}+{LOWER}*|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{TAIL}",
    "DeepSeek V3": r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"
                   r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|" + TAIL,
    "DeepSeek, Chinese": "[一-龥぀-ゟ゠-ヿ]+",
    "DeepSeek LLM": r"\s?[A-Za-zµÀ-ÖØ-öø-ƺ]+",
    "DeepSeek LLM, signs": r"\s?[!-/:-~！-／：-～‘-‟　-。]+",
    "DeepSeek LLM, space, replaced": r"(?<!\s)\s+$",
    "BLOOM": " ?[^(\\s|[.,!?…。，、।۔،])]+",
    "spaces": " {2,}",
    "thousands": r"(?=(\d{3})+(?!\d))",
    "a token": r"<\|im_end\|>",
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_patterns_of_published_tokenizers_pass(name: str) -> None:
    assert is_linear(PUBLISHED[name])


@pytest.mark.parametrize(
    "pattern",
    [
        "(a+)+b", "a*a*b", "a+b", "(a|aa)+$", "(?:a|a){30}b", "(a?){40}a{40}", "a?" * 12 + "a{12}",
        r"(\w+)\1", r"\s*[\r\n]+", r"\s+$", "(?>a+)b", "a{1,5}+b", "(a*)*", ".*.*x", "(?=a*b)c",
        "a++b", "(" * 24 + "a" + ")" * 24, "[", "(", "\\", "a{2,1}", "(?", "a**", r"\p{", "(?R)",
        "x" * 5000, "(a|b)(a|b)" * 8 + "c",
    ],
)  # fmt: skip
def test_other_patterns_are_refused(pattern: str) -> None:
    assert not is_linear(pattern)


@pytest.mark.parametrize("pattern", REPLACEMENTS)
def test_replacement_matches_the_same_text(pattern: str) -> None:
    data = {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
        {"type": "Split", "pattern": {"String": "x"}, "behavior": "Isolated", "invert": False},
    ]}}  # fmt: skip
    assert replace_patterns(data)
    assert not replace_patterns(data)
    replacement = data["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"]  # type: ignore[index]
    assert is_linear(replacement)
    assert not is_linear(pattern)
    before, after = (Split(Regex(regex), "isolated") for regex in (pattern, replacement))
    for length in range(7):
        for letters in product(" \n\r\u3000a", repeat=length):
            text = "".join(letters)
            assert before.pre_tokenize_str(text) == after.pre_tokenize_str(text)
    assert len(after.pre_tokenize_str(" " * 300_000 + "x")) == 1  # at once


def test_steps_that_make_texts_much_longer_are_refused() -> None:
    step = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    check_tokenizer_data({"normalizer": {"type": "Sequence", "normalizers": [step] * 9}}, "t")
    double = {**step, "content": "▁▁"}
    many = [double] * MAX_GROWTH.bit_length()
    with pytest.raises(UnfitFileError, match="without limit"):
        check_tokenizer_data({"normalizer": {"type": "Sequence", "normalizers": many}}, "t")
