"""The terminal's way to the model manager: a chat, and files of questions answered in batches."""
