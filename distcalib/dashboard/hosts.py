"""Who is answered: requests that call this machine by one of its own names.

A page elsewhere whose name was made to lead here (DNS rebinding) sends that name as both host and origin, and
servers that only compare the two would let it in.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from bokeh.server.auth_provider import AuthProvider
from tornado.web import HTTPError


class KnownHosts(AuthProvider):
    """Refuses pages and web sockets asked for under another host; knows no users."""

    def __init__(self, hosts: Collection[str]) -> None:
        self.hosts = frozenset(hosts)
        super().__init__()

    @property
    def get_user(self) -> Callable[[Any], Any]:
        """What Bokeh asks before it answers: 403 where the host is none of ours."""

        def user(handler: Any) -> Any:
            if handler.request.host.lower() not in self.hosts:
                raise HTTPError(403, "this machine is not known by that name")
            return "anyone"

        return user

    @property
    def get_login_url(self) -> Callable[[Any], str]:
        """Bokeh wants one; nobody is sent there."""
        return lambda handler: "/"
