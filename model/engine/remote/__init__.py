"""The engine that forwards to vLLM, or another server with OpenAI's API and adapters as models."""

from model.engine.remote.connection import TokenizerProbe
from model.engine.remote.engine import RemoteEngine

__all__ = ["RemoteEngine", "TokenizerProbe"]
