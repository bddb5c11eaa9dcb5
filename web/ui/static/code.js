// Code blocks of a reply as HTML: a head with the language and a copy button over the code.
// `library` is a Lazy with highlight.js: code is plain until it has come.

import { copyFrom } from './clipboard.js';
import { icon } from './icons.js';
import { remembering } from './lazy_library.js';
import { words } from './i18n.js';

const LONGEST = 50_000; // characters that are highlighted; more would hold up a streaming reply

/** Teach a markdown-it to draw code with and without fences. */
export function code(md, library) {
  const { escapeHtml } = md.utils;
  const { rules } = md.renderer;
  const highlight = remembering((text, language) => {
    return library.get().highlight(text, { language, ignoreIllegals: true }).value;
  });
  const inside = (text, language) => {
    const known = language && text.length < LONGEST && library.get()?.getLanguage(language);
    return known ? highlight(text, language) : escapeHtml(text);
  };
  const block = ({ content }, language) => frame(
    escapeHtml(language || words()('code')),
    escapeHtml(words()('copy_code')),
    inside(content, language),
  );
  rules.fence = (tokens, i) => block(tokens[i], tokens[i].info.trim().split(/\s+/)[0]);
  rules.code_block = (tokens, i) => block(tokens[i], '');
}

const frame = (language, copyLabel, html) => `<div class="code">
<div class="code-head"><span>${language}</span><button type="button" class="linly-tool copy-code"
 aria-label="${copyLabel}" title="${copyLabel}">${icon('copy').outerHTML}</button></div>
<pre tabindex="0"><code>${html}</code></pre></div>`;

/** A click handler: copies the code over which a copy button was pressed. */
export function copyCode(event) {
  const button = event.target.closest('.copy-code');
  if (!button) return;
  const text = button.closest('.code').querySelector('code').textContent;
  copyFrom(button, text.replace(/\n$/, ''));
}
