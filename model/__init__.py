"""Serves a model of the LLaMA family: folders, weights, prompts, adapters and the engine.

Other packages use it through `model.serving.manager.ModelManager`.
"""
