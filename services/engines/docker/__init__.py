"""The docker engine: Compose projects on docker."""
