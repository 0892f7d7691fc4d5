from __future__ import annotations

from tests.core.remote_hosts import proxy, server, url

__all__ = ["proxy", "server", "url"]
