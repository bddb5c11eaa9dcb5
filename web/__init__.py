"""What the outside sees: the page, the OpenAI-compatible API, /health, and the public link."""
