"""Recorded calls that every version of the gateway has to play the same way."""
