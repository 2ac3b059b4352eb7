"""Kubernetes Pods on docker: containers that share what one small container holds, made by docker's API."""
