"""Text and token ids: tokenizers, prompt templates, chats."""
