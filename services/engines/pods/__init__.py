"""Kubernetes Pods on any container backend: what they mean, and how they are kept alive; knows no engine."""
