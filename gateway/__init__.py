"""Voice gateway: puts a speech-to-speech model on a telephone line."""

__version__ = "0.1.0"
