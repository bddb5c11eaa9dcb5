"""The LLaMA forward and what it is made of. Knows tensors; knows no prompt, chat or path."""
