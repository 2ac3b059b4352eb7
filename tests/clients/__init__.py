"""Clients of a node in other languages, made from the contract alone, and what they see of it."""
