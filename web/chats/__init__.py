"""Chats that are stored: a tree of messages for each chat, and the replies in the making."""
