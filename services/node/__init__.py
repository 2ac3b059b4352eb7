"""Every service of a node on one machine: started, kept running, stopped in order, and gone when the supervisor is."""
