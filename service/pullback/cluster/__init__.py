"""Everything that imports Ray: the pool of actors, and drivers on a cluster.

Ray reads these settings when it is imported, so they stand before any import of it. A user's own settings win.
"""

import os

# Nodes on loopback: off Linux that is Ray's default, on Linux it would take the machine's address on the network. Not
# for a driver that was submitted to a cluster (`jobs.JOB_VARIABLE`), which has to be reached from other machines.
if "PULLBACK_JOB" not in os.environ:
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Who sets a token wants it to be used. Else a cluster's mode is the cluster's (its drivers inherit it), and that of a
# Ray of our own is set when it is started (`pool.local_ray`).
if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
    os.environ.setdefault("RAY_AUTH_MODE", "token")
