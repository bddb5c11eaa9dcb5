"""Serving a fine-tuned LLaMA-family model: folders, weights, prompts, adapters and the engine.

The one door for the outside is `model.serving.manager.ModelManager`.
"""
