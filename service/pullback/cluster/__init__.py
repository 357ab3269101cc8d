"""Everything that imports Ray: the pool of actors.

Ray reads these settings when it is imported, so they stand before any import of it. A user's own settings win.
"""

import os

# Nodes on loopback: off Linux that is Ray's default, on Linux it would take the machine's address on the network.
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
# Explicit, since Ray's default has changed between versions; nothing listens beyond loopback.
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
