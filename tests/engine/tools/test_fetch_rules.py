"""Which URLs and addresses a fetch may reach: tables of what is tried."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import CallerError
from engine.tools.fetch_rules import (
    URL_CHARACTERS_MAX,
    Target,
    parse_network,
    parse_url,
    redirected,
    refusal,
    same_site,
)


@pytest.mark.parametrize(
    ("url", "host", "port", "path", "shown"),
    [
        ("http://a.org", "a.org", 80, "/", "http://a.org/"),
        ("https://A.Org/x?y=1#z", "a.org", 443, "/x?y=1", "https://a.org/x?y=1"),
        ("HTTPS://a.org:8443/", "a.org", 8443, "/", "https://a.org:8443/"),
        ("http://a.org:80", "a.org", 80, "/", "http://a.org/"),
        ("http://[2001:DB8::1]:8080/x", "2001:db8::1", 8080, "/x", "http://[2001:db8::1]:8080/x"),
        ("http://127.0.0.1/", "127.0.0.1", 80, "/", "http://127.0.0.1/"),
        ("http://0x7f.1/", "0x7f.1", 80, "/", "http://0x7f.1/"),  # judged when it is resolved
        ("http://bücher.example/ä?ö", "xn--bcher-kva.example", 80, "/%C3%A4?%C3%B6", None),
        ("http://a.org/%41%20b", "a.org", 80, "/%41%20b", None),
        ("http://a.org./", "a.org.", 80, "/", None),
        ("http://a_b.org/", "a_b.org", 80, "/", None),
    ],
)
def test_urls(url: str, host: str, port: int, path: str, shown: str | None) -> None:
    target = parse_url(url)
    assert (target.host, target.port, target.path) == (host, port, path)
    assert shown is None or str(target) == shown


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("", "does not begin with"),
        ("a.org", "does not begin with"),
        ("//a.org", "does not begin with"),
        ("ftp://a.org", "does not begin with"),
        ("file:///etc/passwd", "does not begin with"),
        ("gopher://a.org", "does not begin with"),
        ("data:text/html,x", "does not begin with"),
        ("javascript:alert(1)", "does not begin with"),
        ("unix:///run/docker.sock", "does not begin with"),
        ("http://", "has no host"),
        ("http:///x", "has no host"),
        ("http:a.org", "has no host"),
        ("http://user@a.org/", "a user or a password"),
        ("http://user:pass@a.org/", "a user or a password"),
        ("http://a.org@127.0.0.1/", "a user or a password"),
        ("http://@a.org/", "a user or a password"),
        ("http://a.org\\@127.0.0.1/", "a backslash"),
        ("http:\\\\a.org", "a backslash"),
        (" http://a.org", "a blank"),
        ("http://a.org/a b", "a blank"),
        ("http://a.org/\r\nHost: b", "control character"),
        ("http://a.org/\t", "control character"),
        ("http://a\u200b.org/", "control character"),
        ("http://a.org:0/", "no port"),
        ("http://a.org:65536/", "is not a URL"),
        ("http://a.org:x/", "is not a URL"),
        ("http://[::1/", "is not a URL"),
        ("http://[fe80::1%25eth0]/", "no host that there is"),
        ("http://[::ffff:127.0.0.1%1]/", "no host that there is"),
        ("http://[v1.x]/", "no host that there is"),
        ("http://a..org/", "no host that there is"),
        ("http://.org/", "no host that there is"),
        ("http://-a.org/", "no host that there is"),
        ("http://a%2eorg/", "no host that there is"),
        ("http://a.org,b.org/", "no host that there is"),
        ("http://" + "a" * 254 + "/", "no host that there is"),
        ("http://" + "ä" * 100 + "/", "no host that there is"),
        ("http://a.org/" + "a" * URL_CHARACTERS_MAX, "is longer than"),
    ],
)
def test_what_is_no_url_of_the_web(url: str, why: str) -> None:
    with pytest.raises(CallerError, match=why) as caught:
        parse_url(url)
    assert caught.value.code == "invalid_path"
    assert len(caught.value.message) < 400


@given(st.text(max_size=60) | st.text("htps:/.@[]%\\?#a1 ", max_size=40).map(lambda text: f"http://{text}"))
def test_any_text_is_a_target_or_refused(text: str) -> None:
    try:
        target = parse_url(text)
    except CallerError:
        return
    assert target.path.startswith("/") and target.path.isascii() and " " not in target.path
    assert target.host.isascii() and "@" not in target.authority and "\n" not in str(target)
    assert parse_url(str(target)) == target


@pytest.mark.parametrize(
    "address",
    [
        # IPv4
        "0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "100.64.0.0", "100.127.255.255", "127.0.0.1", "127.255.0.1",
        "169.254.0.1", "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.1", "192.0.0.8", "192.0.2.1",
        "192.88.99.1", "192.168.0.1", "192.168.255.255", "198.18.0.1", "198.19.255.255", "198.51.100.7", "203.0.113.9",
        "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
        # IPv6
        "::", "::1", "::127.0.0.1", "::8.8.8.8", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254",
        "::ffff:7f00:1", "::ffff:0:127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::808:808", "64:ff9b:1::1", "100::1",
        "2001::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:10::1", "2001:20::1", "2001:db8::1", "2002:7f00:1::",
        "2002:808:808::1", "3fff::1", "4000::1", "5f00::1", "fc00::1", "fd12:3456::1", "fd00:ec2::254", "fe80::1",
        "febf::1", "fec0::1", "ff02::1", "ff0e::1", "fe80::1%eth0", "2606:4700::1%1",
        # no addresses
        "", "a.org", "1.2.3", "0x7f.0.0.1", "2130706433", "127.1", "1.2.3.4.5", "/run/x.sock", "1.2.3.4/32",
    ],
)  # fmt: skip
def test_addresses_that_are_not_reached(address: str) -> None:
    assert refusal(address) is not None


@pytest.mark.parametrize(
    "address",
    [
        "1.1.1.1",
        "8.8.8.8",
        "9.255.255.255",
        "11.0.0.0",
        "93.184.216.34",
        "100.63.255.255",
        "100.128.0.0",
        "126.255.255.255",
        "128.0.0.1",
        "169.253.255.255",
        "169.255.0.0",
        "172.15.255.255",
        "172.32.0.0",
        "192.0.1.1",
        "192.167.255.255",
        "192.169.0.0",
        "198.17.255.255",
        "198.20.0.0",
        "223.255.255.255",
        "::ffff:8.8.8.8",
        "2000::1",
        "2606:4700:4700::1111",
        "2a00:1450:4001:81b::200e",
        "2001:200::1",
        "2001:4860:4860::8888",
        "2003::1",
        "3ffe::1",
    ],
)
def test_public_addresses(address: str) -> None:
    assert refusal(address) is None


@given(st.ip_addresses())
def test_no_more_is_reached_than_the_library_calls_global(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> None:
    if refusal(str(address)) is None:
        mapped = getattr(address, "ipv4_mapped", None) or address
        assert mapped.is_global and not mapped.is_multicast and not mapped.is_reserved and not mapped.is_loopback


def test_what_the_configuration_allows() -> None:
    allowed = [parse_network("127.0.0.1"), parse_network("10.1.0.0/16"), parse_network("fd00::/8")]
    for address in ("127.0.0.1", "10.1.2.3", "fd12::1", "::ffff:127.0.0.1", "8.8.8.8"):
        assert refusal(address, allowed) is None
    for address in ("127.0.0.2", "10.2.0.1", "fc00::1", "::1", "::ffff:10.2.0.1", "169.254.169.254"):
        assert refusal(address, allowed) is not None
    for text in ("10.1.2.3/16", "a.org", "", "10.0.0.0/33", "*"):
        with pytest.raises(ValueError, match="expected an address or a network"):
            parse_network(text)


HERE = parse_url("https://a.org/x/y?z")


@pytest.mark.parametrize(
    ("location", "to"),
    [
        ("/other", "https://a.org/other"),
        ("other?q", "https://a.org/x/other?q"),
        ("//b.org/z", "https://b.org/z"),
        ("https://b.org", "https://b.org/"),
        (" https://a.org:444/ ", "https://a.org:444/"),
        ("https://a.org/a b/ü", "https://a.org/a%20b/%C3%BC"),
        ("?only", "https://a.org/x/y?only"),
    ],
)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects(location: str, to: str, status: int) -> None:
    assert str(redirected(HERE, status, location)) == to


@pytest.mark.parametrize(
    "location",
    ["file:///etc/passwd", "http://a.org/", "ftp://a.org", "https://u:p@a.org/", "http://127.0.0.1/", "https://[::1",
     "javascript:alert(1)", "https://a.org\\@b.org/"],
)  # fmt: skip
def test_redirects_that_are_refused(location: str) -> None:
    with pytest.raises(CallerError):
        redirected(HERE, 302, location)


def test_what_is_no_redirect() -> None:
    assert redirected(HERE, 200, "/x") is None
    assert redirected(HERE, 304, "/x") is None
    assert redirected(HERE, 302, None) is None


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("http://a.org/x", "http://a.org/y", True),
        ("http://a.org/", "https://a.org/", True),
        ("https://a.org/", "https://b.org/", False),
        ("https://a.org/", "https://www.a.org/", False),
        ("http://a.org/", "http://a.org:8080/", False),
        ("http://a.org:8080/", "https://a.org/", False),
    ],
)
def test_the_same_site(one: str, other: str, same: bool) -> None:
    assert same_site(parse_url(one), parse_url(other)) is same


def test_the_host_header() -> None:
    assert Target(scheme="http", host="::1", port=81, path="/").authority == "[::1]:81"
    assert Target(scheme="https", host="a.org", port=80, path="/").authority == "a.org:80"
