"""A model that answers messages, over the wire and in this process;
the transcript that survives everything."""

from __future__ import annotations

import json
import os
import signal
import tempfile
import time
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from servers.chat_server import serve

from gateau_lib.evaluation.answering import answer
from gateau_lib.evaluation.benchmark_item import Item
from gateau_lib.models.loading import SHIPPED
from gateau_lib.sources import chat, transcript
from gateau_lib.study.errors import ModelError, ScoreError

SECRET = "sk-test-0123456789"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four short pauses, and nobody's own key."""
    monkeypatch.setattr(transcript, "PAUSES", (0.0, 0.01, 0.01, 0.01))
    monkeypatch.delenv(chat.KEY, raising=False)


def question(text: str, **how) -> chat.Request:
    return chat.Request(({"role": "user", "content": text},), **how)


def echo(body: dict) -> str:
    return f"you said {body['messages'][-1]['content']}"


def ask(spec: str, texts: list[str], folder: Path, **how) -> list[str]:
    replies = transcript.ask(chat.open_model(spec), [question(t, **how) for t in texts], folder, "questions")
    return [reply.text for reply in replies]


def test_answers_in_the_order_of_the_questions_a_few_at_a_time(tmp_path):
    def slow_first(body):
        time.sleep(0.1 if body["messages"][0]["content"] in "03" else 0.0)
        return echo(body)

    with serve(slow_first) as server:
        texts = [str(i) for i in range(9)]
        assert ask(server.spec, texts, tmp_path, temperature=0.5, seed=7, max_tokens=9) == [
            f"you said {t}" for t in texts
        ]
    assert 1 < server.most_under_way <= chat.Endpoint.parallel
    assert server.headers[0]["path"] == "/v1/chat/completions"
    body = server.bodies[0]
    assert (body["model"], body["temperature"], body["seed"], body["max_tokens"]) == ("teacher", 0.5, 7, 9)
    lines = [json.loads(line) for line in (tmp_path / transcript.TRANSCRIPT).read_text().splitlines()]
    assert sorted(line["reply"]["text"] for line in lines) == [f"you said {t}" for t in texts]
    assert {(line["model"], line["seed"], line["temperature"], line["max_tokens"]) for line in lines} == {
        ("teacher", 7, 0.5, 9)
    }
    assert sorted(line["messages"][0]["content"] for line in lines) == texts


def test_what_is_in_the_transcript_is_not_asked_again(tmp_path):
    with serve(echo) as server:
        ask(server.spec, ["a", "b", "a"], tmp_path)
        assert len(server.bodies) == 2  # the same question twice in one call is one request
        assert ask(server.spec, ["b", "c"], tmp_path) == ["you said b", "you said c"]
        assert len(server.bodies) == 3
        ask(server.spec, ["b"], tmp_path, seed=1)
        assert len(server.bodies) == 4  # another seed is another question
        with serve(lambda body: "moved") as moved:  # the same model on another host
            assert ask(moved.spec, ["a"], tmp_path) == ["you said a"]
            assert ask(moved.spec.replace("teacher", "other"), ["a"], tmp_path) == ["moved"]


def test_a_torn_last_line_is_asked_again(tmp_path):
    with serve(echo) as server:
        ask(server.spec, ["a", "b"], tmp_path)
        path = tmp_path / transcript.TRANSCRIPT
        whole = path.read_bytes()
        for cut in (1, 40):
            path.write_bytes(whole[:-cut])
            assert ask(server.spec, ["a", "b"], tmp_path) == ["you said a", "you said b"]
            assert all(json.loads(line) for line in path.read_text().splitlines())
    assert len(server.bodies) == 4


def test_a_damaged_line_is_named(tmp_path):
    with serve(echo) as server:
        ask(server.spec, ["a"], tmp_path)
        path = tmp_path / transcript.TRANSCRIPT
        path.write_bytes(b"{}\n" + path.read_bytes())
        with pytest.raises(chat.ChatError, match="line 1: damaged; delete that line"):
            ask(server.spec, ["a"], tmp_path)


