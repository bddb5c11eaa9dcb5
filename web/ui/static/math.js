// A plugin of markdown-it for formulas: $$…$$ and \[…\] as blocks, $…$ and \(…\) in a line. Its tokens
// are `formula` (inline) and `formula_block`; their content is TeX, and `render(TeX, display)` returns
// its HTML. Code has no formulas, because markdown-it parses it first.

import { CJK } from './cjk.js';

const PAIRS = [
  { open: '$$', close: '$$', display: true },
  { open: '\\[', close: '\\]', display: true },
  { open: '\\(', close: '\\)', display: false },
];
const MAX_LINES = 200; // of a formula: without this bound, an unclosed one is searched to the end
const WORD = new RegExp(`(?![${CJK}])[\\p{L}\\p{N}]`, 'u');
const LINE = { open: '$', close: '$', display: false };

export function math(md, render) {
  const places = { alt: ['paragraph', 'reference', 'blockquote', 'list'] };
  md.inline.ruler.before('escape', 'formula', inline);
  md.block.ruler.before('fence', 'formula_block', block, places);
  md.renderer.rules.formula = (tokens, i) => render(tokens[i].content, tokens[i].block);
  md.renderer.rules.formula_block = (tokens, i) => `<p>${render(tokens[i].content, true)}</p>\n`;
}

function inline(state, silent) {
  const pair = [...PAIRS, LINE].find(({ open }) => state.src.startsWith(open, state.pos));
  if (!pair) return false;
  const start = state.pos + pair.open.length;
  const end = pair === LINE ? endOfLine(state, start) : endOfPair(state, start, pair);
  if (end < 0) return pair.open === '$$' && plainDollars(state, silent);
  if (!silent) {
    const token = state.push('formula', 'span', 0);
    token.content = state.src.slice(start, end).trim();
    token.block = pair.display;
  }
  state.pos = end + pair.close.length;
  return true;
}

function endOfPair(state, start, { close }) {
  const without = (state.withoutEnd ??= new Map()); // mark → position after which it does not occur
  if (start >= without.get(close)) return -1;
  const end = unescaped(state.src, close, start);
  if (end < 0) without.set(close, start);
  const content = state.src.slice(start, end);
  return end >= 0 && end < state.posMax && content.trim() && !content.includes('`') ? end : -1;
}

// Dollars of prices, variables and prose open and close nothing: with a space inside, or a letter or
// digit outside. CJK text has no spaces around a formula.
function endOfLine(state, start) {
  const end = unescaped(state.src, '$', start);
  if (end <= start || end >= state.posMax) return -1;
  const [before, after] = [state.src[start - 2] ?? '', state.src[end + 1] ?? ''];
  const isShell = /[({]/.test(after) && after === state.src[start]; // $(a)/$(b), ${a}/${b}
  return isShell || WORD.test(before + after) || isProse(state.src.slice(start, end)) ? -1 : end;
}

function isProse(text) {
  if (/^[\s)}'"”’,;?]|[\s(]$|`/.test(text)) return true;
  return !text.includes('\\') && /\p{L}{2}\s+\p{L}{2}|[，。；！？]/u.test(text);
}

function unescaped(text, mark, from) {
  let at = text.indexOf(mark, from);
  while (at >= 0 && mark[0] === '$' && text[at - 1] === '\\') at = text.indexOf(mark, at + 1);
  return at;
}

// Unclosed `$$` is text, not the beginning of a formula in a line.
function plainDollars(state, silent) {
  if (!silent) state.pending += '$$';
  state.pos += 2;
  return true;
}

function block(state, first, last, silent) {
  if (state.sCount[first] - state.blkIndent >= 4) return false;
  const from = state.bMarks[first] + state.tShift[first];
  const pair = PAIRS.find(({ open, display }) => display && state.src.startsWith(open, from));
  const end = pair ? lineOfEnd(state, first, last, from + pair.open.length, pair.close) : -1;
  if (end < 0) return false;
  if (silent) return true;
  const token = state.push('formula_block', 'p', 0);
  const lines = state.getLines(first, end + 1, state.blkIndent, false).trim();
  token.content = lines.slice(pair.open.length, -pair.close.length).trim();
  token.map = [first, end + 1];
  token.block = true;
  state.line = end + 1;
  return true;
}

// The line that ends with the closing mark; -1 if text follows the mark, or there is none.
function lineOfEnd(state, first, last, start, close) {
  for (let line = first; line < Math.min(last, first + MAX_LINES); line += 1) {
    if (line > first && state.sCount[line] < state.blkIndent && !state.isEmpty(line)) return -1;
    const from = line === first ? start : state.bMarks[line];
    const at = state.src.slice(from, state.eMarks[line]).indexOf(close);
    if (at < 0) continue;
    const before = state.src.slice(start, from + at).trim();
    const after = state.src.slice(from + at + close.length, state.eMarks[line]).trim();
    return before && !after ? line : -1;
  }
  return -1;
}
