"""The server with what a browser, a mistake or an attack may send."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.testclient import TestClient
from tiny_run import CONTEXT, EXPERTS, STEPS

from moe_emergence import cli
from moe_emergence.explore.asked import LARGEST_BODY
from moe_emergence.explore.explorer import Explorer
from moe_emergence.explore.reading import read_tokens
from moe_emergence.explore.run import Loaded, open_run
from moe_emergence.explore.server import application, configuration, listening

READ: dict[str, Any] = {"step": 5, "text": "the whale", "off": []}
GO_ON: dict[str, Any] = READ | {"new": 4, "temperature": 0, "seed": 0}
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def client(explorer: Explorer) -> TestClient:
    return TestClient(application(explorer), base_url="http://127.0.0.1:8765")


def test_a_text_is_answered_with_its_routes(client: TestClient, loaded: Loaded) -> None:
    answer = client.post("/read", json=READ).json()
    assert "".join(answer["tokens"]["text"]) == "the whale"
    expected = read_tokens(loaded.model, loaded.tokenizer.encode("the whale").ids)
    assert answer["before"]["losses"] == [*expected.losses, None]
    assert answer["before"]["layers"][1]["experts"] == [list(slots) for slots in expected.layers[1].experts]
    assert answer["before"]["mean_loss"] == expected.mean_loss
    assert (answer["after"], answer["off"], answer["note"]) == (None, [], "")
    assert answer["tokens"]["label"][0] == "word"
    assert client.post("/read", json=READ | {"step": 0}).json()["before"] != answer["before"]


def test_experts_that_are_off_give_a_second_reading(client: TestClient, loaded: Loaded) -> None:
    off = [{"layer": 0, "expert": 1}, {"layer": 2, "expert": 0}, {"layer": 2, "expert": 3}]
    answer = client.post("/read", json=READ | {"off": off}).json()
    expected = read_tokens(loaded.model, loaded.tokenizer.encode("the whale").ids, {0: {1}, 2: {0, 3}})
    assert answer["off"] == off
    assert answer["before"] == client.post("/read", json=READ).json()["before"]
    assert answer["after"]["losses"] == [*expected.losses, None]
    assert {slots[0] for slots in answer["after"]["layers"][1]["experts"]} <= {1, 2}


def test_a_continuation_marks_what_was_read_at_once_and_what_was_written(client: TestClient, loaded: Loaded) -> None:
    prompt = len(loaded.tokenizer.encode("the whale").ids)
    answer = client.post("/continue", json=GO_ON).json()
    assert answer["tokens"]["mark"] == ["prefill"] * prompt + ["decode"] * 4
    drawn = [client.post("/continue", json=GO_ON | {"temperature": 1, "seed": seed}).json() for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_text_beyond_the_context_is_read_as_far_as_it_goes(client: TestClient) -> None:
    answer = client.post("/read", json=READ | {"text": "?" * (CONTEXT + 4)}).json()
    assert answer["note"] == f"The text has 100 tokens and the model reads {CONTEXT} at most: this is of its first 96."
    assert len(answer["tokens"]["text"]) == CONTEXT
    refused = client.post("/continue", json=GO_ON | {"text": "?" * (CONTEXT + 4)})
    assert refused.status_code == 400
    assert "100 tokens and 4 new ones are more than the model's context of 96" in refused.json()["error"]


@pytest.mark.parametrize("text", ["\x01\x02\x1b[31m\x7f", "\u202e\u2028", "🐋 日本 é", "<|endoftext|>", "�", "\r\n\t "])
def test_any_unicode_is_answered(client: TestClient, text: str) -> None:
    assert client.post("/read", json=READ | {"text": text}).status_code == 200
    assert client.post("/continue", json=GO_ON | {"text": text}).status_code == 200


BAD_BODIES = {
    "empty body": (b"", "the request is empty"),
    "binary": (bytes(range(256)), "the request is not UTF-8: byte 128 cannot be read"),
    "invalid UTF-8": (b'{"text": "\xff"}', "the request is not UTF-8: byte 10 cannot be read"),
    "no JSON": (b"text=the+whale", "the request is not JSON"),
    "deep": (b"[" * 100_000, "the request is not JSON"),
    "an endless number": (b'{"step": ' + b"9" * 5000 + b"}", "the request is not JSON"),
    "a list": (b"[]", "the request must be a JSON object"),
    "half a character": (json.dumps(READ | {"text": "a\ud800"}).encode(), "character 2 of the text is half of one"),
}


@pytest.mark.parametrize("case", BAD_BODIES)
def test_bodies_that_are_none_are_refused_in_a_line(client: TestClient, case: str) -> None:
    body, message = BAD_BODIES[case]
    refused(client.post("/read", content=body, headers=JSON), 400, message)


BAD_VALUES = [
    ({"text": ""}, "there is no text: type some first"),
    ({"text": "a\0b"}, "character 2 of the text is NUL: this is binary data, not text"),
    ({"text": 5}, "'text' must be a string"),
    ({"text": None}, "'text' must be a string"),
    ({"step": 4}, "step must be one of 0, 2, 5; got 4"),
    ({"step": "5"}, "'step' must be a whole number"),
    ({"step": True}, "'step' must be a whole number"),
    ({"step": "../../snapshots"}, "'step' must be a whole number"),
    ({"step": int("9" * 4000)}, "step must be one of 0, 2, 5"),
    ({"off": {}}, "'off' must be a list"),
    ({"off": [3]}, "'off'[0] must be a JSON object"),
    ({"off": [{"layer": 1, "expert": 0}]}, "a layer with experts must be one of 0, 2; got 1"),
    ({"off": [{"layer": 0, "expert": EXPERTS}]}, "an expert must lie between 0 and 3; got 4"),
    ({"off": [{"layer": 0, "expert": -1}]}, "an expert must lie between 0 and 3; got -1"),
    ({"off": [{"layer": 0, "expert": 0.5}]}, "'expert' must be a whole number"),
    ({"off": [{"layer": 0, "expert": n} for n in range(EXPERTS)]}, "all 4 experts of layer 0 are off"),
    ({"new": 0}, "the number of new tokens must be at least 1; got 0"),
    ({"new": None}, "the number of new tokens is empty: give a number"),
    ({"temperature": None}, "the temperature is empty: give a number"),
    ({"new": 0.5}, "'new' must be a whole number"),
    ({"new": 10**9}, "1,000,000,000 new ones are more than the model's context"),
    ({"temperature": -1}, "the temperature must be 0, or lie between 0.01 and 100; got -1"),
    ({"temperature": 1e-300}, "the temperature must be 0, or lie between 0.01 and 100; got 1e-300"),
    ({"temperature": float("nan")}, "the temperature must be 0, or lie between 0.01 and 100; got nan"),
    ({"temperature": 10**400}, "the temperature must be 0, or lie between 0.01 and 100; got inf"),
    ({"seed": -1}, "the seed must lie between 0 and"),
    ({"seed": 1 << 64}, "the seed must lie between 0 and"),
]


@pytest.mark.parametrize(("changed", "message"), BAD_VALUES)
def test_values_out_of_range_are_refused_in_a_line(client: TestClient, changed: dict[str, Any], message: str) -> None:
    paths = ("/continue",) if changed.keys() & {"new", "temperature", "seed"} else ("/read", "/continue")
    for path in paths:
        refused(client.post(path, content=json.dumps(GO_ON | changed), headers=JSON), 400, message)


@pytest.mark.parametrize("key", ["step", "text", "off"])
def test_a_missing_value_is_named(client: TestClient, key: str) -> None:
    left = {name: value for name, value in READ.items() if name != key}
    refused(client.post("/read", json=left), 400, f"no key '{key}'")


def refused(response: Any, status: int, message: str) -> None:
    assert response.status_code == status
    said = response.json()["error"]
    assert message in said
    assert "\n" not in said
    assert len(said) <= 300


def test_a_large_body_is_refused(client: TestClient) -> None:
    large = json.dumps(READ | {"text": "a" * LARGEST_BODY}).encode()
    refused(client.post("/read", content=large, headers=JSON), 413, "the text is too long: 1,000,0")


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_what_a_form_of_another_site_can_send_is_refused(client: TestClient, kind: str | None) -> None:
    headers = {} if kind is None else {"Content-Type": kind}
    refused(client.post("/read", content=json.dumps(READ), headers=headers), 415, "the request must be JSON")


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8765", "127.0.0.1.evil.example", "192.168.0.7", ""])
def test_another_host_name_is_refused(client: TestClient, host: str) -> None:
    assert client.get("/", headers={"Host": host}).status_code == 400
    assert client.post("/read", json=READ, headers={"Host": host}).status_code == 400
    assert client.get("/", headers={"Host": "localhost:1234"}).status_code == 200


def test_every_answer_has_a_strict_policy(client: TestClient) -> None:
    page = client.get("/")
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    for answer in (page, client.get("/static/explore.js"), client.post("/read", json={}), client.get("/no")):
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "Access-Control-Allow-Origin" not in answer.headers


def test_the_page_names_what_there_is(client: TestClient) -> None:
    page = client.get("/").text
    facts = json.loads(page.partition('type="application/json">')[2].partition("</script>")[0])
    assert facts["steps"] == list(STEPS)
    assert (facts["experts"], facts["layers"], facts["context"]) == (EXPERTS, [0, 2], CONTEXT)
    assert "This run has not ended" not in page
    for path, kind in (
        ("explore.css", "text/css"),
        ("tokens.js", "text/javascript"),
        ("explore.js", "text/javascript"),
    ):
        assert client.get(f"/static/{path}").headers["Content-Type"] == f"{kind}; charset=utf-8"
    assert ".x3 {" in client.get("/static/explore.css").text


def test_a_hostile_folder_name_stays_text(tiny_run: Path, tmp_path: Path) -> None:
    own = tmp_path / "<script>alert(1)<" / "script>" / "seed-1"
    shutil.copytree(tiny_run, own)
    (own / "metrics.jsonl").unlink()
    page = TestClient(application(Explorer(open_run(own))), base_url="http://127.0.0.1").get("/").text
    assert page.count("<script") == 3
    assert "&lt;script&gt;alert(1)&lt;/script&gt;/seed-1" in page
    assert "This run has not ended: it is shown up to step 5." in page


TRAVERSALS = [
    "/../../etc/passwd",
    "/static/../../../../etc/passwd",
    "/static/..%2f..%2fetc%2fpasswd",
    "/static/..%2fexplorer.py",
    "/static/%2e%2e/%2e%2e/etc/passwd",
    "/static/",
    "/static/tokens.css",
    "//etc/passwd",
    "/static/explore.js%00.css",
    "/read/../static/../../config.json",
]


@pytest.fixture(scope="module")
def port(explorer: Explorer) -> Iterator[int]:
    """A server's, on a thread of its own."""
    opened = listening(0)
    server = uvicorn.Server(configuration(explorer))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]})
    thread.start()
    yield opened.getsockname()[1]
    server.should_exit = True
    thread.join()
    opened.close()


