"""Which engines this node has, which are usable now, and which is the default."""
