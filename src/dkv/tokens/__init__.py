"""Text, conversations and token ids, from a checkpoint's own files. No remote code.

files.py reads them, specification.py makes one tokenizer.json of them, bytelevel.py where none is published; formats.py
holds the chat formats of the families, chat.py renders conversations, tokenizer.py turns all of it into ids.
"""

from dkv.tokens.chat import Conversation, is_conversation
from dkv.tokens.files import TOKENIZER_FILES
from dkv.tokens.formats import TURN_ENDS
from dkv.tokens.specification import added_tokens
from dkv.tokens.tokenizer import Tokenizer, load_tokenizer

__all__ = [
    "TOKENIZER_FILES",
    "TURN_ENDS",
    "Conversation",
    "Tokenizer",
    "added_tokens",
    "is_conversation",
    "load_tokenizer",
]
