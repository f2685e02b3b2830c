"""Bill every call through LiteLLM against a Tokentill server.

litellm.callbacks = [TokentillLogger(feature_endpoint_id="chat")]
await litellm.acompletion(model="gpt-4.1", messages=messages, user="user-123")
"""

from tokentill_litellm.logger import TokentillLogger
from tokentill_litellm.version import __version__

__all__ = ["TokentillLogger", "__version__"]
