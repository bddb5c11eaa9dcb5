"""The LLaMA forward and its parts. Works on tensors; knows no prompt, chat or path."""
