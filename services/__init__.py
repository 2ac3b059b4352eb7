"""Everything that runs: the services of a node, and the packages they share."""

import os

# Who forks here executes another program at once. gRPC's own preparations for a fork wait for its threads, now and then
# for ever, and the process then answers nobody. It must be said before gRPC is loaded.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
