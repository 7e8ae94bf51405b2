"""Every fault of the public case list, put to a real gateway."""
