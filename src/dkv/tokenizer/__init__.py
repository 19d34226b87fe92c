"""Text, conversations and token ids, from a checkpoint's own files. No remote code.

files.py reads them, specification.py makes one tokenizer.json of them, bytelevel.py where none is published; formats.py
holds the chat formats of the families, chat.py renders conversations, tokenizer.py turns all of it into ids.
"""

from dkv.tokenizer.chat import Conversation, is_conversation
from dkv.tokenizer.chat_formats import TURN_ENDS
from dkv.tokenizer.tokenizer import Tokenizer, load_tokenizer
from dkv.tokenizer.tokenizer_files import TOKENIZER_FILES
from dkv.tokenizer.tokenizer_json import added_tokens

__all__ = [
    "TOKENIZER_FILES",
    "TURN_ENDS",
    "Conversation",
    "Tokenizer",
    "added_tokens",
    "is_conversation",
    "load_tokenizer",
]
