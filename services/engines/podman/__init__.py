"""The podman engine: Kubernetes Pods, played by podman's own service over its REST API."""
