"""Runs Compose projects through the Compose binary; knows Compose, and no engine."""
