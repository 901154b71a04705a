"""The page for people, and who gets it."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
from aiohttp.test_utils import make_mocked_request
from hypothesis import given
from hypothesis import strategies as st

from sd_common.events import TaskResult
from sd_common.parameters import Img2ImgParameters, Txt2ImgParameters
from sd_gateway.http.picture_page import picture_page, problem_page, wants_html
from sd_gateway.http.problems import Problem, ProblemField
from support.html_references import References

_URL = "https://pictures.example/blob/abcdefghijklmnopqrstuvwx"
_BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"


class _Page(HTMLParser):
    """The tags of a page with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def tag_names(self) -> list[str]:
        return [name for name, _ in self.tags]


def _result(prompt: str, *, flagged: bool = False) -> TaskResult:
    parameters = Txt2ImgParameters(prompt=prompt, seed=42)
    return TaskResult(blob_url=_URL, parameters_used=parameters, nsfw_content_detected=flagged)


_HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onload='alert(1)",
    "</title></style><script>alert(1)</script>",
    "&lt;script&gt; &amp; &#60;",
    "$title $body ${body} $$ $",
    "<!-- --> ]]> \x00 \u2028",
]


@pytest.mark.parametrize("prompt", _HOSTILE)
def test_a_prompt_stays_text(prompt: str) -> None:
    page = picture_page(_result(prompt))
    parsed = _Page(page)
    assert parsed.tag_names == _Page(picture_page(_result("corgi"))).tag_names
    [image] = [attributes for name, attributes in parsed.tags if name == "img"]
    assert set(image) == {"src", "alt"}
    assert image["alt"] == prompt
    assert prompt in "".join(parsed.texts)


@given(st.text(max_size=50))
def test_no_prompt_at_all_adds_a_tag(prompt: str) -> None:
    assert _Page(picture_page(_result(prompt))).tag_names == _Page(picture_page(_result("corgi"))).tag_names


def test_other_texts_of_users_stay_text_too() -> None:
    parameters = Img2ImgParameters(prompt="a", negative_prompt=_HOSTILE[0], initial_image=_HOSTILE[1], seed=1)
    page = picture_page(TaskResult(blob_url=_URL, parameters_used=parameters))
    assert "<script" not in page
    assert "<img src=x" not in page


def test_the_picture_is_found_whatever_host_name_the_browser_came_by() -> None:
    parsed = _Page(picture_page(_result("corgi")))
    assert dict(parsed.tags)["img"]["src"] == "/blob/abcdefghijklmnopqrstuvwx"
    assert dict(parsed.tags)["a"]["href"] == "/blob/abcdefghijklmnopqrstuvwx"


@pytest.mark.parametrize("prompt", _HOSTILE)
def test_the_page_loads_its_style_and_its_picture_and_runs_nothing(prompt: str) -> None:
    references = References(picture_page(_result(prompt, flagged=True)))
    assert references.urls == ["/static/page.css", "/blob/abcdefghijklmnopqrstuvwx"]
    assert references.inline == []


def test_the_page_tells_the_parameters_used() -> None:
    texts = _Page(picture_page(_result("corgi"))).texts
    for name, value in (("seed", "42"), ("steps", "20"), ("width", "512"), ("scheduler", "plms")):
        assert texts[texts.index(name) + 1] == value
    assert "negative_prompt" not in texts


def test_the_page_says_that_a_picture_was_blacked_out() -> None:
    assert "blacked it out" in picture_page(_result("corgi", flagged=True))
    assert "blacked it out" not in picture_page(_result("corgi"))


@pytest.mark.parametrize("text", _HOSTILE)
def test_what_a_problem_tells_stays_text(text: str) -> None:
    fields = [ProblemField(field=text, detail=text)]
    for problem in (
        Problem(title="Not Found", status=404, detail=text),
        Problem(title="Unprocessable Entity", status=422, detail=text, errors=fields),
    ):
        parsed = _Page(problem_page(problem))
        assert set(parsed.tag_names) <= {
            "html",
            "head",
            "link",
            "meta",
            "title",
            "body",
            "h1",
            "p",
            "ul",
            "li",
            "strong",
        }
        assert text in "".join(parsed.texts)


@pytest.mark.parametrize(
    ("accept", "is_html"),
    [
        (None, False),
        ("", False),
        ("*/*", False),  # curl, and most HTTP libraries
        ("application/json", False),
        ("application/json, text/plain, */*", False),  # axios
        ("application/json, text/html", False),
        ("image/avif,image/webp,image/png,*/*;q=0.8", False),  # an <img> of a page
        ("text/*", False),
        ("application/xhtml+xml", False),
        ("text/html", True),
        ("TEXT/HTML", True),
        (_BROWSER, True),
        ("text/html;q=0.9, */*;q=0.1", True),
        ("text/html, application/json", True),
    ],
)
def test_browsers_get_the_page_and_programs_do_not(accept: str | None, is_html: bool) -> None:
    headers = {} if accept is None else {"Accept": accept}
    assert wants_html(make_mocked_request("GET", "/txt2img", headers=headers)) is is_html
