"""For the tests of services that bill with Tokentill: a server in memory, and a pytest fixture of it.

def test_a_chat_is_billed(tokentill_memory):
    tokentill_memory.add_feature("chat")
    tokentill_memory.add_wallet("user-1", 1_000)
    ...
    assert tokentill_memory.ends[0].output_token == 40
"""

from tokentill.testing.memory import MemoryCall, MemoryHold, MemoryTokentill
from tokentill.testing.state import MemoryEnd

__all__ = ["MemoryCall", "MemoryEnd", "MemoryHold", "MemoryTokentill"]
