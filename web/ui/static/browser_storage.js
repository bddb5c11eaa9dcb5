// Texts that this browser stores over a reload. If storage is off or full, nothing is stored.

const PREFIX = 'linly.';
const LANGUAGE = 'linly-language';

export const readText = (key) => read(PREFIX + key);

/** Store a text; null removes it. */
export const storeText = (key, text) => write(PREFIX + key, text);

export const storedLanguage = () => read(LANGUAGE);

export const storeLanguage = (language) => write(LANGUAGE, language);

function read(key) {
  try {
    return localStorage.getItem(key);
  } catch {
    return null;
  }
}

function write(key, text) {
  try {
    if (text === null) localStorage.removeItem(key);
    else localStorage.setItem(key, text);
  } catch {
    // A private window, or a full storage: the page works without.
  }
}
