"""beectl: the node from a shell, by nothing but its contract."""
