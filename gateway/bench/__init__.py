"""How many calls one core carries: a load of callers and models, and what a gateway makes of it."""
