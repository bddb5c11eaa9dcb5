// The door of the page's scripts: each component of the page mounts itself from here.

export { mountEntry } from './entry.js';
export { mountLive, mountLog } from './log.js';
export { mountOutbox } from './outbox.js';
export { mountSidebar } from './sidebar.js';
