// Icons as line drawings of 24 × 24, and buttons with an icon.

import { h } from './dom.js';

const SVG = 'http://www.w3.org/2000/svg';
const PATHS = {
  copy: 'M9 9h11v11H9z M5 15H4V4h11v1',
  done: 'M4 12.5l5 5L20 6.5',
  edit: 'M4 20h4L19 9l-4-4L4 16z M13 7l4 4',
  again: 'M20 11a8 8 0 1 0-2.3 6.3 M20 4v7h-7',
  columns: 'M4 5h16v14H4z M12 5v14',
  before: 'M15 5l-7 7 7 7',
  after: 'M9 5l7 7-7 7',
  down: 'M12 5v14 M6 13l6 6 6-6',
  remove: 'M4 7h16 M9 7V4h6v3 M6 7l1 13h10l1-13 M10 11v5 M14 11v5',
  close: 'M6 6l12 12 M18 6L6 18',
  search: 'M10.5 4a6.5 6.5 0 1 1 0 13 6.5 6.5 0 0 1 0-13 M15.5 15.5L20 20',
  chat: 'M4 5h16v11H11l-5 4v-4H4z',
};

export function icon(name) {
  const svg = document.createElementNS(SVG, 'svg');
  const path = document.createElementNS(SVG, 'path');
  svg.setAttribute('viewBox', '0 0 24 24');
  svg.setAttribute('aria-hidden', 'true');
  svg.setAttribute('class', 'linly-icon');
  path.setAttribute('d', PATHS[name]);
  svg.append(path);
  return svg;
}

/** A button with only an icon: `label` is its accessible name and its tooltip. */
export function iconButton(name, label, onclick, attributes = {}) {
  const names = { type: 'button', class: 'linly-tool', 'aria-label': label, title: label };
  return h('button', { ...names, onclick, ...attributes }, icon(name));
}