FAULTS = {
    "error 500": (500, "overloaded"),
    "error 503 in HTML": (503, "<html>busy</html>"),
    "too many requests": (429, "slow down"),
    "dropped connection": None,
    "time-out": 0.4,
    "not JSON": b"<html>welcome</html>",
    "no choices": b'{"choices": []}',
    "no message": b'{"choices": [{"message": null}]}',
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_passing_fault_is_tried_again(fault, tmp_path, monkeypatch):
    monkeypatch.setattr(chat, "SECONDS", 0.1)
    met = []

    def recovers(body):
        text = body["messages"][0]["content"]
        met.append(text)
        return FAULTS[fault] if met.count(text) < 3 and text == "b" else echo(body)

    with serve(recovers) as server:
        assert ask(server.spec, ["a", "b", "c"], tmp_path) == ["you said a", "you said b", "you said c"]
    assert met.count("b") == 3 and met.count("a") == met.count("c") == 1


@pytest.mark.parametrize("fault", FAULTS)
def test_a_lasting_fault_ends_in_one_line_and_keeps_the_answers(fault, tmp_path, monkeypatch):
    monkeypatch.setattr(chat, "SECONDS", 0.1)
    broken = [True]

    def half(body):
        text = body["messages"][0]["content"]
        if text == "b" and broken:
            time.sleep(0.05)  # the other questions are answered by then
            return FAULTS[fault]
        return echo(body)

    with serve(half) as server:
        with pytest.raises(
            chat.ChatError, match=r"no answer after 5 tries .* answers are kept in .*transcript.jsonl"
        ) as stop:
            ask(server.spec, ["a", "b", "c", "d"], tmp_path)
        assert "\n" not in str(stop.value)
        broken.clear()
        server.bodies.clear()
        assert ask(server.spec, ["a", "b", "c", "d"], tmp_path) == [f"you said {t}" for t in "abcd"]
        assert [body["messages"][0]["content"] for body in server.bodies] == ["b"]


def test_the_pause_that_a_server_asks_for(tmp_path, monkeypatch):
    busy = chat.Busy("status 429", 0.3)
    replies = iter([busy, busy, chat.Reply("at last")])

    def reply(self, request):
        found = next(replies)
        if isinstance(found, Exception):
            raise found
        return found

    monkeypatch.setattr(chat.Endpoint, "reply", reply)
    begin = time.monotonic()
    assert ask("http://127.0.0.1:1/v1#m", ["a"], tmp_path) == ["at last"]
    assert time.monotonic() - begin > 0.6


def test_no_server_at_all(tmp_path):
    with serve(echo) as server:
        spec = server.spec
    with pytest.raises(chat.ChatError, match="127.0.0.1.*Connection refused.*0 answers are kept"):
        ask(spec, ["a"], tmp_path)


def test_a_refused_request_does_not_end_the_run_and_is_asked_again(tmp_path):
    window = [3]

    def narrow(body):
        return (
            echo(body)
            if len(body["messages"][0]["content"]) <= window[0]
            else (400, '{"error": "context too long"}')
        )

    with serve(narrow) as server:
        model = chat.open_model(server.spec)
        requests = [question("ab"), question("much too long"), question("cd")]
        replies = transcript.ask(model, requests, tmp_path, "questions")
        assert [r.finish for r in replies] == ["stop", "refused", "stop"]
        assert "context too long" in replies[1].error and replies[1].text == ""
        window[0] = 100
        assert transcript.ask(model, requests, tmp_path, "questions")[1].text == "you said much too long"
        assert len(server.bodies) == 4


def test_a_server_that_refuses_everything_is_not_asked_ten_thousand_times(tmp_path):
    why = "refused the first 32 requests: status 400: 'max_tokens' is not supported"
    refusing = serve(lambda body: (400, "'max_tokens' is not supported"))
    with refusing as server, pytest.raises(chat.ChatError, match=why):
        ask(server.spec, [str(i) for i in range(1000)], tmp_path)
    assert len(server.bodies) < transcript.REFUSALS + 3 * chat.Endpoint.parallel


@pytest.mark.parametrize(
    ("status", "says"),
    [(401, chat.KEY), (403, chat.KEY), (404, "no model 'teacher' there"), (302, "no model 'teacher' there")],
)
def test_a_wrong_key_or_address_is_not_tried_again(status, says, tmp_path):
    with serve(lambda body: (status, "no")) as server, pytest.raises(chat.ChatError, match=says):
        ask(server.spec, ["a"], tmp_path)
    assert len(server.bodies) == 1


def test_the_key_is_sent_and_stored_nowhere(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv(chat.KEY, SECRET)
    left = ["fine", (500, f"bad key {SECRET}"), f"your key is {SECRET}", (400, f"bad key {SECRET}")]
    with serve(lambda body: left.pop(0)) as server:
        model = chat.open_model(server.spec)
        for text in "abc":
            transcript.ask(model, [question(text)], tmp_path, "questions")
        assert {h["authorization"] for h in server.headers} == {f"Bearer {SECRET}"}
        left.append((401, SECRET))
        with pytest.raises(chat.ChatError) as stop:
            ask(server.spec, ["d"], tmp_path)
    shown = capsys.readouterr()
    kept = "".join(path.read_text() for path in tmp_path.rglob("*") if path.is_file())
    assert f"your key is ${chat.KEY}" in kept and f"bad key ${chat.KEY}" in kept
    assert SECRET not in kept + shown.out + shown.err + str(stop.value) + repr(model)


def test_a_key_with_a_line_break_is_mended_or_named_but_not_shown(tmp_path, monkeypatch):
    with serve(echo) as server:
        monkeypatch.setenv(chat.KEY, SECRET + "\n")
        assert ask(server.spec, ["a"], tmp_path) == ["you said a"]
        assert server.headers[0]["authorization"] == f"Bearer {SECRET}"
        for odd in (f"{SECRET}\n{SECRET}", f"{SECRET}é"):
            monkeypatch.setenv(chat.KEY, odd)
            with pytest.raises(chat.ChatError, match="holds characters that are in no key") as stop:
                ask(server.spec, ["b"], tmp_path)
            assert SECRET not in str(stop.value)


def test_the_time_that_is_left_counts_what_is_left(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(transcript, "track", lambda each, label, total: told.append(total) or each)
    with serve(echo) as server:
        model = chat.open_model(server.spec)
        for texts in ("abc", "abcde", "abcde"):
            transcript.ask(model, [question(t) for t in texts], tmp_path, "questions", len(texts))
    assert told == [3, 2, 0]


def test_no_other_token_is_sent(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_mine")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with serve(echo) as server:
        ask(server.spec, ["a"], tmp_path)
    assert "authorization" not in server.headers[0]


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("", "no model is named"),
        ("http://host:8000/v1", "name the model after a #"),
        ("http:///v1#m", "name the model after a #"),
        (f"https://me:{SECRET}@host/v1#m", "put the key into the environment"),
        (f"https://host/v1?key={SECRET}#m", "put the key into the environment"),
    ],
)
def test_a_spelling_that_is_no_model(spec, says):
    with pytest.raises(chat.ChatError, match=says) as stop:
        chat.open_model(spec)
    assert SECRET not in str(stop.value)


def test_an_address_copied_whole():
    assert chat.open_model("http://host:8000/v1/chat/completions#a/b").url == "http://host:8000/v1"
    assert chat.open_model("http://host:8000/v1/#a/b").name == "a/b"
    with pytest.raises(ModelError):
        chat.open_model("./nowhere")


@pytest.mark.filterwarnings("ignore:.*fork")
def test_a_killed_run_goes_on_and_asks_nothing_twice(tmp_path):
    def steady(body):
        time.sleep(0.02)
        return echo(body)

    with serve(steady) as server:
        texts = [str(i) for i in range(20)]
        run = os.fork()
        if run == 0:
            try:
                ask(server.spec, texts, tmp_path)
            finally:
                os._exit(0)
        path = tmp_path / transcript.TRANSCRIPT
        while not path.exists() or path.read_bytes().count(b"\n") < 5:
            time.sleep(0.005)
        with pytest.raises(ScoreError, match="another run writes here"):
            ask(server.spec, ["0"], tmp_path)
        os.kill(run, signal.SIGKILL)
        os.waitpid(run, 0)
        time.sleep(0.1)  # what was under way arrives at the server, and its answers nowhere
        kept = {json.loads(line)["messages"][0]["content"] for line in path.read_bytes().split(b"\n")[:-1]}
        assert 5 <= len(kept) < 20
        server.bodies.clear()
        assert ask(server.spec, texts, tmp_path) == [f"you said {t}" for t in texts]
    asked = [body["messages"][0]["content"] for body in server.bodies]
    assert sorted(asked) == sorted(set(texts) - kept)


def test_a_full_disk_leaves_a_transcript_that_reads(tmp_path, monkeypatch):
    with serve(echo) as server:
        ask(server.spec, ["a"], tmp_path)
        monkeypatch.setattr(
            os, "fsync", lambda number: (_ for _ in ()).throw(OSError(28, "No space left on device"))
        )
        with pytest.raises(OSError, match="No space left"):
            ask(server.spec, ["b"], tmp_path)
        monkeypatch.undo()
        assert (tmp_path / transcript.TRANSCRIPT).read_bytes().count(b"\n") == 1
        assert ask(server.spec, ["a", "b"], tmp_path) == ["you said a", "you said b"]


# --- a local model ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny() -> chat.Local:
    return chat.open_model(str(SHIPPED / "long"))


def test_a_local_model_answers_greedily_as_the_benchmarks_do(tiny, tmp_path):
    texts = ["The harbour of Selm lies in the north.", "Who keeps the lamp?"]
    items = [Item(str(i), "t", (text,), max_new_tokens=12) for i, text in enumerate(texts)]
    wanted = answer(tiny.model, tiny.tokenizer, items, tmp_path / "a", room=244, chat=False)["answers"]
    replies = transcript.ask(tiny, [question(t, max_tokens=12) for t in texts], tmp_path / "b", "questions")
    assert [reply.text for reply in replies] == [said[0] for said in wanted]
    line = json.loads((tmp_path / "b" / transcript.TRANSCRIPT).read_text().splitlines()[0])
    assert len(line["weights"]) == 64 and line["url"] is None


def test_sampling_is_decided_by_the_seed_alone(tiny):
    asked = {seed: question("The harbour", max_tokens=20, temperature=1.5, seed=seed) for seed in (0, 1)}
    first = tiny.reply(asked[0]).text
    torch.manual_seed(5)
    state = torch.get_rng_state()
    assert tiny.reply(asked[0]).text == first != tiny.reply(asked[1]).text
    assert torch.equal(torch.get_rng_state(), state)
    cold = question("The harbour", max_tokens=20, temperature=1e-4)
    assert tiny.reply(cold).text == tiny.reply(question("The harbour", max_tokens=20)).text


def test_an_answer_that_is_cut_says_so_and_a_long_prompt_is_refused(tiny):
    assert tiny.reply(question("The harbour", max_tokens=3)).finish == "length"
    reply = tiny.reply(question("word " * 3000, max_tokens=3))
    assert reply.finish == "refused" and "the window leaves" in reply.error


def test_out_of_memory_is_a_refusal(tiny, small_memory):
    with small_memory(tiny.model, 10):
        reply = tiny.reply(question("many words make a prompt that is longer than ten tokens", max_tokens=3))
    assert reply.finish == "refused" and "do not fit into memory" in reply.error


def test_a_chat_template_is_used_and_a_system_turn_it_does_not_know_is_put_before_the_question(
    tiny, monkeypatch
):
    messages = ({"role": "system", "content": "Be short."}, {"role": "user", "content": "Who?"})
    read = lambda: tiny.tokenizer.decode(tiny.prompt(messages), skip_special_tokens=True)  # noqa: E731
    assert read() == "Be short.\n\nWho?\n\n"
    known = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
    monkeypatch.setattr(tiny.tokenizer, "chat_template", known)
    assert read() == "<system>Be short.<user>Who?<assistant>"
    unknown = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + known
    monkeypatch.setattr(tiny.tokenizer, "chat_template", unknown)
    assert read() == "<user>Be short.\n\nWho?<assistant>"
    monkeypatch.setattr(tiny.tokenizer, "chat_template", "{{ raise_exception('broken') }}")
    with pytest.raises(chat.ChatError, match="the chat template fails .broken"):
        read()


@given(st.text(max_size=40), st.text(max_size=40))
def test_thoughts_are_not_part_of_what_is_said(thought, text):
    text = text.strip()
    if "</think>" not in thought and not text.startswith("<think>"):
        assert chat.said(chat.Reply(f"\n<think>{thought}</think>\n\n{text}")) == text
        assert chat.said(chat.Reply(text)) == text


@given(st.binary(max_size=60))
def test_any_body_is_an_answer_or_a_fault(body):
    try:
        assert isinstance(chat._completion(body), chat.Reply)
    except chat.Busy as busy:
        assert "\n" not in str(busy)


@given(st.text(alphabet=st.characters(), max_size=30), st.text(max_size=10))
def test_any_text_comes_back_from_the_transcript(text, key):
    body = json.dumps({"choices": [{"message": {"content": text}}]}).encode()
    reply = chat._completion(body)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "transcript.jsonl"
        with path.open("ab+", buffering=0) as file:
            kept = transcript._Talk(chat.Endpoint("http://h/v1", "m"), file)
            kept.add(key, question(text), reply, 0.0)
            again = transcript._Talk(kept.model, file)
            assert again.answers == {key.encode("utf-8", "replace").decode(): reply}
