"""An engine elsewhere: vLLM, or another server with OpenAI's API and adapters as models."""

from model.engine.remote.engine import RemoteEngine
from model.engine.remote.probe import TokenizerProbe

__all__ = ["RemoteEngine", "TokenizerProbe"]
