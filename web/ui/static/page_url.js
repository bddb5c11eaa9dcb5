// Keeps the page's address at the shown chat: ?chat=<id>, and nothing for a new chat.

export function updateAddress({ chat }) {
  const url = new URL(location.href);
  if (url.searchParams.get('chat') === chat) return;
  if (chat) url.searchParams.set('chat', chat);
  else url.searchParams.delete('chat');
  history.replaceState(history.state, '', url);
}
