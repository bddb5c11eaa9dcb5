// Light or dark: the visitor's choice in this browser, else the system's preference, which Gradio
// follows by itself. This script is in the page's head and not a module (see `head_middleware.py`), so
// that nothing is drawn in the wrong theme first. The document's event `linly:theme` switches.
(() => {
  const KEY = 'linly-theme';
  let chosen = read();

  function read() {
    try {
      return localStorage.getItem(KEY);
    } catch {
      return null;
    }
  }

  function store(theme) {
    try {
      localStorage.setItem(KEY, theme);
    } catch {
      // A private window, or a full storage: the choice lasts until the next reload.
    }
  }

  function apply() {
    if (chosen) document.documentElement.dataset.theme = chosen;
    const dark = document.body.classList.contains('dark');
    if (chosen && dark !== (chosen === 'dark')) document.body.classList.toggle('dark');
  }

  function toggle() {
    chosen = document.body.classList.contains('dark') ? 'light' : 'dark';
    store(chosen);
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
