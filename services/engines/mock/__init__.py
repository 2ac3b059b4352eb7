"""The mock engine: runs nothing, keeps its word on everything, and fails on request."""
