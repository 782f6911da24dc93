"""Programs that speak OpenAI's completions use the server unchanged."""

import asyncio
import json
import os
import re
import shlex
import shutil
import subprocess
import sys

import pytest
from conftest import DATA, ROOT
from serving import serving

import charlm

GOLDEN = DATA / "golden-lstm.safetensors"
KEY = "correct-horse"
SETTINGS = {"max_tokens": 37, "temperature": 0.7, "seed": 3}


@pytest.fixture(scope="module")
def server():
    with serving(GOLDEN, key=KEY) as client:
        yield client


@pytest.fixture(scope="module")
def expected():
    return charlm.load(GOLDEN).generate("The ", length=37, temperature=0.7, seed=3)


@pytest.fixture
def openai():
    return pytest.importorskip("openai", reason="the package openai is not installed")


@pytest.fixture
def client(server, openai):
    with openai.OpenAI(base_url=f"{server.address}/v1", api_key=KEY, max_retries=0) as client:
        yield client


def test_openai_completes_and_streams(client, expected):
    assert [model.id for model in client.models.list()] == ["golden-lstm"]
    assert client.models.retrieve("golden-lstm").owned_by == "charlm"
    asked = {"model": "golden-lstm", "prompt": "The "} | SETTINGS
    answer = client.completions.create(**asked, logprobs=3)
    assert answer.choices[0].text == expected
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 37
    assert len(answer.choices[0].logprobs.token_logprobs) == 37
    events = client.completions.create(**asked, stream=True)
    assert "".join(event.choices[0].text for event in events) == expected
    several = client.completions.create(
        **asked, n=2, best_of=5, echo=True, stop=["zz"], extra_body={"top_k": 9, "forbid": "q"}
    )
    assert len(several.choices) == 2
    assert all(choice.text.startswith("The ") for choice in several.choices)


def test_openai_raises_what_it_raises_for_openai(client, openai, server):
    with pytest.raises(openai.BadRequestError, match="temperature") as caught:
        client.completions.create(model="golden-lstm", prompt="a", temperature=-3)
    assert caught.value.param == "temperature"
    with pytest.raises(openai.NotFoundError, match="golden-lstm"):
        client.completions.create(model="gpt-3.5-turbo-instruct", prompt="a")
    other = client.with_options(api_key="guessed")
    with pytest.raises(openai.AuthenticationError, match="key"):
        other.models.list()


def test_many_openai_clients_at_once(openai, server, expected):
    async def ask(client):
        events = await client.completions.create(
            model="golden-lstm", prompt="The ", stream=True, **SETTINGS
        )
        return "".join([event.choices[0].text async for event in events])

    async def ask_all():
        async with openai.AsyncOpenAI(base_url=f"{server.address}/v1", api_key=KEY) as client:
            return await asyncio.gather(*(ask(client) for _ in range(40)))

    # In float32 a text that is drawn beside others may differ in a last bit, and then in a
    # character: with these sizes that happens about once in 10^6 characters.
    assert asyncio.run(ask_all()) == [expected] * 40


def test_httpx(server, expected):
    httpx = pytest.importorskip("httpx", reason="the package httpx is not installed")
    headers = {"Authorization": f"Bearer {KEY}"}
    asked = {"prompt": "The ", "stream": True} | SETTINGS
    with (
        httpx.Client(base_url=server.address, headers=headers) as client,
        client.stream("POST", "/v1/completions", json=asked) as answer,
    ):
        lines = [line.removeprefix("data: ") for line in answer.iter_lines() if line]
    assert lines.pop() == "[DONE]"
    assert "".join(json.loads(line)["choices"][0]["text"] for line in lines) == expected


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_curl(server, expected):
    command = ["curl", "--silent", "--fail", f"{server.address}/v1/completions"]
    command += ["--json", json.dumps({"prompt": "The "} | SETTINGS)]
    command += ["--header", f"Authorization: Bearer {KEY}"]
    answer = subprocess.run(command, capture_output=True, check=True, timeout=20)
    assert json.loads(answer.stdout)["choices"][0]["text"] == expected


def test_llm(server, expected, tmp_path):
    pytest.importorskip("llm", reason="the package llm is not installed")
    (tmp_path / "extra-openai-models.yaml").write_text(
        f"- model_id: local\n  model_name: golden-lstm\n  api_base: {server.address}/v1\n"
        "  api_key_name: local\n  completion: true\n"
    )
    (tmp_path / "keys.json").write_text(json.dumps({"local": KEY}))
    command = [sys.executable, "-m", "llm", "-m", "local", "The ", "--no-log"]
    command += [word for k, v in SETTINGS.items() for word in ("-o", k, str(v))]
    environment = os.environ | {"LLM_USER_PATH": str(tmp_path)}
    answer = subprocess.run(
        command, capture_output=True, text=True, timeout=60, env=environment, cwd=tmp_path
    )
    assert answer.stdout.removesuffix("\n") == expected, answer.stderr


def test_the_blocks_of_the_page_on_the_server(openai, tmp_path, capsys):
    model = tmp_path / "english.safetensors"
    shutil.copy(GOLDEN, model)
    page = (ROOT / "charlm" / "server" / "README.md").read_text("utf-8")
    found = re.findall(r"^```(bash|python)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    commands = 0
    with serving(model) as client:
        for language, block in found:
            block = block.replace(":8000", f":{client.port}")
            if language == "python":
                exec(compile(block, "charlm/server/README.md", "exec"), {})
                out = capsys.readouterr().out
                lm = charlm.load(model)
                assert out == lm.generate("The sea ", length=80, temperature=0.7, seed=1)
                continue
            for command in block.splitlines() if shutil.which("curl") else ():
                words = [*shlex.split(command), "--silent", "--fail"]
                answer = subprocess.run(words, capture_output=True, check=True, timeout=20)
                assert json.loads(answer.stdout)["model"] == "english"
                commands += 1
    assert commands == (2 if shutil.which("curl") else 0)
