"""Everything that runs: the services of a node, and the packages they share."""
