"""Services ended by `kill -9` at named points, started again, and what must hold then."""
