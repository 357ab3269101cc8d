"""Everything that imports Ray: the pool of actors, and drivers on a cluster.

Ray reads these settings when it is imported, so they are set before any import of it. A user's own settings win.
"""

import os

# Keep Ray's nodes on loopback. This is Ray's default except on Linux, where it uses the machine's network address. A
# driver that was submitted to a cluster (`submission.JOB_VARIABLE`) must be reachable from other machines instead.
if "PULLBACK_JOB" not in os.environ:
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# A user who sets a token wants it to be used. Otherwise the drivers on a cluster inherit the cluster's mode, and
# `pool.local_ray` sets the mode of a private Ray.
if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
    os.environ.setdefault("RAY_AUTH_MODE", "token")
