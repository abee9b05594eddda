"""The page on which people read of the API and try it. All of it comes from here: no other host is asked or trusted."""

from __future__ import annotations

import base64
import hashlib
import re
from importlib.resources import files

from fastapi import APIRouter, FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.responses import FileResponse, HTMLResponse, Response

PAGE = "/docs"
SCRIPT, STYLE, ICON = (f"{PAGE}/{name}" for name in ("swagger-ui-bundle.js", "swagger-ui.css", "favicon.png"))
OPEN = frozenset({PAGE, SCRIPT, STYLE, ICON})
"""What a browser asks for without a key."""
_SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)


def router(app: FastAPI) -> APIRouter:
    """Return the routes of the page and of what it loads."""
    routes = APIRouter(include_in_schema=False)
    page = get_swagger_ui_html(
        openapi_url=app.openapi_url or "",
        title=f"{app.title}: the API",
        swagger_js_url=SCRIPT,
        swagger_css_url=STYLE,
        swagger_favicon_url=ICON,
    )
    headers = {"Content-Security-Policy": _policy(bytes(page.body).decode()), "X-Frame-Options": "DENY"}

    @routes.get(PAGE)
    async def shown() -> HTMLResponse:
        return HTMLResponse(page.body, headers=headers)

    for path in (SCRIPT, STYLE, ICON):
        _serve(routes, path)
    return routes


def _serve(routes: APIRouter, path: str) -> None:
    place = str(files("fastapi_offline") / "static" / path.removeprefix(f"{PAGE}/"))

    @routes.get(path)
    async def asset() -> Response:
        return FileResponse(place, headers={"X-Content-Type-Options": "nosniff", "Cache-Control": "max-age=3600"})


def _policy(page: str) -> str:
    """Return what the page may load: a key is typed into it, so no script but ours and nothing from elsewhere."""
    hashes = (base64.b64encode(hashlib.sha256(one.encode()).digest()).decode() for one in _SCRIPT.findall(page))
    scripts = " ".join(f"'sha256-{one}'" for one in hashes)
    return (
        f"default-src 'none'; script-src 'self' {scripts}; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
