// Chinese, Japanese and Korean text in Markdown: it has no spaces around words and punctuation.

// Characters of these scripts, with their punctuation and full-width forms.
export const CJK = '\\p{scx=Han}\\p{scx=Hiragana}\\p{scx=Katakana}\\p{scx=Hangul}\\p{scx=Bopomofo}'
  + '\\u3000-\\u303f\\ufe10-\\ufe1f\\ufe30-\\ufe4f\\uff00-\\uffef';
const IS_CJK = new RegExp(`^[${CJK}]$`, 'u');
const isCjk = (code) => IS_CJK.test(String.fromCodePoint(code));

/**
 * A plugin of markdown-it for marks of emphasis that touch punctuation, as in **“你好”**世界. CommonMark
 * wants a space on the other side; here a CJK character is enough, and CJK punctuation counts as a
 * letter. The rules are those of markdown-cjk-friendly.
 */
export function cjkEmphasis(md) {
  const { isMdAsciiPunct, isPunctCharCode, isWhiteSpace } = md.utils;

  class State extends md.inline.State {
    scanDelims(start, canSplitWord) {
      const scanned = super.scanDelims(start, canSplitWord);
      const before = codeBefore(this.src, start);
      const after = codeAt(this.src, start + scanned.length, this.posMax);
      if (!canSplitWord || !(isCjk(before) || isCjk(after))) return scanned;
      return { ...scanned, can_open: touches(after, before), can_close: touches(before, after) };
    }
  }

  // Whether a mark belongs to the text on its side `inside`.
  function touches(inside, outside) {
    if (isWhiteSpace(inside)) return false;
    if (isCjk(inside) || !isPunctuation(inside)) return true;
    return isWhiteSpace(outside) || isCjk(outside) || isPunctuation(outside);
  }

  const isPunctuation = (code) => isPunctCharCode(code) || isMdAsciiPunct(code);
  md.inline.State = State;
}

const codeAt = (text, at, end) => (at < end ? text.codePointAt(at) : 32);

function codeBefore(text, at) {
  const isPair = at > 1 && text.codePointAt(at - 2) > 0xffff;
  return at > 0 ? text.codePointAt(isPair ? at - 2 : at - 1) : 32;
}
