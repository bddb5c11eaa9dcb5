// Light or dark: what the visitor has chosen in this browser, else what their system prefers. Gradio
// follows the system by itself; here its word is changed where it is not the visitor's. This is in
// the page's head and no module (see `early.py`), so that nothing is drawn in the wrong one first.
// `linly:theme` on the document turns to the other.
(() => {
  const KEY = 'linly-theme';
  let chosen = kept();

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

  function apply() {
    if (chosen) document.documentElement.dataset.theme = chosen;
    const dark = document.body.classList.contains('dark');
    if (chosen && dark !== (chosen === 'dark')) document.body.classList.toggle('dark');
  }

  function toggle() {
    chosen = document.body.classList.contains('dark') ? 'light' : 'dark';
    keep(chosen);
    apply();
  }

  function watch() {
    apply();
    new MutationObserver(apply).observe(document.body, { attributeFilter: ['class'] });
  }

  const waiting = new MutationObserver(() => {
    if (!document.body) return;
    waiting.disconnect();
    watch();
  });
  waiting.observe(document.documentElement, { childList: true });
  document.addEventListener('linly:theme', toggle);
})();