@pytest.mark.parametrize("path", TRAVERSALS)
def test_no_path_leads_to_a_file(port: int, path: str) -> None:
    answer = raw(port, f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n")
    assert answer.startswith(("HTTP/1.1 404", "HTTP/1.1 405"))
    assert "root:" not in answer


def test_a_large_body_is_refused_before_all_of_it_has_come(port: int) -> None:
    head = f"POST /read HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\nConnection: close\r\n"
    for rest in ("Content-Length: 5000000\r\n\r\n", f"Transfer-Encoding: chunked\r\n\r\n200000\r\n{'a' * 1_010_000}"):
        assert raw(port, head + rest).startswith("HTTP/1.1 413")


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere 127.0.0.2 may not be the loopback")
def test_it_listens_at_one_address_alone(port: int) -> None:
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", port), timeout=2)


def test_it_says_where_it_is_and_ends_quietly_on_ctrl_c(tiny_run: Path) -> None:
    command = [sys.executable, "-m", "moe_emergence", "explore", str(tiny_run), "--port", "0"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        said = re.fullmatch(r"http://127\.0\.0\.1:(\d+)  \(Ctrl-C ends it\)\n", process.stdout.readline())
        assert said is not None
        assert (
            raw(int(said[1]), "GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")[:12] == "HTTP/1.1 200"
        )
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60) == ("", "")
    assert process.returncode == 0


def raw(port: int, request: str) -> str:
    """As it is: clients would tidy the path."""
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(request.encode())
        answer = b""
        with suppress(ConnectionResetError):  # by a server that has said all and leaves the rest unread
            while part := connection.recv(65536):
                answer += part
    return answer.decode()


def test_a_taken_port_is_a_mistake_in_a_line(tiny_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with listening(0) as taken:
        port = taken.getsockname()[1]
        assert cli.main(["explore", str(tiny_run), "--port", str(port)]) == 2
    said = capsys.readouterr()
    assert said.err == (
        f"error: port {port} of 127.0.0.1 cannot be used (Address already in use): give another one with --port, or "
        "--port 0 for any that is free\n"
    )
    assert said.out == ""


@pytest.mark.parametrize("port", ["-1", "65536"])
def test_a_port_out_of_range(tiny_run: Path, port: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["explore", str(tiny_run), "--port", port]) == 2
    assert capsys.readouterr().err == f"error: --port must lie between 0 and 65535; got {port}\n"


@pytest.mark.parametrize("library", ["starlette", "uvicorn"])
def test_without_the_libraries_it_says_how_to_install_them(
    library: str, tiny_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] in ("starlette", "uvicorn")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, "moe_emergence.explore.server")
    monkeypatch.setitem(sys.modules, library, None)
    assert cli.main(["explore", str(tiny_run)]) == 2
    said = capsys.readouterr().err
    assert said == f"error: explore needs {library}, which is not installed: pip install 'moe-emergence[explore]'\n"


def test_requests_at_once_are_answered_one_after_another(client: TestClient, explorer: Explorer) -> None:
    """Each with its own experts off: none sees another's."""
    alone = [client.post("/read", json=READ | {"off": off}).json() for off in offs()]
    found: dict[int, Any] = {}

    def ask(number: int, off: Any) -> None:
        found[number] = client.post("/read", json=READ | {"off": off}).json()

    threads = [threading.Thread(target=ask, args=(number, off)) for number, off in enumerate(offs())]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[number] for number in range(len(alone))] == alone


def offs() -> list[Any]:
    return [[], *([{"layer": 2, "expert": expert}] for expert in range(EXPERTS)), []]
