// Texts of the page by key: `translator()('copy')`. They come from `window.linlyTexts`, which the
// server fills from translations/*/scripts.toml. `setLanguage(language)` sets the language of
// everything that is drawn from now on.

import { setAttribute } from './dom.js';

const FALLBACK = 'en';
let current = FALLBACK;

export function setLanguage(language) {
  current = language || FALLBACK;
  setAttribute(document.documentElement, 'lang', current); // for voices, fonts and line breaks
}

export const language = () => current;

/** The browser's language if the page has texts in it, else the first one. */
export function browserLanguage() {
  const tags = Object.keys(window.linlyTexts ?? { [FALLBACK]: {} });
  const browser = navigator.language.toLowerCase();
  return tags.find((tag) => browser.startsWith(tag)) ?? tags[0];
}

/** Returns a function from a key, and values for its {placeholders}, to a text. */
export function translator() {
  const all = window.linlyTexts ?? {};
  return (key, values = {}) => {
    const text = all[current]?.[key] ?? all[FALLBACK]?.[key] ?? key;
    return text.replace(/\{(\w+)\}/g, (placeholder, name) => values[name] ?? placeholder);
  };
}
