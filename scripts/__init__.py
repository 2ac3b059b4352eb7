"""What developers run: the demo, the test image, a node for tests."""
