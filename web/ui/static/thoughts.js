// Finds the thoughts of a reasoning model in its reply: <think>…</think>, or …</think> alone where the
// prompt held the opening tag.

const OPEN = '<think>';
const CLOSE = '</think>';
const HALF_TAG = /<\/?(?:t|th|thi|thin|think)?$/;
// Code between fences, perhaps in a list or a quote: what is before the fence, and the fence (one of
// backticks has none behind it in its line). Or code in a line, or a tag.
const MARKS = /^((?: {0,3}(?:>|[-+*](?= )|\d{1,9}[.)](?= )))* *)(`{3,}(?=[^`\n]*$)|~{3,}).*$|`+|<\/?think>/gm;

/**
 * Splits a reply into its parts, in order: {text, thought, open}. `open` is true for a last thought
 * whose closing tag may come: in a reply that is `streaming`. A tag in code is text, and so is one in
 * the middle of a line, unless it ends a thought.
 */
export function splitThoughts(reply, streaming = false) {
  const whole = streaming ? reply.replace(HALF_TAG, '') : reply;
  const parts = [];
  let thinking = false;
  let start = 0; // of the current part
  const endPart = (at, thought, open = false) => {
    const text = whole.slice(start, at);
    if (text.trim() || open) parts.push({ text, thought, open });
  };
  for (const { tag, at } of tagsOutsideCode(whole, () => thinking)) {
    const counts = thinking ? tag === CLOSE : touchesLineEnd(whole, at, tag);
    if (!counts) continue;
    endPart(at, tag === CLOSE);
    thinking = tag === OPEN;
    start = at + tag.length;
  }
  endPart(whole.length, thinking, thinking && streaming);
  return parts;
}

function* tagsOutsideCode(text, isThinking) {
  const unclosed = new Map(); // kind of fence → length from which on none is closed
  const marks = new RegExp(MARKS);
  for (let mark = marks.exec(text); mark; mark = marks.exec(text)) {
    const [found, before, fence] = mark;
    if (found === OPEN || found === CLOSE) yield { tag: found, at: mark.index };
    else if (fence) {
      const end = endOfFence(text, before, fence, marks.lastIndex, unclosed);
      if (end >= 0) marks.lastIndex = end;
      else if (!isThinking()) return; // the rest is code; in a thought, its closing tag must be found
    } else marks.lastIndex = endOfCode(text, found, marks.lastIndex);
  }
}

function endOfFence(text, before, fence, from, unclosed) {
  const close = `^${before ? '[ >]*' : ' {0,3}'}${fence[0]}`;
  if (fence.length >= (unclosed.get(close) ?? Infinity)) return -1;
  const closed = new RegExp(`${close}{${fence.length},}[ \\t]*$`, 'gm');
  closed.lastIndex = from;
  if (closed.test(text)) return closed.lastIndex;
  unclosed.set(close, fence.length);
  return -1;
}

// Where code in a line ends, or if it is not closed, where it would begin.
function endOfCode(text, ticks, from) {
  const marks = /`+|\n/g;
  marks.lastIndex = from;
  let found = '';
  while (found !== '\n' && found !== ticks) {
    const mark = marks.exec(text);
    if (!mark) return from;
    found = mark[0];
  }
  return found === ticks ? marks.lastIndex : from;
}

// Whether a tag begins or ends its line; indented lines are code.
function touchesLineEnd(text, at, tag) {
  if (/(^|\n) {0,3}$/.test(text.slice(Math.max(0, at - 4), at))) return true;
  if ((text[at + tag.length] ?? '\n') !== '\n') return false;
  const line = text.slice(text.lastIndexOf('\n', at) + 1, at);
  return !/^( {4}|\t)/.test(line);
}
