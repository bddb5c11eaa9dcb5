// Text of messages into elements. `renderReply` draws a model's Markdown and, called again with
// more of it, changes only what is new: a streaming reply does not flicker, and what its reader has
// selected stays so. `renderTyped` shows what a person typed as it is.
// Replies are untrusted: their HTML is text, images are links, and links lead to http(s) or mail.

import MarkdownIt from './vendor/markdown-it/markdown-it.esm.min.mjs';
import { code } from './code.js';
import { Lazy, remembering } from './lazy_library.js';
import { links } from './links.js';
import { math } from './math.js';
import { patch } from './patch.js';

const TEX = {
  output: 'mathml',
  throwOnError: false,
  trust: false,
  strict: 'ignore', // Chinese in a formula is no reason to warn
  errorColor: 'inherit',
  maxSize: 20, // or a \rule could cover the page
};

const unfinished = new Map(); // what was drawn while a library was under way, and its text
const blocksOf = new WeakMap(); // the HTML of each block that a target shows

const highlighter = new Lazy(importHighlighter, drawAgain);
const katex = new Lazy(importKatex, drawAgain);
const typeset = remembering((tex, displayMode) => {
  return katex.get().renderToString(tex, { ...TEX, displayMode });
});
const md = makeMarkdown();

// Thousands of accents make one letter, which a browser takes seconds to draw. The sign for an accent
// without a letter begins another; no language has 32 upon each other.
const apart = (text) => text.replace(/\p{M}{32}(?=\p{M})/gu, '$&\u25cc');

export function renderTyped(target, text) {
  target.classList.add('typed');
  const shown = apart(text);
  if (target.textContent !== shown) target.textContent = shown;
}

export function renderReply(target, text) {
  const before = blocksOf.get(target) ?? [];
  const blocks = htmlOfBlocks(apart(text));
  const changed = blocks.findIndex((html, i) => html !== before[i]);
  const same = changed < 0 ? blocks.length : changed;
  patch(target, same, blocks.slice(same));
  blocksOf.set(target, blocks);
  if (highlighter.pending || katex.pending) unfinished.set(target, text);
}

function drawAgain() {
  const targets = [...unfinished];
  unfinished.clear();
  for (const [target, text] of targets) renderReply(target, text);
}

/** HTML of each block at the top level: a paragraph, a list, a code block … */
function htmlOfBlocks(text) {
  const env = {};
  const htmls = [];
  let depth = 0;
  let block = [];
  for (const token of md.parse(text, env)) {
    block.push(token);
    depth += token.nesting;
    if (depth > 0) continue;
    htmls.push(md.renderer.render(block, md.options, env).trim());
    block = [];
  }
  return htmls;
}

function makeMarkdown() {
  const made = new MarkdownIt({ html: false, linkify: true, typographer: false, breaks: true });
  made.use(links).use(code, highlighter).use(math, formula);
  // Wide tables scroll in a box of their own.
  made.renderer.rules.table_open = () => '<div class="table" tabindex="0"><table>';
  made.renderer.rules.table_close = () => '</table></div>';
  return made;
}

function formula(tex, display) {
  const kind = display ? 'formula display' : 'formula';
  const html = katex.get() ? typeset(tex, display) : `<code>${md.utils.escapeHtml(tex)}</code>`;
  return `<span class="${kind}">${html}</span>`;
}

async function importHighlighter() {
  return (await import('./vendor/highlight/highlight.min.js')).default;
}

// Its minified build is no module: it leaves itself as a global.
async function importKatex() {
  await import('./vendor/katex/katex.min.js');
  return globalThis.katex;
}
