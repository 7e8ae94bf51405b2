"""The tests; each file proves the module of its name."""
