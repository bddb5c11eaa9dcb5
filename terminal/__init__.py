"""The terminal program: a chat, and files of questions that are answered in batches."""
