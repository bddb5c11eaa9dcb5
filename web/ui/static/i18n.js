// Texts of the page by key: `words()('copy')`. They come from `window.linlyWords`, which the server
// fills from i18n.json. `speak(language)` says which language everything is drawn in from now on.

import { setAttribute } from './dom.js';

const FALLBACK = 'en';
let spoken = FALLBACK;

export function speak(language) {
  spoken = language || FALLBACK;
  setAttribute(document.documentElement, 'lang', spoken); // for voices, fonts, ends of lines
  return spoken;
}

export const language = () => spoken;

/** A function from a key, and values for its {placeholders}, to a text. */
export function words(language = spoken) {
  const all = window.linlyWords ?? {};
  return (key, values = {}) => {
    const text = all[language]?.[key] ?? all[FALLBACK]?.[key] ?? key;
    return text.replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
  };
}
