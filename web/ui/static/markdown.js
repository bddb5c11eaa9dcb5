// Renders texts of messages into elements. `renderReply` draws a model's Markdown; called again with a
// longer text, it changes only what is new: a streaming reply does not flicker, and keeps the reader's
// selection. `renderTyped` shows a user's text as it is.
// Replies are untrusted: their HTML is text, images are links, and links lead to http(s) or mail.

import MarkdownIt from './vendor/markdown-it/markdown-it.esm.min.mjs';
import { cjkEmphasis } from './cjk.js';
import { code } from './code.js';
import { direction } from './direction.js';
import { translator } from './i18n.js';
import { LazyLibrary, memoize } from './lazy_library.js';
import { links } from './links.js';
import { math } from './math.js';
import { patch } from './patch_html.js';
import { splitThoughts } from './thoughts.js';

const TEX = {
  output: 'mathml',
  throwOnError: false,
  trust: false,
  strict: 'ignore', // no warnings about Chinese in a formula
  errorColor: 'inherit',
  maxSize: 20, // or a \rule could cover the page
};

const unfinished = new Map(); // target → text and whether it grows, where a library was still loading
const drawnBlocks = new WeakMap(); // target → the HTML of each of its blocks

const highlighter = new LazyLibrary(importHighlighter, drawAgain);
const katex = new LazyLibrary(importKatex, drawAgain);
const typeset = memoize((tex, displayMode) => {
  return katex.get().renderToString(tex, { ...TEX, displayMode });
});
const md = makeMarkdown();

// A letter with thousands of accents takes a browser seconds to draw. A dotted circle after each 32
// begins another letter; no language has as many accents on one.
const separateAccents = (text) => text.replace(/\p{M}{32}(?=\p{M})/gu, '$&\u25cc');

export function renderTyped(target, text) {
  target.classList.add('typed');
  const shown = separateAccents(text);
  if (target.textContent !== shown) target.textContent = shown;
}

export function renderReply(target, text, streaming = false) {
  const before = drawnBlocks.get(target) ?? [];
  const blocks = splitThoughts(separateAccents(text), streaming).flatMap(htmlOfPart);
  const changed = blocks.findIndex((html, i) => html !== before[i]);
  const unchanged = changed < 0 ? blocks.length : changed;
  patch(target, unchanged, blocks.slice(unchanged));
  drawnBlocks.set(target, blocks);
  if (highlighter.pending || katex.pending) unfinished.set(target, [text, streaming]);
}

function drawAgain() {
  const targets = [...unfinished];
  unfinished.clear();
  for (const [target, [text, streaming]] of targets) renderReply(target, text, streaming);
}

function htmlOfPart({ text, thought, open }) {
  const blocks = htmlOfBlocks(text);
  if (!thought) return blocks;
  const label = md.utils.escapeHtml(translator()(open ? 'thinking' : 'thought'));
  return `<details class="thought"><summary>${label}</summary>${blocks.join('')}</details>`;
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
  const parser = new MarkdownIt({ html: false, linkify: true, typographer: false, breaks: true });
  parser.use(links).use(code, highlighter).use(math, formula).use(cjkEmphasis).use(direction);
  // Wide tables scroll in a box of their own.
  parser.renderer.rules.table_open = (tokens, i, options, env, renderer) => {
    return `<div class="table" tabindex="0"><table${renderer.renderAttrs(tokens[i])}>`;
  };
  parser.renderer.rules.table_close = () => '</table></div>';
  return parser;
}

function formula(tex, display) {
  const kind = display ? 'formula display' : 'formula';
  const html = katex.get() ? typeset(tex, display) : `<code>${md.utils.escapeHtml(tex)}</code>`;
  return `<span class="${kind}">${html}</span>`;
}

async function importHighlighter() {
  return (await import('./vendor/highlight/highlight.min.js')).default;
}

// Its minified build is not a module: it sets a global.
async function importKatex() {
  await import('./vendor/katex/katex.min.js');
  return globalThis.katex;
}
