"""Training LoRA adapters: chats through the one renderer, then transformers and peft."""
