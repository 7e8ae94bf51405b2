"""What holds for every test."""

from hypothesis import settings

# These run on shared machines: how long an example takes says nothing about the code.
settings.register_profile("gateway", deadline=None)
settings.load_profile("gateway")
