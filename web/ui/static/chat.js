// The entry point of the page's scripts: each component of the page mounts itself from here. The stream
// starts once log, side bar and controls are mounted.

import { mountActions } from './actions.js';
import { forgetOrders, mountControls, setLoadedChat, updateControls } from './controls.js';
import { mountMessageBox } from './message_box.js';
import { browserLanguage } from './i18n.js';
import * as log from './chat_log.js';
import * as sidebar from './sidebar.js';
import { storedLanguage } from './browser_storage.js';
import { onEvent, start } from './stream.js';
import { toast } from './toast.js';

export { mountUpload } from './upload.js';

const unmounted = new Set(['log', 'sidebar', 'page']);

function onMounted(part) {
  unmounted.delete(part);
  if (!unmounted.size) start(preferredLanguage);
}

export function mountLog(element) {
  log.mountLog(element);
  onMounted('log');
}

export function mountSidebar(element) {
  sidebar.mountSidebar(element);
  onMounted('sidebar');
}

export function mountPage(_, trigger) {
  mountControls(trigger);
  mountActions();
  mountMessageBox();
  onEvent('tab', forgetOrders);
  onEvent('controls', updateControls);
  onEvent('loaded_chat', setLoadedChat);
  onEvent('say', (sentence) => toast(sentence));
  onMounted('page');
}

// The visitor's own choice, else the browser's language.
const preferredLanguage = () => storedLanguage() ?? browserLanguage();
