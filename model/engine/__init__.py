"""Turns token ids into replies, many sequences at once. Knows no template, chat or path."""
