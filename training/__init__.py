"""Trains LoRA adapters on chats, with transformers and peft."""
