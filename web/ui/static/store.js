// What this browser keeps over a reload. Where storage is off or full, nothing is kept.

const PREFIX = 'linly.';

export function kept(key) {
  try {
    return localStorage.getItem(PREFIX + key);
  } catch {
    return null;
  }
}

const LANGUAGE = 'linly-language';

export function keptLanguage() {
  try {
    return localStorage.getItem(LANGUAGE);
  } catch {
    return null;
  }
}

export function keepLanguage(language) {
  try {
    localStorage.setItem(LANGUAGE, language);
  } catch {
    // As below.
  }
}

/** Keep a text; null removes it. */
export function keep(key, text) {
  try {
    if (text === null) localStorage.removeItem(PREFIX + key);
    else localStorage.setItem(PREFIX + key, text);
  } catch {
    // A private window, or no room left: the page works without.
  }
}
