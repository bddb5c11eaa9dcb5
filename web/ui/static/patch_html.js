// Updates elements to new HTML with as few changes as possible, so that selections, scrolled boxes and
// the focus stay. The HTML must be safe: it is parsed as it is.

import { setAttribute } from './dom.js';

/** Replace the children of `parent` from number `first` on by `htmls`, an element each. */
export function patch(parent, first, htmls) {
  // A copy: after each change, a browser counts `children` from the beginning.
  const before = [...parent.children].slice(first);
  htmls.forEach((html, i) => (before[i] ? update(before[i], parse(html)) : parent.append(parse(html))));
  for (const extra of before.slice(htmls.length)) extra.remove();
}

function parse(html) {
  const template = document.createElement('template');
  template.innerHTML = html;
  return document.importNode(template.content.firstElementChild, true);
}

function update(old, fresh) {
  if (old.isEqualNode(fresh)) return;
  if (old.nodeName !== fresh.nodeName || old.nodeName === 'math') old.replaceWith(fresh);
  else if (old.nodeType === Node.TEXT_NODE) updateText(old, fresh.data);
  else {
    copyAttributes(old, fresh);
    updateChildren(old, [...fresh.childNodes]);
  }
}

function updateChildren(old, fresh) {
  const before = [...old.childNodes];
  fresh.forEach((node, i) => (before[i] ? update(before[i], node) : old.append(node)));
  for (const extra of before.slice(fresh.length)) extra.remove();
}

// If the text has only grown, the added part is appended: replacing it would drop a selection inside.
function updateText(node, text) {
  if (text.startsWith(node.data)) node.appendData(text.slice(node.data.length));
  else node.data = text;
}

function copyAttributes(old, fresh) {
  for (const { name } of [...old.attributes]) {
    // The reader opens and closes details.
    if (!fresh.hasAttribute(name) && name !== 'open') old.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) setAttribute(old, name, value);
}
