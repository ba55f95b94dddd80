"""Which answers may redirect, where to, and how a client's address is written."""

import pytest

from proxy.core.headers import client_address, may_redirect, relative_location

ORIGINS = ("http://model:8080", "http://model")


@pytest.mark.parametrize(
    ("statuses", "may"),
    [((201, 300, 301, 303, 305, 308, 399), True), ((200, 202, 299, 304, 400), False)],
)
def test_201_and_3xx_but_304_may_redirect(statuses: tuple[int, ...], may: bool) -> None:
    assert [may_redirect(status) for status in statuses] == [may] * len(statuses)


@pytest.mark.parametrize(
    ("location", "sent"),
    [
        ("http://model:8080/v1/jobs?x=1", "/v1/jobs?x=1"),
        ("HTTP://Model:8080/V1", "/V1"),
        ("http://model/a", "/a"),
        ("http://model:8080", "/"),
        ("http://model:8080?x=1", "/?x=1"),
        ("http://model:8080#top", "/#top"),
        ("http://model:8080//other.example/a", "/.//other.example/a"),
    ],
)
def test_a_location_on_the_endpoint_loses_the_endpoints_address(location: str, sent: str) -> None:
    assert relative_location(location, ORIGINS) == sent
    assert relative_location(location, [origin.upper() for origin in ORIGINS]) == sent


@pytest.mark.parametrize(
    "location",
    ["/v1/jobs", "", "http://other/a", "http://model:80801/a", "http://model.example/a", "https://model:8080/a"],
)
def test_any_other_location_stays_as_it_is(location: str) -> None:
    assert relative_location(location, ORIGINS) == location


@pytest.mark.parametrize(
    ("address", "written"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::1"),
        ("::ffff:c000:201", "::ffff:c000:201"),
        ("", ""),
        (None, ""),
    ],
)
def test_a_client_is_written_without_brackets_and_an_ipv4_one_as_what_it_is(address: str | None, written: str) -> None:
    assert client_address(address) == written
