"""Tests of the load that measures gateways."""
