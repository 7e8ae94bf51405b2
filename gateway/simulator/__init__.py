"""Stand-ins for the two far ends of a call: the model API; the telephone provider."""
