// HTML of a reply's code blocks: a header with the language and a copy button, and the code. `library`
// is a LazyLibrary with highlight.js; until it is loaded, code has no colours.

import { copyFrom } from './clipboard.js';
import { icon } from './icons.js';
import { memoize } from './lazy_library.js';
import { translator } from './i18n.js';

const MAX_HIGHLIGHTED = 50_000; // characters; more would delay a streaming reply

/** A plugin of markdown-it: draws code blocks with and without fences. */
export function code(md, library) {
  const { escapeHtml } = md.utils;
  const { rules } = md.renderer;
  const highlight = memoize((text, language) => {
    return library.get().highlight(text, { language, ignoreIllegals: true }).value;
  });
  const codeHtml = (text, language) => {
    const supported = language && text.length < MAX_HIGHLIGHTED && library.get()?.getLanguage(language);
    return supported ? highlight(text, language) : escapeHtml(text);
  };
  const block = ({ content }, language) => frame(
    escapeHtml(language || translator()('code')),
    escapeHtml(translator()('copy_code')),
    codeHtml(content, language),
  );
  rules.fence = (tokens, i) => block(tokens[i], tokens[i].info.trim().split(/\s+/)[0]);
  rules.code_block = (tokens, i) => block(tokens[i], '');
}

const frame = (language, copyLabel, html) => `<div class="code">
<div class="code-head"><span>${language}</span><button type="button" class="linly-tool copy-code"
 aria-label="${copyLabel}" title="${copyLabel}">${icon('copy').outerHTML}</button></div>
<pre tabindex="0"><code>${html}</code></pre></div>`;

/** A click handler: copies the code of the pressed copy button. */
export function copyCode(event) {
  const button = event.target.closest('.copy-code');
  if (!button) return;
  const text = button.closest('.code').querySelector('code').textContent;
  copyFrom(button, text.replace(/\n$/, ''));
}
