"""The server over real sockets: its answers are those of charlm, in the shapes of OpenAI's."""

import contextlib
import json
import math
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from conftest import DATA, QUICK_FLAGS, ROOT, one_line
from serving import JSON, Client, rest_of, serving, wait_until

import charlm
from charlm.server import worker as workers
from charlm.server.models import Models

GOLDEN = DATA / "golden-lstm.safetensors"
PROMPT = "The "


@pytest.fixture(scope="module")
def lm():
    return charlm.load(GOLDEN)


@pytest.fixture(scope="module")
def client():
    with serving(GOLDEN) as client:
        yield client


@pytest.mark.parametrize(
    ("fields", "settings"),
    [
        ({}, {}),
        ({"temperature": 0.5, "top_k": 7}, {}),
        ({"temperature": 1, "top_p": 0.8, "min_p": 0.01}, {}),
        ({"temperature": 0}, {}),
        ({"stop": "e"}, {}),
        ({"stop": ["zzz", "ou", "a"]}, {}),
        ({"allow": "abcde \n"}, {"allow": ("abcde \n",)}),
        ({"forbid": ["e", "t"]}, {}),
        ({"max_tokens": 1}, {"length": 1}),
        ({"seed": 2**32 + 5}, {"seed": 5}),
        ({"seed": -1}, {"seed": 2**32 - 1}),
    ],
)
def test_a_completion_is_the_text_of_generate(client, lm, fields, settings):
    fields = {"prompt": PROMPT, "max_tokens": 83, "seed": 4} | fields
    given = {k: v for k, v in fields.items() if k != "max_tokens"} | {"length": 83} | settings
    (choice,) = client.complete(**fields)
    (sample,) = lm.samples(**given)
    assert choice["text"] == "".join(sample)
    assert choice["finish_reason"] == sample.reason
    (event_texts,) = {"".join(e["choices"][0]["text"] for e in client.events(**fields))}
    assert event_texts == choice["text"]


def test_an_answer_has_the_shape_of_openai(client):
    status, answer = client.post("/v1/completions", prompt="ab", max_tokens=3)
    assert status == 200
    assert answer["object"] == "text_completion"
    assert answer["id"].startswith("cmpl-")
    assert answer["model"] == "golden-lstm"
    assert abs(answer["created"] - time.time()) < 60
    assert answer["usage"] == {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5}
    (choice,) = answer["choices"]
    assert choice.keys() == {"index", "text", "logprobs", "finish_reason"}
    assert choice["logprobs"] is None
    # Who has not chosen a seed is told the one that was taken, and gets the same text with it.
    again = client.text(prompt="ab", max_tokens=3, seed=answer["seed"])
    assert again == choice["text"]


def test_several_texts_are_the_samples_of_the_seed(client, lm):
    choices = client.complete(prompt=["The ", "A"], max_tokens=31, n=3, seed=8)
    expected = [
        "".join(sample)
        for prompt in ("The ", "A")
        for sample in lm.samples(prompt, num_samples=3, length=31, seed=8)
    ]
    assert [choice["index"] for choice in choices] == list(range(6))
    # In float32 texts that are drawn together may differ in a last bit, and then in a character:
    # with these sizes that happens about once in 10^6 characters.
    assert [choice["text"] for choice in choices] == expected
    events = client.events(prompt=["The ", "A"], max_tokens=31, n=3, seed=8)
    texts = [""] * 6
    for event in events:
        (choice,) = event["choices"]
        texts[choice["index"]] += choice["text"]
    assert texts == expected


def test_best_of_keeps_the_likeliest(client, lm):
    bits = {}
    for sample in lm.samples(PROMPT, num_samples=7, length=29, seed=6, with_surprisal=True):
        text = "".join(sample)
        bits[text] = sample.bits_per_char
    choices = client.complete(prompt=PROMPT, max_tokens=29, seed=6, n=2, best_of=7)
    assert [choice["text"] for choice in choices] == sorted(bits, key=bits.get)[:2]


