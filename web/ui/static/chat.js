// The door of the page's scripts: each component of the page mounts itself from here, and the stream
// begins once all have that are there from the beginning.

import { mountActions } from './actions.js';
import { fill, mountControls, update } from './controls.js';
import { mountEntry } from './message_box.js';
import { browserLanguage } from './i18n.js';
import * as log from './log.js';
import * as sidebar from './sidebar.js';
import { keptLanguage } from './store.js';
import { begin, onEvent } from './stream.js';
import { toast } from './toast.js';

export { mountUpload } from './upload.js';

const missing = new Set(['log', 'sidebar', 'page']);

function mounted(part) {
  missing.delete(part);
  if (!missing.size) begin(language);
}

export function mountLog(element) {
  log.mountLog(element);
  mounted('log');
}

export function mountSidebar(element) {
  sidebar.mountSidebar(element);
  mounted('sidebar');
}

export function mountPage(_, trigger) {
  mountControls(trigger);
  mountActions();
  mountEntry();
  onEvent('controls', update);
  onEvent('loaded_chat', fill);
  onEvent('say', (sentence) => toast(sentence));
  mounted('page');
}

// The visitor's own choice, else the browser's language.
const language = () => keptLanguage() ?? browserLanguage();
