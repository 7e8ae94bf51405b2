"""Where tests find the comparison of recordings."""

from gateway.audio.compare import correlation_per_second

__all__ = ["correlation_per_second"]
