// Makes and arranges elements. Strings become text, never markup.

/** h('button', {class: 'x', onclick: f}, 'text', child); null, undefined and false are left out. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) set(element, name, value);
  element.append(...children.flat().filter(given));
  return element;
}

function set(element, name, value) {
  if (typeof value === 'function') element.addEventListener(name.slice(2), value);
  else if (given(value)) element.setAttribute(name, value === true ? '' : value);
}

/** Give an attribute this value. The same one again would have the browser style it again. */
export function setAttribute(element, name, value) {
  if (element && element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}

const given = (value) => value !== null && value !== undefined && value !== false;

/** Make `nodes` the children of `parent`, moving only those that are not in their place. */
export function arrange(parent, nodes) {
  const wanted = new Set(nodes);
  for (const child of [...parent.children]) if (!wanted.has(child)) child.remove();
  let next = null;
  for (const node of [...nodes].reverse()) {
    if (node.parentNode !== parent || node.nextSibling !== next) parent.insertBefore(node, next);
    next = node;
  }
}

/** Change the document; whatever had the focus, and its selection, has it afterwards too. */
export function keepingFocus(change) {
  const focused = document.activeElement;
  const [start, end] = [focused?.selectionStart, focused?.selectionEnd];
  change();
  if (document.activeElement === focused || !focused?.isConnected) return;
  focused.focus({ preventScroll: true });
  if (typeof start === 'number') focused.setSelectionRange(start, end);
}

const drawn = new WeakMap();

/** Fill `slot` with `draw(data)`, if `data` is not what it was filled from before. */
export function refresh(slot, data, draw) {
  const key = JSON.stringify(data);
  if (drawn.get(slot) === key) return;
  drawn.set(slot, key);
  slot.replaceChildren(...[draw(data)].flat().filter(Boolean));
}

/** The first element that matches, as soon as there is one. */
export function whenThere(selector) {
  return new Promise((resolve) => {
    const look = () => {
      const found = document.querySelector(selector);
      if (!found) return;
      observer.disconnect();
      resolve(found);
    };
    const observer = new MutationObserver(look);
    observer.observe(document.documentElement, { childList: true, subtree: true });
    look();
  });
}

/** Whether a key belongs to an input method that is composing. Safari tells by the code alone. */
export const composing = (event) => event.isComposing || event.keyCode === 229;
