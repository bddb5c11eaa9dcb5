// Light or dark: what the visitor has chosen in this browser, else what their system prefers. Gradio
// follows the system by itself, at the beginning and whenever it changes.

const KEY = 'linly-theme';
const SYSTEM = window.matchMedia('(prefers-color-scheme: dark)');

export function mountTheme() {
  apply();
  SYSTEM.addEventListener('change', apply); // after Gradio's listener, which came first
}

export function toggleTheme() {
  const dark = !document.body.classList.contains('dark');
  keep(dark ? 'dark' : 'light');
  document.body.classList.toggle('dark', dark);
}

function apply() {
  const chosen = kept();
  if (chosen) document.body.classList.toggle('dark', chosen === 'dark');
}

function kept() {
  try {
    return localStorage.getItem(KEY);
  } catch {
    return null;
  }
}

function keep(theme) {
  try {
    localStorage.setItem(KEY, theme);
  } catch {
    // A private window, or no room left: then it lasts until the next reload.
  }
}
