"""Writes a tokenizer.json with a GGUF file's byte-level BPE, so that text gets the same ids.

GGUF names the rule by which a tokenizer splits text into words (`tokenizer.ggml.pre`), but does not
contain it. The rules here are those of the published tokenizers with these names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.convert.spm_file import GGML, NORMAL, write_tokenizer_config
from model.diagnostics import folder_error
from model.text.tokenizer_files import TOKENIZER_JSON, is_padded

Get = Callable[..., Any]  # returns a field's value by its name, or the default

CONTROL, USER_DEFINED, UNUSED = 3, 4, 5  # types of tokens
_DIGIT = r"\p{N}"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_WORD, _SYMBOLS = r"[^\r\n\p{L}\p{N}]?\p{L}+", r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_UPPER = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CHINESE = "[一-龥ࠀ-一가-퟿]+"
_EUROPEAN = (
    r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅ"
    r"Ὀ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎ"
    r"ꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+"
)


@dataclass(frozen=True)
class SplitRule:
    """Regular expressions that split text into words, one after the other.

    Args:
        patterns: the expressions.
        ignore_merges: whether a word that is a token is taken as it is.
        add_bos: whether texts begin with bos if the file does not say.
        nfc: whether text is normalised to Unicode's NFC.
    """

    patterns: tuple[str, ...]
    ignore_merges: bool = False
    add_bos: bool = False
    nfc: bool = False


def _by_name(rules: Iterable[tuple[SplitRule, Sequence[str]]]) -> Mapping[str, SplitRule]:
    return {name: rule for rule, names in rules for name in names}


_LLAMA3 = (rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}{{1,3}}|{_SYMBOLS}|{_SPACES}",)
SPLIT_RULES = _by_name([
    (SplitRule(_LLAMA3, ignore_merges=True, add_bos=True),
     ("llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral", "midm-2.0")),
    (SplitRule(_LLAMA3), ("smaug-bpe", "dbrx")),
    (SplitRule(("[\r\n]", _EUROPEAN, r"\s?[!-/:-~！-／：-～‘-‟　-。]+", r"\s+$", _CHINESE, _DIGIT)),
     ("deepseek-llm",)),
    (SplitRule(("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _CHINESE, _DIGIT)), ("deepseek-coder",)),
    (SplitRule((r"\p{N}{1,3}", "[一-龥぀-ゟ゠-ヿ]+",
                r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"
                r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|" + _SPACES)),
     ("deepseek-v3",)),
    (SplitRule((rf"{_CONTRACTIONS}|{_WORD}|{_DIGIT}|{_SYMBOLS}|{_SPACES}",), nfc=True),
     ("qwen2", "deepseek-r1-qwen", "megrez")),
    (SplitRule((rf"{_UPPER}*{_LOWER}+|{_UPPER}+{_LOWER}*|{_DIGIT}"
                rf"| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}",), ignore_merges=True, add_bos=True),
     ("tekken",)),
    (SplitRule((_DIGIT, _GPT2)), ("smollm", "starcoder", "refact", "codeshell", "minerva-7b")),
    (SplitRule((_GPT2,)), ("gpt-2", "mellum", "trillion")),
])  # fmt: skip


def write_bpe(get: Get, source: Path, folder: Path) -> None:
    """Writes tokenizer.json and tokenizer_config.json from the fields that `get` returns.

    Raises:
        ModelFolderError: the rule by which the tokenizer splits text is not known.
    """
    rule = _split_rule(get(f"{GGML}pre"), source)
    tokens, merges = (_required(get, source, f"{GGML}{name}") for name in ("tokens", "merges"))
    types = get(f"{GGML}token_type", [NORMAL] * len(tokens))
    add_bos = bool(get(f"{GGML}add_bos_token", rule.add_bos))
    backend = _backend(rule, _ids(tokens, types), merges)
    _add_special_tokens(backend, tokens, types)
    bos = get(f"{GGML}bos_token_id", -1)  # some files write an id that does not exist for "none"
    if add_bos and 0 <= bos < len(tokens):
        backend.post_processor = _bos_first(tokens[bos], bos)
    backend.save(str(folder / TOKENIZER_JSON))
    write_tokenizer_config(get, "PreTrainedTokenizerFast", add_bos, folder)


def _required(get: Get, source: Path, field: str) -> Any:
    value = get(field)
    if value is None:
        raise folder_error("gguf_incomplete", file=source, field=field)
    return value


def _split_rule(name: object, source: Path) -> SplitRule:
    rule = SPLIT_RULES.get(str(name))
    if rule is None and name is None:
        raise folder_error("gguf_pre_missing", file=source)
    if rule is None:
        raise folder_error("gguf_pre_unknown", file=source, name=str(name)[:100])
    return rule


def _ids(tokens: Sequence[str], types: Sequence[int]) -> dict[str, int]:
    """The ids of the tokens by their texts, without those that only pad the embedding.

    Raises:
        ValueError: two tokens have the same text.
    """
    used = len(tokens)
    while used and types[used - 1] == UNUSED:
        used -= 1
    if not is_padded(
        len(tokens), used
    ):  # then those without a token would not be taken for padding
        used = len(tokens)
    ids = {text: token for token, text in enumerate(tokens[:used])}
    if len(ids) < used:
        raise ValueError("two of its tokens have the same text")
    return ids


def _backend(rule: SplitRule, ids: Mapping[str, int], merges: Sequence[str]) -> Any:
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    pairs = [(left, right) for left, _, right in (merge.partition(" ") for merge in merges)]
    backend = Tokenizer(models.BPE(dict(ids), pairs, ignore_merges=rule.ignore_merges))
    if rule.nfc:
        backend.normalizer = normalizers.NFC()
    splits = [pre_tokenizers.Split(Regex(part), behavior="isolated") for part in rule.patterns]
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([*splits, to_bytes])
    backend.decoder = decoders.ByteLevel()
    return backend


def _add_special_tokens(backend: Any, tokens: Sequence[str], types: Sequence[int]) -> None:
    from tokenizers import AddedToken

    for kind, special in ((CONTROL, True), (USER_DEFINED, False)):
        texts = [text for text, found in zip(tokens, types, strict=True) if found == kind and text]
        backend.add_tokens([AddedToken(t, special=special, normalized=False) for t in texts])


def _bos_first(text: str, token: int) -> Any:
    """A step that writes bos before a text."""
    from tokenizers import processors

    return processors.TemplateProcessing(
        single=[text, "$A"], pair=[text, "$A", text, "$B"], special_tokens=[(text, token)]
    )
