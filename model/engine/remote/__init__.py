"""The engine that forwards to vLLM, or another server with OpenAI's API and adapters as models."""

from model.engine.remote.engine import RemoteEngine
from model.engine.remote.server_state import TokenizerProbe

__all__ = ["RemoteEngine", "TokenizerProbe"]
