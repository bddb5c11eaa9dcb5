// Keeps the page's address at the chat that is shown: ?chat=<id>, and without it for a new one.

export function keepAddress({ chat }) {
  const url = new URL(location.href);
  if (url.searchParams.get('chat') === chat) return;
  if (chat) url.searchParams.set('chat', chat);
  else url.searchParams.delete('chat');
  history.replaceState(history.state, '', url);
}
