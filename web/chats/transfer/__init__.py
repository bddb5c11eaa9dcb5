"""Files of chats: export and import."""
