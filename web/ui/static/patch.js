// Brings elements up to date with new HTML by changing as little as possible, so that selections,
// scrolled boxes and the focus outlive it. The HTML must be safe: it is parsed as it is.

import { setAttribute } from './dom.js';

/** Make the children of `parent` from number `first` on show `htmls`, an element each. */
export function patch(parent, first, htmls) {
  htmls.forEach((html, i) => {
    const old = parent.children[first + i];
    if (old) become(old, parse(html));
    else parent.append(parse(html));
  });
  while (parent.children.length > first + htmls.length) parent.lastElementChild.remove();
}

function parse(html) {
  const template = document.createElement('template');
  template.innerHTML = html;
  return document.importNode(template.content.firstElementChild, true);
}

function become(old, fresh) {
  if (old.isEqualNode(fresh)) return;
  if (old.nodeName !== fresh.nodeName || old.nodeName === 'math') old.replaceWith(fresh);
  else if (old.nodeType === Node.TEXT_NODE) retext(old, fresh.data);
  else {
    copyAttributes(old, fresh);
    becomeChildren(old, [...fresh.childNodes]);
  }
}

function becomeChildren(old, fresh) {
  const before = [...old.childNodes];
  fresh.forEach((node, i) => (before[i] ? become(before[i], node) : old.append(node)));
  for (const extra of before.slice(fresh.length)) extra.remove();
}

// Text that has only grown is appended to: replacing it would drop a selection inside.
function retext(node, text) {
  if (text.startsWith(node.data)) node.appendData(text.slice(node.data.length));
  else node.data = text;
}

function copyAttributes(old, fresh) {
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name)) old.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) setAttribute(old, name, value);
}
