"""Who may look at the studio's pages, what a click must carry and what a page may load, beside the guards of `serve`.

Every page and call asks for the password where there is one. What changes something needs a header that no other site
can send without asking, beside serve's check of Host and Origin. Pages load from here alone, without inline script; a
report runs in a sandbox of its own.

    app.add_middleware(Gate, access=Access())
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from llava_finetune.serve.guards import Access, Receive, Scope, Send, refuse

CLICK = "x-studio"
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "frame-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
REPORT_POLICY = (
    "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:; "
    "frame-ancestors 'self'"
)


class Gate:
    """ASGI middleware outside of serve's Guard."""

    def __init__(self, app: Any, access: Access) -> None:
        self.app, self.access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in scope["headers"]}
        policy = REPORT_POLICY if scope["path"].startswith(("/report/", "/learned")) else PAGE_POLICY

        async def with_policy(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                kept = [pair for pair in message.get("headers", []) if pair[0].lower() != b"content-security-policy"]
                own = [
                    (b"content-security-policy", policy.encode()),
                    (b"cross-origin-resource-policy", b"same-origin"),
                ]
                if message["status"] == 401:
                    kept = [pair for pair in kept if pair[0].lower() != b"www-authenticate"]
                    own.append((b"www-authenticate", b'Basic realm="llava-finetune studio", charset="UTF-8"'))
                message = {**message, "headers": [*kept, *own]}
            await send(message)

        if self.access.password and not self.access.admits(headers.get("authorization", "")):
            await refuse(with_policy, 401, "authentication_error", "user and password are needed")
        elif scope["method"] not in ("GET", "HEAD") and CLICK not in headers:
            await refuse(with_policy, 403, "forbidden", f"a change needs the header {CLICK}, which this page sends")
        else:
            await self.app(scope, receive, with_policy)
