"""The page that a person sees who opens `/txt2img?...` in a browser."""

from __future__ import annotations

import html
from string import Template
from urllib.parse import urlsplit

from aiohttp import web

from sd_common.events import TaskResult
from sd_gateway.http.problems import Problem

_PAGE = Template("""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="stylesheet" href="/static/page.css">
<title>$title</title>
</head>
<body>
$body
</body>
</html>
""")


def wants_html(request: web.Request) -> bool:
    """Whether the request is a browser's: it names `text/html` and puts nothing else that we have before it."""
    accepted = [part.split(";")[0].strip().lower() for part in request.headers.get("Accept", "").split(",")]
    if "text/html" not in accepted:
        return False
    return "application/json" not in accepted[: accepted.index("text/html")]


def picture_page(result: TaskResult) -> str:
    """The picture, and the parameters used."""
    parameters = result.parameters_used.model_dump()
    # The path alone: it works whatever host name the browser came by.
    source = html.escape(urlsplit(result.blob_url).path, quote=True)
    prompt = html.escape(result.parameters_used.prompt, quote=True)
    note = "<p>The safety checker flagged this picture and blacked it out.</p>" if result.nsfw_content_detected else ""
    rows = "\n".join(_row(name, value) for name, value in parameters.items() if value is not None)
    body = f'<a href="{source}"><img src="{source}" alt="{prompt}"></a>\n{note}<table>\n{rows}\n</table>'
    return _PAGE.substitute(title=prompt or "Picture", body=body)


def problem_page(problem: Problem) -> str:
    """What went wrong."""
    items = "".join(
        f"<li><strong>{html.escape(entry.field)}</strong>: {html.escape(entry.detail)}</li>"
        for entry in problem.errors or ()
    )
    told = f"<ul>{items}</ul>" if items else f"<p>{html.escape(problem.detail)}</p>"
    title = html.escape(f"{problem.status} {problem.title}")
    return _PAGE.substitute(title=title, body=f"<h1>{title}</h1>\n{told}")


def _row(name: str, value: object) -> str:
    return f"<tr><th>{html.escape(name)}</th><td>{html.escape(str(value))}</td></tr>"
