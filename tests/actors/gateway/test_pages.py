"""The page's files at the port: who gets them, with what headers, and that nothing else is ever read."""

from __future__ import annotations

import re
from importlib import resources

import pytest

from actors.gateway import pages
from tests.actors.gateway.fakes import TOKEN, serve
from tests.actors.gateway.test_http import BEARER, Browser, browser

FOLDER = resources.files("actors.gateway").joinpath("page")
NAMES = sorted(item.name for item in FOLDER.iterdir())
HTML = "Accept: text/html,application/xhtml+xml"


def policy(text: str) -> dict[str, list[str]]:
    """A Content-Security-Policy by directive."""
    directives = [directive.split() for directive in text.split(";")]
    assert len({name for name, *_ in directives}) == len(directives), "a directive stands twice: the second is ignored"
    return {name: values for name, *values in directives}


# ------------------------------------------------------------------ what is served
async def test_every_file_of_the_folder_is_served_as_it_is() -> None:
    kinds = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
    async with serve() as served:
        page = await browser(served)
        async with page.stream:
            for name in NAMES:
                response = await page.get("/" if name == "index.html" else f"/{name}", BEARER)
                if name == "signin.html":
                    assert response.status == 404
                    continue
                assert (response.status, response.body) == (200, FOLDER.joinpath(name).read_bytes()), name
                kind = response.headers["content-type"]
                assert kind.startswith(kinds.get(name.rpartition(".")[2], "image/")), name
                assert response.headers["x-content-type-options"] == "nosniff"
                assert response.headers["referrer-policy"] == "no-referrer"
                assert response.headers["cache-control"] == "no-cache"
                assert response.headers["cross-origin-opener-policy"] == "same-origin"
                assert response.headers["cross-origin-resource-policy"] == "same-origin"


def test_the_folder_is_small_and_every_file_in_it_is_served() -> None:
    assert set(pages.files()) == set(NAMES)
    assert sum(len(file.body) for file in pages.files().values()) <= pages.PAGE_BYTES


@pytest.mark.parametrize(
    "path",
    [
        "/index.html",
        "/signin.html",
        "/pages.py",
        "/../pages.py",
        "/page/signin.html",
        "/./signin.html",
        "//signin.html",
        "/signin.html/",
        "/%73ignin.html",
        "/signin.html%00",
        "/..%2fpages.py",
        "/etc/passwd",
        "/\\..\\pages.py",
        "/SIGNIN.HTML",
    ],
)
async def test_no_other_path_is_a_file(path: str) -> None:
    async with serve() as served:
        page = await browser(served)
        async with page.stream:
            assert (await page.get(path, BEARER)).status == 404
            assert (await page.get("/healthz")).status == 200


@pytest.mark.parametrize(
    ("name", "served"),
    [
        ("app.js", True),
        ("a-b_2.webmanifest", True),
        ("app.min.js", False),
        (".hidden.js", False),
        ("App.js", False),
        ("app.py", False),
        ("app", False),
        ("__init__.py", False),
        ("a/b.js", False),
    ],
)
def test_names_that_are_served(name: str, served: bool) -> None:
    assert (pages._ending(name) is not None) == served


# ------------------------------------------------------------------ who gets them
async def test_a_browser_without_the_token_is_told_how_to_get_in() -> None:
    async with serve() as served:
        page = await browser(served)
        async with page.stream:
            for path in ("/", "/?token=wrong"):
                response = await page.get(path, HTML)
                assert response.status == 401 and response.headers["content-type"].startswith("text/html")
                assert response.headers["www-authenticate"] == "Bearer"
                assert response.headers["cache-control"] == "no-store"
                assert b"greenroom page" in response.body
                assert policy(response.headers["content-security-policy"]) == {
                    "default-src": ["'none'"],
                    "base-uri": ["'none'"],
                    "frame-ancestors": ["'none'"],
                    "form-action": ["'self'"],
                }
                assert TOKEN.encode() not in response.body
            # Programs get a line of text.
            assert (await page.get("/")).headers["content-type"].startswith("text/plain")


async def test_the_form_of_the_sign_in_page_signs_in() -> None:
    async with serve() as served:
        page = await browser(served)
        async with page.stream:
            body = (await page.get("/", HTML)).body.decode()
            assert re.findall(r"<form ([^>]*)>", body) == ['method="get" action="/"']
            assert re.findall(r'<input [^>]*name="(\w+)"', body) == ["token"]
            response = await page.get(f"/?token={TOKEN}", HTML)
            assert (response.status, response.headers["location"]) == (303, "/")


async def test_files_need_the_token_too() -> None:
    async with serve() as served:
        page = await browser(served)
        async with page.stream:
            for name in set(NAMES) - {"index.html", "signin.html"}:
                assert (await page.get(f"/{name}", HTML)).status == 401
                assert (await page.get(f"/{name}?token={TOKEN}", HTML)).status == 401
                assert (await page.get(f"/{name}", BEARER, method="POST")).status == 405
                assert (await page.get(f"/{name}", BEARER, host="evil.example")).status == 403


# ------------------------------------------------------------------ headers
async def test_the_policy_of_the_page() -> None:
    async with serve() as served:
        page = await browser(served)
        async with page.stream:
            response = await page.get("/", BEARER)
            assert policy(response.headers["content-security-policy"]) == {
                "default-src": ["'none'"],
                "base-uri": ["'none'"],
                "form-action": ["'none'"],
                "frame-ancestors": ["'none'"],
                "script-src": ["'self'"],
                "style-src": ["'self'"],
                "img-src": ["'self'", "blob:"],
                "manifest-src": ["'self'"],
                "connect-src": ["'self'", f"ws://{served.host}"],
                "require-trusted-types-for": ["'script'"],
                "trusted-types": ["greenroom"],
            }


@pytest.mark.parametrize(
    ("host", "secure", "source"),
    [
        (b"localhost:8765", False, b" ws://localhost:8765"),
        (b"Green.example", True, b" wss://Green.example"),
        (b"[::1]:8765", False, b""),
        (b"::1", False, b""),
    ],
)
def test_the_socket_is_named_for_browsers_that_need_it(host: bytes, secure: bool, source: bytes) -> None:
    (name, value) = pages.guards(pages.files()["signin.html"], [(b"host", host)], secure=secure)[-1]
    assert name == b"content-security-policy"
    assert value.endswith(b"; connect-src 'self'" + source)


async def test_what_a_browser_has_is_not_sent_again() -> None:
    async with serve() as served:
        page = await browser(served)
        async with page.stream:
            first = await page.get("/", BEARER)
            tag = first.headers["etag"]
            for given in (tag, f"W/{tag}", f'"other", {tag}', "*"):
                # Read as one without a body: a byte of one would stand before the next answer.
                again = await page.get("/", BEARER, f"If-None-Match: {given}")
                assert (again.status, again.headers["etag"]) == (304, tag), given
                assert "content-length" not in again.headers
                assert "content-security-policy" in again.headers
            assert (await page.get("/", BEARER, 'If-None-Match: "other"')).body == first.body
            assert (await page.get("/", f"If-None-Match: {tag}")).status == 401
            head = await page.get("/", BEARER, method="HEAD")
            assert int(head.headers["content-length"]) == len(first.body)
            await still_good(page)


async def still_good(page: Browser) -> None:
    assert (await page.get("/healthz")).body == b"ok\n"
