"""Tests of the line to the model."""
