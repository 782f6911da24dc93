"""Runs and texts whose names are not UTF-8, as a file system may hold them, are served too."""

import os

import pytest
from conftest import QUICK, words

import charlm

pytest.importorskip("starlette", reason="needs the extra serve")
pytest.importorskip("httpx", reason="needs httpx, as the client of starlette does")
testclient = pytest.importorskip("starlette.testclient")


def test_a_name_that_is_not_utf8_can_be_told(workplace):
    from charlm.server.app import Server, make_app
    from charlm.server.models import Models

    text, run = (os.fsdecode(name) for name in (b"te\xffxt.txt", b"r\xfen"))
    try:
        (workplace / text).write_text(words(600), encoding="utf-8")
    except OSError:
        pytest.skip("the file system holds names in UTF-8 only")
    charlm.train(text, out=run, **QUICK)
    client = testclient.TestClient(make_app(Server(Models([run])), hosts=["testserver"]))
    (card,) = client.get("/v1/models").json()["data"]
    assert card["id"] == "r\ufffdn"
    assert card["charlm"]["files"] == ["te\ufffdxt.txt"]
    assert client.get(f"/v1/runs/{card['id']}").json()["finished"]
    body = {"model": card["id"], "max_tokens": 7}
    assert len(client.post("/v1/completions", json=body).json()["choices"][0]["text"]) == 7
    assert client.get("/metrics").status_code == 200
    assert "r\\ufffdn" in client.get("/").text
