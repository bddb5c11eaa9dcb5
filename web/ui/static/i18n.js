// Texts of the page by key: `words()('copy')`. They come from `window.linlyWords`, which the server
// fills from translations/*/scripts.toml. `speak(language)` sets the language of everything that is
// drawn from now on.

import { setAttribute } from './dom.js';

const FALLBACK = 'en';
let spoken = FALLBACK;

export function speak(language) {
  spoken = language || FALLBACK;
  setAttribute(document.documentElement, 'lang', spoken); // for voices, fonts, ends of lines
  return spoken;
}

export const language = () => spoken;

/** The browser's language where the page has texts in it, else the first one. */
export function browserLanguage() {
  const tags = Object.keys(window.linlyWords ?? { [FALLBACK]: {} });
  const browser = navigator.language.toLowerCase();
  return tags.find((tag) => browser.startsWith(tag)) ?? tags[0];
}

/** A function from a key, and values for its {placeholders}, to a text. */
export function words(language = spoken) {
  const all = window.linlyWords ?? {};
  return (key, values = {}) => {
    const text = all[language]?.[key] ?? all[FALLBACK]?.[key] ?? key;
    return text.replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
  };
}