def test_log_probabilities_are_those_of_scoring(client, lm):
    fields = {"prompt": PROMPT, "max_tokens": 23, "seed": 2, "logprobs": 4, "echo": True}
    (choice,) = client.complete(**fields)
    told = choice["logprobs"]
    assert choice["text"] == "".join(told["tokens"])
    assert choice["text"].startswith(PROMPT)
    assert told["text_offset"] == list(range(len(PROMPT) + 23))
    drawn = lm.score(choice["text"][len(PROMPT) :], state=lm.read(PROMPT))
    bits = [*lm.score(PROMPT), *drawn]
    assert [-x / math.log(2) for x in told["token_logprobs"]] == pytest.approx(bits, abs=1e-4)
    for place, top in enumerate(told["top_logprobs"]):
        start = "\n" if place < len(PROMPT) else ""  # as score() reads a text
        assert 4 <= len(top) <= 5
        assert top[told["tokens"][place]] == told["token_logprobs"][place]
        assert max(top.values()) == pytest.approx(
            math.log(lm_probability(lm, start + choice["text"][:place])), abs=1e-4
        )
    streamed = {"tokens": [], "token_logprobs": [], "text_offset": []}
    for event in client.events(**fields):
        for name, values in streamed.items():
            values += event["choices"][0]["logprobs"][name]
    assert streamed == {name: told[name] for name in streamed}


def lm_probability(lm, text):
    """Return the largest probability of a next character."""
    import numpy as np

    logits = lm.read(text).logits.astype(np.float64)
    w = np.exp(logits - logits.max())
    return (w / w.sum()).max()


def test_echo_alone_scores_a_prompt(client, lm):
    (choice,) = client.complete(prompt="The sea", max_tokens=0, echo=True, logprobs=0)
    bits = lm.score("The sea")
    told = [-x / math.log(2) for x in choice["logprobs"]["token_logprobs"]]
    assert told == pytest.approx(bits.tolist(), abs=1e-6)
    assert choice["text"] == "The sea"
    (choice,) = client.complete(prompt="The sea", max_tokens=5, echo=True, seed=1)
    assert choice["text"] == "The sea" + lm.generate("The sea", length=5, seed=1)


def test_usage_comes_with_the_last_event_if_it_is_asked_for(client):
    fields = {"prompt": "ab", "max_tokens": 9, "n": 2}
    *events, last = client.events(**fields, stream_options={"include_usage": True})
    assert last["choices"] == []
    assert last["usage"] == {"prompt_tokens": 2, "completion_tokens": 18, "total_tokens": 20}
    assert all("usage" not in event for event in events)
    assert all("usage" not in event for event in client.events(**fields))


def test_next_is_the_distribution_of_the_next_character(client, lm):
    status, answer = client.post("/v1/next", prompt="The s", top=0)
    assert status == 200
    characters = answer["characters"]
    assert sum(one["probability"] for one in characters) == pytest.approx(1, abs=1e-9)
    assert {one["text"] for one in characters} == set(lm.tokenizer.vocabulary)
    assert characters == sorted(characters, key=lambda one: -one["probability"])
    assert characters[0]["probability"] == pytest.approx(lm_probability(lm, "The s"), abs=1e-6)
    _, answer = client.post("/v1/next", prompt="The s")
    assert answer["characters"] == characters[:10]


def test_score_is_the_surprisal_of_a_text(client, lm):
    text = "The sea was calm."
    status, answer = client.post("/v1/score", text=text)
    assert (status, answer["text"]) == (200, text)
    assert answer["bits"] == pytest.approx(lm.score(text).tolist(), abs=1e-9)
    assert answer["bits_per_char"] == pytest.approx(lm.score(text).mean())
    status, answer = client.post("/v1/score", text="")
    assert (status, answer["bits"], answer["bits_per_char"]) == (200, [], 0)


