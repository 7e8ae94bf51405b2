"""The simulator, judged by its clients and by the types of its events."""
