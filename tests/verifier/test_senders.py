"""Who may ask: programs, the server's own page, and no page of another site."""

import pytest

from tests.verifier.server_process import ServerProcess, refusal, wav

OTHER_SITES = (
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},  # another port of this machine
    {"Origin": "http://evil.example"},
    {"Origin": "null"},
)


@pytest.mark.parametrize("headers", OTHER_SITES)
def test_a_page_of_another_site_has_nothing_scored(
    server: ServerProcess, headers: dict[str, str]
) -> None:
    assert refusal(server.post([wav()], headers=headers)) == (403, "forbidden")
    assert refusal(server.post_texts(["one"], headers=headers)) == (403, "forbidden")


@pytest.mark.parametrize("headers", OTHER_SITES)
def test_whoever_has_the_token_may_be_anywhere(
    strict: ServerProcess, headers: dict[str, str]
) -> None:
    assert strict.post([wav()], headers=headers).status_code == 200
    assert strict.post([wav()], headers={**headers, "Host": "music.example"}).status_code == 200


def test_the_servers_own_page_has_clips_scored(server: ServerProcess) -> None:
    for headers in (
        {"Sec-Fetch-Site": "same-origin", "Origin": server.url},
        {"Sec-Fetch-Site": "none"},
        {"Origin": server.url},
    ):
        assert server.post([wav()], headers=headers).status_code == 200
    linked = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    for path in ("/docs", "/openapi.json", "/health", "/verifiers"):
        assert server.get(path, headers=linked).status_code == 200


def test_a_server_on_loopback_is_asked_by_its_own_names_only(server: ServerProcess) -> None:
    for host in ("localhost", "127.0.0.1:9999", "[::1]:8000", "LOCALHOST:8000"):  # a tunnel's port
        assert server.post([wav()], headers={"Host": host}).status_code == 200
    for host in ("evil.example", "evil.example:8000", "localhost.evil.example", "[x", "a b"):
        headers = {"Host": host, "Origin": f"http://{host}", "Sec-Fetch-Site": "same-origin"}
        answer = server.post([wav()], headers=headers)
        assert refusal(answer) == (400, "bad_request")
        assert "not this server's" in answer.json()["message"]
        assert server.get("/verifiers", headers={"Host": host}).status_code == 400
