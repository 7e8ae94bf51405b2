"""Real phone calls: a SIP phone, an Asterisk and the gateway behind it."""