def test_models_health_and_metrics(client, lm):
    assert client.get("/health") == (200, {"status": "ok"})
    status, answer = client.get("/v1/models")
    assert (status, answer["object"]) == (200, "list")
    (card,) = answer["data"]
    assert (card["id"], card["object"], card["owned_by"]) == ("golden-lstm", "model", "charlm")
    assert card["charlm"]["vocabulary"] == lm.tokenizer.vocabulary
    assert card["charlm"]["ready"] is True
    assert client.get("/v1/models/golden-lstm") == (200, card)
    before = metrics(client)
    client.text(prompt="a", max_tokens=17)
    client.post("/v1/completions", prompt=1)
    after = metrics(client)
    model = 'model="golden-lstm"'
    gained = {k: v - before.get(k, 0) for k, v in after.items()}
    assert gained[f"charlm_characters_total{{{model}}}"] == 17
    assert gained[f"charlm_streams_total{{{model}}}"] == 1
    path = 'path="/v1/completions"'
    assert gained[f'charlm_requests_total{{{path},status="200"}}'] == 1
    assert gained[f'charlm_requests_total{{{path},status="400"}}'] == 1


def metrics(client):
    _, headers, body = client.ask("GET", "/metrics")
    assert headers["content-type"].startswith("text/plain; version=0.0.4")
    lines = [line for line in body.decode().splitlines() if not line.startswith("# ")]
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines)}


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"prompt": 5}, "prompt", "must be a text"),
        ({"prompt": ["a", 5]}, "prompt", "must be a text"),
        ({"prompt": ["a"] * 65}, "prompt", "64 texts at most"),
        ({"prompt": "\ud800"}, "prompt", "lone surrogate"),
        ({"prompt": "ß"}, None, "ß"),
        ({"prompt": "a", "max_tokens": -1}, "max_tokens", "from 0 to 100000"),
        ({"prompt": "a", "max_tokens": "5"}, "max_tokens", "whole number"),
        ({"prompt": "a", "max_tokens": 0}, "max_tokens", "echo"),
        ({"prompt": "a", "temperature": "hot"}, "temperature", "temperature"),
        ({"prompt": "a", "temperature": -1}, "temperature", "temperature"),
        ({"prompt": "a", "temperature": True}, "temperature", "temperature"),
        ({"prompt": "a", "top_p": 2}, "top_p", "top_p"),
        ({"prompt": "a", "top_k": 1.5}, "top_k", "top_k"),
        ({"prompt": "a", "min_p": 1.5}, "min_p", "min_p"),
        ({"prompt": "a", "seed": 1.5}, "seed", "seed"),
        ({"prompt": "a", "n": 0}, "n", "from 1 to 64"),
        ({"prompt": "a", "n": 3, "best_of": 2}, "best_of", "less than n"),
        ({"prompt": ["a", "b"], "n": 64}, "n", "too many"),
        ({"prompt": "a", "stop": 5}, "stop", "must be a text"),
        ({"prompt": "a", "stop": ""}, "stop", "stop"),
        ({"prompt": "a", "stop": "ß"}, None, "ß"),
        ({"prompt": "a", "allow": "ß"}, None, "ß"),
        ({"prompt": "a", "logprobs": 21}, "logprobs", "from 0 to 20"),
        ({"prompt": "a", "echo": "yes"}, "echo", "true or false"),
        ({"prompt": "a", "stream": 1}, "stream", "true or false"),
        ({"prompt": "a", "stream_options": 1}, "stream_options", "object"),
        ({"prompt": "a", "stream": True, "n": 1, "best_of": 2}, "best_of", "stream"),
        ({"prompt": "a", "temprature": 1}, "temprature", "temperature"),
        ({"prompt": "a", "suffix": "b"}, "suffix", "does not support"),
        ({"prompt": "a", "logit_bias": {"5": 1}}, "logit_bias", "does not support"),
    ],
)
def test_a_wrong_field_is_named(client, fields, param, words):
    status, answer = client.post("/v1/completions", **fields)
    assert status in (400, 413)
    error = answer["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert words in error["message"]
    assert error["type"] == "invalid_request_error"
    if param is not None:
        assert error["param"] == param
    assert "--" not in error["message"]  # which is how the command line says it


def test_what_other_servers_take_is_taken_as_long_as_it_asks_for_nothing(client):
    fields = {"suffix": None, "logit_bias": {}, "presence_penalty": 0, "user": "me", "n": None}
    assert client.text(prompt="a", max_tokens=2, seed=1, **fields) == client.text(
        prompt="a", max_tokens=2, seed=1
    )


def test_an_unknown_model_or_address_is_an_error_in_words(client):
    status, answer = client.post("/v1/completions", model="gpt", prompt="a")
    assert (status, answer["error"]["param"]) == (404, "model")
    assert "golden-lstm" in answer["error"]["message"]
    assert client.get("/v1/models/gpt")[0] == 404
    status, answer = client.get("/v2/nothing")
    assert (status, answer["error"]["message"]) == (404, "there is no address /v2/nothing")
    assert client.get("/v1/completions")[0] == 405


def test_with_several_models_one_must_be_named():
    with serving(GOLDEN, DATA / "golden-gru.safetensors") as client:
        status, answer = client.post("/v1/completions", prompt="a")
        assert (status, answer["error"]["param"]) == (400, "model")
        gru = charlm.load(DATA / "golden-gru.safetensors")
        text = client.text(model="golden-gru", prompt="a", max_tokens=9, seed=1)
        assert text == gru.generate("a", length=9, seed=1)


def test_two_runs_of_one_name_are_refused(tmp_path):
    other = tmp_path / GOLDEN.name
    shutil.copy(GOLDEN, other)
    with pytest.raises(charlm.ConfigError, match="two of the runs are called golden-lstm"):
        Models([str(GOLDEN), str(other)])


def test_in_whole_numbers_a_text_is_the_same_whoever_else_is_served(lm):
    exact = lm.exact()
    expected = exact.generate(PROMPT, length=400, seed=5)
    with serving(GOLDEN, exact=True) as client:
        assert client.text(prompt=PROMPT, max_tokens=400, seed=5) == expected
        others = [
            threading.Thread(
                target=client.complete, kwargs={"prompt": "a", "max_tokens": 50 * k, "n": 1 + k % 3}
            )
            for k in range(1, 9)
        ]
        for other in others:
            other.start()
        found = [client.text(prompt=PROMPT, max_tokens=400, seed=5) for _ in range(3)]
        for other in others:
            other.join()
        assert found == [expected] * 3


def test_a_client_that_goes_away_frees_its_places(client):
    connection = client.begin(prompt="a", max_tokens=100_000, n=5)
    wait_until(lambda: client.running() == 5)
    connection.close()
    client.until_idle()
    body = json.dumps({"prompt": "a", "max_tokens": 100_000})
    with socket.create_connection(("127.0.0.1", client.port)) as connection:
        connection.sendall(
            f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json"
            f"\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
        )
        wait_until(lambda: client.running() == 1)
    client.until_idle()


def test_a_full_queue_says_when_to_come_again(client):
    waiting = [client.begin(prompt="a", max_tokens=100_000, n=64) for _ in range(4)]
    wait_until(lambda: client.running() == 256)
    body = json.dumps({"prompt": "a", "max_tokens": 1})
    status, headers, answer = client.ask("POST", "/v1/completions", body, JSON)
    assert status == 429
    assert int(headers["retry-after"]) > 0
    assert json.loads(answer)["error"]["type"] == "rate_limit_error"
    for connection in waiting:
        connection.close()
    client.until_idle()
    assert len(client.text(prompt="a", max_tokens=1)) == 1


def test_a_text_that_takes_too_long_ends_as_it_is(client, monkeypatch):
    monkeypatch.setattr(workers, "LONGEST_SECONDS", 0.2)
    (choice,) = client.complete(prompt="a", max_tokens=100_000)
    assert choice["finish_reason"] == "length"
    assert 0 < len(choice["text"]) < 100_000


def test_an_error_of_the_server_itself_is_an_answer_and_not_its_end(client, monkeypatch):
    from charlm.inference.batching import Batch

    step, left = Batch.step, [3]

    def fails(batch):
        left[0] -= 1
        if left[0] == 0:
            raise MemoryError
        step(batch)

    monkeypatch.setattr(Batch, "step", fails)
    status, answer = client.post("/v1/completions", prompt="a", max_tokens=9, n=3)
    assert (status, answer["error"]["type"]) == (500, "server_error")
    assert len(client.text(prompt="a", max_tokens=9)) == 9
    left[0] = 3
    *_, last = client.events(prompt="a", max_tokens=9)
    assert last["error"]["message"] == "the server has an error of its own"
    client.until_idle()


def test_a_better_model_is_taken_up_while_the_server_runs(tmp_path, monkeypatch):
    from charlm.server import models

    monkeypatch.setattr(models, "LOOK_SECONDS", 0.0)
    file = tmp_path / "story.safetensors"
    shutil.copy(GOLDEN, file)
    gru = charlm.load(DATA / "golden-gru.safetensors").exact()
    with serving(file, exact=True) as client:
        before = client.text(prompt="a", max_tokens=9, seed=1)
        running = client.begin(prompt="a", max_tokens=2_000, seed=1)
        # Its first bytes show that it has its model: the first text may still count as running.
        received = running.recv(65536)
        assert received
        swap = tmp_path / "new"
        shutil.copy(DATA / "golden-gru.safetensors", swap)
        swap.replace(file)
        after = client.text(prompt="a", max_tokens=9, seed=1)
        assert after == gru.generate("a", length=9, seed=1) != before
        # What was begun goes on with the model that it began with.
        with running:
            while b"data: [DONE]" not in received:
                received += running.recv(65536)
        texts = [
            json.loads(line[6:])["choices"][0]["text"]
            for line in re.findall(rb"^data: \{.*\}", received, re.MULTILINE)
        ]
        assert "".join(texts) == charlm.load(GOLDEN).exact().generate("a", length=2_000, seed=1)
        client.until_idle()
        wait_until(lambda: len(client.models.workers()) == 1)
        file.unlink()  # a model that has been moved away is served on
        assert client.text(prompt="a", max_tokens=9, seed=1) == after


def test_a_run_that_has_just_begun_is_served_from_its_first_model_on(workplace, run, monkeypatch):
    from charlm.server import models

    monkeypatch.setattr(models, "LOOK_SECONDS", 0.0)
    assert run("train", "text.txt", "--out", "made", *QUICK_FLAGS)[0] == 0
    begun = workplace / "story"
    begun.mkdir()
    with serving(begun) as client:
        status, headers, answer = client.ask("POST", "/v1/completions", '{"prompt":""}', JSON)
        assert (status, headers["retry-after"]) == (503, "5")
        assert "no model yet" in json.loads(answer)["error"]["message"]
        assert client.get("/v1/runs/story")[1]["evaluations"] == []
        assert client.get("/v1/models")[1]["data"][0]["charlm"]["ready"] is False
        for file in (workplace / "made").iterdir():
            shutil.copy(file, begun)
        assert len(client.text(prompt="", max_tokens=5)) == 5
        status, progress = client.get("/v1/runs/story")
        assert status == 200
        assert [line["step"] for line in progress["evaluations"]] == [2, 4, 6]
        assert progress["step"] == progress["steps"] == 6
        assert (progress["finished"], progress["seconds_left"]) == (True, 0.0)
        assert len(progress["sample"]) == models.SAMPLE_LENGTH
        assert progress["files"] == ["text.txt"]
        assert progress["settings"]["hidden_size"] == 11


def test_the_inspection_of_a_text_is_a_page_of_its_own(client):
    status, answer = client.post("/v1/inspect", text="The sea was calm, and the ship lay still.")
    assert status == 200
    status, headers, page = client.ask("GET", answer["url"])
    assert status == 200
    assert "sandbox allow-scripts" in headers["content-security-policy"]
    assert b"The sea was calm" in page
    assert client.get("/inspections/unknown")[0] == 404


# The command.


@contextlib.contextmanager
def served(*words, lines=1):
    """Run ``charlm serve``; yield it, what it has said, and a client."""
    command = [sys.executable, "-m", "charlm", "serve", *map(str, words), "--port", "0"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as server:
        try:
            said = [server.stderr.readline() for _ in range(lines)]
            found = re.search(r"http://127\.0\.0\.1:(\d+)", said[-1])
            assert found, said
            yield server, said, Client(int(found[1]))
        finally:
            server.kill()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_the_command_and_says_so_to_who_is_waiting(number, status):
    with served(GOLDEN) as (server, said, client):
        assert said[0].startswith("serving golden-lstm at http://127.0.0.1:")
        running = client.begin(prompt="a", max_tokens=100_000)
        wait_until(lambda: client.running() == 1)
        server.send_signal(number)
        assert server.wait(20) == status
        with running:
            received = rest_of(running)
        assert b"the server is stopping" in received
        assert received.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")
        assert server.stderr.read().splitlines() == [
            "stopping; what is being written has a second to end, Ctrl-C again stops now",
            "charlm: stopped",
        ]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--host", "0.0.0.0"], "choose a key"),
        (["--port", "70000"], "from 0 to 65535"),
        (["--api-key", "two words"], "without spaces"),
        (["--allow-origin", "*"], "a scheme and a host"),
        (["--host", "no.such.name.invalid"], "choose a key"),
        (["--host", "no.such.name.invalid", "--api-key", "k"], "there is no address"),
        (["--host", "8.8.8.8", "--api-key", "k"], "cannot listen on 8.8.8.8"),
    ],
)
def test_a_setting_that_is_wrong_or_not_safe_is_refused(run, words, expected):
    status, out, err = run("serve", GOLDEN, *words)
    one_line(status, out, err, 1)
    assert expected in err


