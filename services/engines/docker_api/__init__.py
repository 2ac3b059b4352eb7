"""Docker's API as docker itself and podman's service speak it: calls, streams, and what they tell. Knows no engine."""
