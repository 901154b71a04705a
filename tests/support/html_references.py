"""What a page loads, and what it has of its own that a content security policy would have to forbid."""

from __future__ import annotations

from html.parser import HTMLParser


class References(HTMLParser):
    """A page, parsed: `urls` that it loads, and its `inline` scripts and styles."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.urls: list[str] = []
        self.inline: list[str] = []
        self._tag = ""
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._tag = tag
        for name, value in attrs:
            if (tag in ("script", "img") and name == "src") or (tag == "link" and name == "href"):
                self.urls.append(value or "")
            if name == "style" or name.startswith("on") or (value or "").lower().startswith(("javascript:", "data:")):
                self.inline.append(f"{tag} {name}")

    def handle_endtag(self, tag: str) -> None:
        self._tag = ""

    def handle_data(self, data: str) -> None:
        if self._tag in ("script", "style") and data.strip():
            self.inline.append(self._tag)
