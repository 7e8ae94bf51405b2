"""What a frame costs; `make bench` runs these, `make test` does not."""