def test_a_port_that_is_taken_is_one_line(run, client):
    status, out, err = run("serve", GOLDEN, "--port", client.port)
    one_line(status, out, err, 1)
    assert f"port {client.port}: Address already in use" in err


@pytest.mark.parametrize("package", ["uvicorn", "starlette"])
def test_without_the_extra_the_command_names_it(package):
    program = f"import sys\nsys.modules[{package!r}] = None\nfrom charlm.cli import main\n"
    words = [sys.executable, "-c", f"{program}sys.exit(main(['serve', {str(GOLDEN)!r}]))"]
    result = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, timeout=60)
    one_line(result.returncode, result.stdout, result.stderr, 1)
    assert f"serve needs the package {package}: pip install 'charlm[serve]'" in result.stderr


def test_a_run_that_is_not_there_is_one_line(run):
    status, out, err = run("serve", "nothing")
    one_line(status, out, err, 1)
    assert "nothing" in err


def test_serving_imports_no_torch():
    program = (
        "import sys\nsys.path.insert(0, 'tests')\nfrom serving import serving\n"
        f"with serving({str(GOLDEN)!r}) as client:\n"
        "    client.text(prompt='a', max_tokens=5)\n"
        "    assert client.post('/v1/score', text='ab')[0] == 200\n"
        "    assert client.post('/v1/inspect', text='The sea was calm and the')[0] == 200\n"
        "    assert client.ask('GET', '/')[0] == 200\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=ROOT)


def test_a_load_of_streams_and_bad_requests_leaves_nothing_behind():
    """A short form of ``reliability/serve.py``, which puts it on for ten minutes."""
    program = ROOT / "tests" / "reliability" / "serve.py"
    words = ["--minutes", "0.02", "--requests", "90", "--streams", "7"]
    result = subprocess.run(
        [sys.executable, program, GOLDEN, *words],
        capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert "0 wrong" in result.stdout
