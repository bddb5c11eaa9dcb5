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
# Cased letters; escaped, because some of them are equal to others in NFC.
_CASED = (
    "A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293"
    "\u0295-\u02af\u0370-\u0373\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c"
    "\u038e-\u03a1\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f\u0531-\u0556\u10a0-\u10c5"
    "\u13a0-\u13f5\u13f8-\u13fd\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77"
    "\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59"
    "\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc"
    "\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107"
    "\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128\u212a-\u212d\u212f-\u2134\u2139"
    "\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b\u2c7e-\u2ce4\u2ceb-\u2cee"
    "\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787\ua78b-\ua78e"
    "\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a\U00010400-\U0001044f"
    "\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-\U00010cb2\U00010cc0-\U00010cf2"
    "\U000118a0-\U000118df\U0001e900-\U0001e943"
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
    (SplitRule(("[\r\n]", rf"\s?[{_CASED}]+", r"\s?[!-/:-~！-／：-～‘-‟　-。]+", r"\s+$",
                _CHINESE, _DIGIT)),
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
