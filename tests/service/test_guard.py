"""No web page reaches a server on loopback: not by its Origin, not by a re-bound name."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

import httpx
import pytest

from service.conftest import Serve, is_problem

FOREIGN = [
    "evil.example",
    "evil.example:8420",
    "localhost.evil.example",
    "127.0.0.1.nip.io",
    "192.0.2.1",
    "x@localhost",
]


def host(client: httpx.Client, name: str) -> httpx.Response:
    return client.get("/healthz", headers={"Host": name})


def test_loopback_answers_to_its_own_names_only(client: httpx.Client) -> None:
    for name in (
        "localhost",
        "localhost:1234",
        "LocalHost.",
        "127.0.0.1",
        "127.0.0.1:8420",
        "[::1]",
        "[::1]:8420",
    ):
        assert host(client, name).status_code == 200, name
    for name in (*FOREIGN, "localhost:port", "localhost/x", "a, localhost", "[::1", "0.0.0.0", "[::2]"):  # noqa: S104
        is_problem(host(client, name), 403, "HOST_NOT_ALLOWED")
    assert is_problem(host(client, "evil.example"), 403, "HOST_NOT_ALLOWED") == {"host": "evil.example"}


@pytest.mark.parametrize("hosts", ["", "Host: localhost\r\nHost: evil.example\r\n", "Host:\r\n"])
def test_a_host_must_be_named_once(client: httpx.Client, hosts: str) -> None:
    where = urlsplit(str(client.base_url))
    with socket.create_connection((where.hostname, where.port), timeout=10) as connection:
        connection.sendall(f"GET /healthz HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n".encode())
        status = connection.recv(65536).split()[1]
    assert status in (b"403", b"400")


def test_pages_of_other_origins_are_refused(client: httpx.Client, collection: str) -> None:
    own = client.base_url.netloc.decode()
    port = own.split(":")[1]
    for origin in (
        "http://evil.example",
        "https://evil.example",
        "null",
        "http://localhost",
        "http://localhost:3000",
        f"http://localhost:{port}",  # the request goes to 127.0.0.1: another origin
        f"http://{own}.evil.example",
        "file://",
        "",
        "http://[",
    ):
        headers = {"Origin": origin}
        is_problem(
            client.post(f"{collection}/speakers", json={"id": "x"}, headers=headers), 403, "HOST_NOT_ALLOWED"
        )
        is_problem(client.get("/healthz", headers=headers), 403, "HOST_NOT_ALLOWED")
        preflight = client.options(
            f"{collection}/speakers", headers={**headers, "Access-Control-Request-Method": "POST"}
        )
        is_problem(preflight, 403, "HOST_NOT_ALLOWED")
        assert not [name for name in preflight.headers if name.startswith("access-control")]
    assert client.get(f"{collection}/speakers").json()["speakers"] == [], "a refused request did its work"
    assert (
        client.post(f"{collection}/speakers", json={}, headers={"Origin": f"http://{own}"}).status_code == 201
    )


def test_requests_of_other_pages_without_an_origin_are_refused(client: httpx.Client) -> None:
    def get(site: str, mode: str, dest: str) -> httpx.Response:
        names = ("Sec-Fetch-Site", "Sec-Fetch-Mode", "Sec-Fetch-Dest")
        return client.get("/v1/collections", headers=dict(zip(names, (site, mode, dest), strict=True)))

    for site in ("cross-site", "same-site"):
        for mode, dest in (
            ("no-cors", "image"),
            ("no-cors", "script"),
            ("cors", "empty"),
            ("navigate", "iframe"),
        ):
            is_problem(get(site, mode, dest), 403, "HOST_NOT_ALLOWED")
        assert get(site, "navigate", "document").status_code == 200, "a link that a person follows"
    assert get("same-origin", "cors", "empty").status_code == 200
    assert get("none", "navigate", "document").status_code == 200
    form = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    is_problem(client.post("/v1/embeddings", content=b"x", headers=form), 403, "HOST_NOT_ALLOWED")


def test_browsers_are_told_to_keep_nothing_and_to_frame_nothing(client: httpx.Client) -> None:
    for answer in (client.get("/v1/models"), client.get("/v1/nothing"), host(client, "evil.example")):
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["cross-origin-resource-policy"] == "same-origin"


def test_further_names_are_allowed_by_the_settings(serve: Serve) -> None:
    with serve(allowed_hosts="voices.example, Other.Example:443") as client:
        for name in ("voices.example", "voices.example:8420", "OTHER.example", "localhost"):
            assert host(client, name).status_code == 200
        is_problem(host(client, "evil.example"), 403, "HOST_NOT_ALLOWED")
        for origin, status in (("https://voices.example", 200), ("https://voices.example.evil.example", 403)):
            assert client.get("/healthz", headers={"Origin": origin}).status_code == status


def test_beyond_loopback_addresses_are_answered_and_names_are_not(serve: Serve) -> None:
    with serve(host="0.0.0.0") as client:  # noqa: S104
        for name in ("192.0.2.1", "192.0.2.1:8420", "[2001:db8::1]:8420", "localhost"):
            assert host(client, name).status_code == 200
        for name in ("evil.example", "192.0.2.1.nip.io"):
            is_problem(host(client, name), 403, "HOST_NOT_ALLOWED")
        headers = {"Origin": "http://192.0.2.7"}
        is_problem(client.get("/healthz", headers=headers), 403, "HOST_NOT_ALLOWED")


def test_a_star_allows_everything(serve: Serve) -> None:
    with serve(allowed_hosts="*") as client:
        assert (
            client.get("/healthz", headers={"Host": "x.example", "Origin": "http://y.example"}).status_code
            == 200
        )
