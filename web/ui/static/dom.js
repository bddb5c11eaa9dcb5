// Creates and arranges elements. Strings become text, never markup.

/** h('button', {class: 'x', onclick: f}, 'text', child); null, undefined and false are left out. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) set(element, name, value);
  element.append(...children.flat().filter(isPresent));
  return element;
}

function set(element, name, value) {
  if (typeof value === 'function') element.addEventListener(name.slice(2), value);
  else if (isPresent(value)) element.setAttribute(name, value === true ? '' : value);
}

/** Set an attribute, unless it has this value: that would make the browser restyle the element. */
export function setAttribute(element, name, value) {
  if (element && element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}

const isPresent = (value) => value !== null && value !== undefined && value !== false;

/** Make `nodes` the children of `parent`, moving only nodes that are not in their place. */
export function arrange(parent, nodes) {
  const children = new Set(nodes);
  for (const child of [...parent.children]) if (!children.has(child)) child.remove();
  let next = null;
  for (const node of [...nodes].reverse()) {
    if (node.parentNode !== parent || node.nextSibling !== next) parent.insertBefore(node, next);
    next = node;
  }
}

/** Change the document, and restore the focused element and its selection afterwards. */
export function keepingFocus(change) {
  const focused = document.activeElement;
  const [start, end] = [focused?.selectionStart, focused?.selectionEnd];
  change();
  if (document.activeElement === focused || !focused?.isConnected) return;
  focused.focus({ preventScroll: true });
  if (typeof start === 'number') focused.setSelectionRange(start, end);
}

const drawnKeys = new WeakMap(); // slot → JSON of the data that it shows

/** Fill `slot` with `draw(data)`, if `data` has changed since the last time. */
export function refresh(slot, data, draw) {
  const key = JSON.stringify(data);
  if (drawnKeys.get(slot) === key) return;
  drawnKeys.set(slot, key);
  slot.replaceChildren(...[draw(data)].flat().filter(Boolean));
}

/** Resolves to the first element that matches, as soon as there is one. */
export function whenPresent(selector) {
  return new Promise((resolve) => {
    const check = () => {
      const found = document.querySelector(selector);
      if (!found) return;
      observer.disconnect();
      resolve(found);
    };
    const observer = new MutationObserver(check);
    observer.observe(document.documentElement, { childList: true, subtree: true });
    check();
  });
}

/** Whether a key belongs to an input method that is composing. In Safari only its code shows that. */
export const composing = (event) => event.isComposing || event.keyCode === 229;
