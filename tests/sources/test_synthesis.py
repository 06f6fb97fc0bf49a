"""Long instruction samples made from documents by a model behind a local server."""

from __future__ import annotations

import json
import re
import runpy
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from servers.chat_server import serve

from gateau_lib import score
from gateau_lib import synthesis as command
from gateau_lib.data.longalign import read_records, read_samples
from gateau_lib.models.loading import SHIPPED
from gateau_lib.sources import chat, synthesis, transcript
from gateau_lib.sources.chat import Reply
from gateau_lib.sources.synthesis import documents, is_about, is_copy, language
from gateau_lib.study.errors import DataError

HARBOUR = (
    "The harbour of Selm was built by Anna Brook. " * 8
    + "\n\nHer lamp was lit in the north tower every evening {sic}."
)
MARKET = "The market of Orvin sells copper kettles on Mondays. " * 8
CHINESE = "塞尔姆港口由安娜建造。北塔的灯每晚点亮。" * 6


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transcript, "PAUSES", (0.0, 0.0))
    monkeypatch.delenv(chat.KEY, raising=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three documents in three formats, one of them below another folder."""
    root = tmp_path / "documents"
    (root / "towns").mkdir(parents=True)
    (root / "harbour.txt").write_text(HARBOUR + "\n")
    (root / "towns" / "market.md").write_text(MARKET)
    (root / "more.jsonl").write_text(json.dumps({"text": CHINESE, "other": 1}) + "\n")
    (root / "picture.png").write_bytes(b"\x89PNG")
    return root


def proposes(body: dict) -> bool:
    return body["messages"][0]["role"] == "user"


def teacher(body: dict) -> str:
    """Five questions on the document's first words, or an answer with them."""
    text = body["messages"][-1]["content"]
    word = next(w for w in ("harbour of Selm", "market of Orvin", "安娜建造") if w in text)
    if proposes(body):
        return (
            "Here they are:\n\n"
            + "\n".join(f"{i}: What of the {word}, part {i}?" for i in range(1, 6))
            + "\n\nDone."
        )
    return f"The {word} is described in the text."


def run(folder: Path, spec: str, out: Path, *more: str) -> int:
    return command.main([str(folder), "--model", spec, "--out", str(out), *more])


def test_samples_that_the_library_reads_and_scores(folder, tmp_path, capsys):
    out = tmp_path / "long.jsonl"
    with serve(teacher) as server:
        assert run(folder, server.spec, out, "--per-document", "4") == 0
        assert len(server.bodies) == 24
    said = capsys.readouterr().out
    assert (
        "12 samples (extraction 3, general 3, reasoning 3, summary 3) on 3 documents; none rejected" in said
    )
    samples = read_samples(out)
    assert [s.id for s in samples][:5] == [*(f"harbour.txt#{i}" for i in range(4)), "more.jsonl:1#0"]
    assert (
        samples[0].context == HARBOUR
        and samples[8].context == MARKET.strip()
        and samples[8].source == "towns/market.md"
    )
    assert re.fullmatch(r"What of the harbour of Selm, part \d\?", samples[0].instruction)
    assert samples[0].response == "The harbour of Selm is described in the text."
    assert Counter(s.kind for s in samples[:4]) == dict.fromkeys(synthesis.KINDS, 1)
    assert len({s.instruction for s in samples}) == 12
    _, record = read_records(out)[0]
    assert record["messages"][0]["content"] == HARBOUR + "\n\n" + samples[0].instruction
    facts = json.loads((tmp_path / "long.manifest.json").read_text())
    assert (
        facts["model"] == {"model": "teacher"}
        and facts["asked"] == 12
        and facts["documents"] == 3
        and facts["rejected"] == {}
    )
    scores = tmp_path / "scores.parquet"
    assert score.main([str(out), "--out", str(scores), "--methods", "contrast", "--max-length", "2048"]) == 0
    assert "12 rows, 0 with an error" in capsys.readouterr().out


def test_what_the_model_is_asked(folder, tmp_path):
    with serve(teacher) as server:
        run(
            folder,
            server.spec,
            tmp_path / "long.jsonl",
            "--per-document",
            "4",
            "--seed",
            "5",
            "--max-new-tokens",
            "99",
        )
    asked = [body for body in server.bodies if proposes(body)]
    assert all(
        body["messages"][0]["content"].startswith((HARBOUR, MARKET.strip(), CHINESE)) for body in asked
    )
    assert {(body["seed"], body["temperature"], body["max_tokens"]) for body in asked} == {(5, 0.7, 99)}
    for words in synthesis.prompts()["en"]["kinds"].values():
        assert sum(words in body["messages"][0]["content"] for body in asked) == 2
    for words in synthesis.prompts()["zh"]["kinds"].values():
        assert sum(words in body["messages"][0]["content"] for body in asked) == 1
    answers = [body for body in server.bodies if not proposes(body)]
    assert {(body["seed"], body["temperature"]) for body in answers} == {(5, 0.0)}
    assert all(
        re.search(r"\n\nWhat of the .*, part \d\?$", body["messages"][1]["content"]) for body in answers
    )


def test_another_run_asks_nothing_and_writes_the_same_and_another_seed_draws_anew(folder, tmp_path):
    out = tmp_path / "long.jsonl"
    with serve(teacher) as server:
        run(folder, server.spec, out, "--per-document", "4")
        first, asked = out.read_bytes(), len(server.bodies)
        out.unlink()
        run(folder, server.spec, out, "--per-document", "4", "--parallel", "1")
        assert out.read_bytes() == first and len(server.bodies) == asked
        run(
            folder, server.spec, out, "--per-document", "5"
        )  # the fifth has the kind of the first, and another question
        assert out.read_bytes() != first and len({s.instruction for s in read_samples(out)}) == 15
        run(folder, server.spec, out, "--per-document", "4", "--seed", "1")
        assert out.read_bytes() != first


def test_a_server_that_breaks_down_and_comes_back(folder, tmp_path, capsys):
    out, up = tmp_path / "long.jsonl", [True] * 4

    def fragile(body):
        return teacher(body) if up and up.pop() else (502, "bad gateway")

    with serve(fragile) as server:
        assert run(folder, server.spec, out) == 2
        said = capsys.readouterr().err.strip().splitlines()
        assert re.match(
            r"error: http.*: no answer after 3 tries \(status 502: bad gateway\); \d answers are kept in .*",
            said[-1],
        )
        assert not out.exists()
        good = [
            json.loads(line)
            for line in (tmp_path / "long.jsonl.parts" / "transcript.jsonl").read_text().splitlines()
        ]
        up += [True] * 10
        server.bodies.clear()
        assert run(folder, server.spec, out) == 0
    kept = [record["messages"] for record in good]
    assert (
        len(kept) == 4
        and len(server.bodies) == 2
        and not any(body["messages"] in kept for body in server.bodies)
    )


def test_stopped_by_the_user(folder, tmp_path, capsys, monkeypatch):
    out, asked, reply = tmp_path / "long.jsonl", [], chat.Endpoint.reply

    def stop_at_the_third(self, request):
        asked.append(request)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return reply(self, request)

    monkeypatch.setattr(chat.Endpoint, "reply", stop_at_the_third)
    with serve(teacher) as server:
        assert run(folder, server.spec, out, "--parallel", "1") == 130
        assert (
            capsys.readouterr().err.splitlines()[-1]
            == "stopped; answers are kept, give the same command to go on"
        )
        assert run(folder, server.spec, out, "--parallel", "1") == 0
    assert len(asked) == 7 and len(server.bodies) == 6


CUT = b'{"choices": [{"message": {"content": "The harbour of"}, "finish_reason": "length"}]}'
FAULTS = {
    "no questions in the reply": lambda body: "I would rather not." if proposes(body) else teacher(body),
    "empty answer": lambda body: teacher(body) if proposes(body) else "<think>Hm.</think>\n ",
    "answer repeats the question": lambda body: (
        teacher(body) if proposes(body) else body["messages"][1]["content"].split("\n\n")[-1]
    ),
    "answer copied from the document": lambda body: (
        teacher(body) if proposes(body) else "It says: " + HARBOUR.split("\n\n")[0]
    ),
    "refused": lambda body: teacher(body) if proposes(body) else (400, "context length exceeded"),
    "not about the document": lambda body: (
        "1: Which planets have rings around them?"
        if proposes(body)
        else "Saturn, Jupiter, Uranus and Neptune have rings."
    ),
    "answer cut at the most new tokens": lambda body: teacher(body) if proposes(body) else CUT,
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_cannot_be_used_is_kept_with_its_reason(fault, folder, tmp_path, capsys):
    out = tmp_path / "long.jsonl"

    def partly(body):
        return (
            FAULTS[fault](body)
            if "harbour" in body["messages"][-1]["content"] or "planets" in str(body)
            else teacher(body)
        )

    with serve(partly) as server:
        assert run(folder, server.spec, out) == 0
    assert [s.source for s in read_samples(out)] == ["more.jsonl:1", "towns/market.md"]
    (lost,) = [
        json.loads(line)
        for line in (tmp_path / "long.jsonl.parts" / "rejected.jsonl").read_text().splitlines()
    ]
    assert lost["id"] == "harbour.txt#0" and lost["fault"] == fault and lost["kind"] in synthesis.KINDS
    assert f"1 rejected ({fault}: 1)" in capsys.readouterr().out
    assert json.loads((tmp_path / "long.manifest.json").read_text())["rejected"] == {fault: 1}
    if fault == "refused":
        assert "context length exceeded" in lost["detail"]


def test_documents_that_cannot_be_used_are_never_sent(folder, tmp_path, capsys):
    (folder / "empty.txt").write_text(" \n")
    (folder / "latin.txt").write_bytes("café".encode("latin-1"))
    (folder / "huge.txt").write_text("The harbour of Selm. " * 1000)
    with serve(teacher) as server:
        assert run(folder, server.spec, tmp_path / "long.jsonl", "--max-length", "2000") == 0
        assert len(server.bodies) == 6
        said = capsys.readouterr().out
        for reason in ("empty document", "not UTF-8", "document too long"):
            assert f"{reason}: 1" in said


def test_a_model_that_always_asks_the_same(folder, tmp_path, capsys):
    with serve(lambda body: "1: What of the harbour of Selm?" if proposes(body) else teacher(body)) as server:
        assert run(folder / "harbour.txt", server.spec, tmp_path / "long.jsonl", "--per-document", "3") == 0
    assert (
        "1 samples" in (said := capsys.readouterr().out) and "2 rejected (question asked before: 2)" in said
    )


def test_a_sample_that_is_too_long(folder, tmp_path, capsys):
    length = len(HARBOUR) + 60  # the document fits, with question and answer it does not
    with serve(teacher) as server:
        assert (
            run(folder / "harbour.txt", server.spec, tmp_path / "long.jsonl", "--max-length", str(length))
            == 2
        )
    said = capsys.readouterr().err
    assert re.search(
        r"no sample was kept; 1 rejected \(too long: 1\), see .*rejected.jsonl and transcript.jsonl", said
    )


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--per-document", "0"], "--per-document must be at least 1, got 0"),
        (["--limit", "0"], "--limit must be at least 1"),
        (["--out", "long.parquet"], "give a name that ends in .jsonl"),
        (["--out", "DOCUMENTS/long.jsonl"], "lies among the documents"),
        (["--model", "http://127.0.0.1:9/v1"], "name the model after a #"),
        (["--model", "./nowhere"], "no config.json there"),
        (["--model", str(SHIPPED / "long"), "--parallel", "2"], "--parallel is for an endpoint"),
    ],
)
def test_options_that_cannot_be_meant(more, says, folder, tmp_path, capsys):
    more = [word.replace("DOCUMENTS", str(folder)) for word in more]
    assert run(folder, "http://127.0.0.1:9/v1#m", tmp_path / "long.jsonl", *more) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and says in said and said.count("\n") == 1


def test_a_folder_without_documents(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        list(documents(tmp_path / "none"))
    with pytest.raises(DataError, match="holds no documents; they end in .txt"):
        list(documents(tmp_path))
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"body": "b"}\n')
    with pytest.raises(DataError, match="a.jsonl, line 2: no 'text'"):
        list(documents(tmp_path))
    assert [d.id for d in documents(tmp_path, 1)] == ["a.jsonl:1"]


def test_a_local_model_that_cannot_do_it_says_so(folder, tmp_path, capsys):
    assert (
        run(folder, str(SHIPPED / "long"), tmp_path / "long.jsonl", "--max-new-tokens", "8", "--limit", "2")
        == 2
    )
    assert "no sample was kept; 2 rejected" in capsys.readouterr().err
    lines = (tmp_path / "long.jsonl.parts" / "transcript.jsonl").read_text().splitlines()
    assert len(lines) == 2 and all(json.loads(line)["reply"]["text"] for line in lines)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("1: Who came?\n2: Who went?", ["Who came?", "Who went?"]),
        (
            "Sure!\n\n1. **Who came?**\n2) Who went?\n\n3. Who came?",
            ["Who came?", "Who went?", "Who came?"][:2],
        ),
        ("**1.** Who came?\n- 2: Who went?", ["Who came?", "Who went?"]),
        ("1：谁来了？\n2、谁走了？\n问题3：为什么？", ["谁来了？", "谁走了？", "为什么？"]),
        ("Question 1: Who came?", ["Who came?"]),
        ("1: \n2: ...\n1999: too large a number", []),
        ("Who came?", []),
    ],
)
def test_numbered_questions(text, wanted):
    assert synthesis.read_questions(Reply(text)) == wanted


def test_the_last_question_of_a_reply_that_was_cut_is_left_out():
    assert synthesis.read_questions(Reply("1: Who came?\n2: Who we", "length")) == ["Who came?"]


WORDS = st.lists(
    st.sampled_from(["Who", "which", "harbour", "of", "12:30", "1.", "港口"]), min_size=1, max_size=5
)


@given(st.lists(WORDS, max_size=9), st.sampled_from([":", ".", ")", "："]))
def test_every_list_of_questions_comes_back(questions, mark):
    questions = [" ".join(["What", *words]) + "?" for words in questions]
    text = "\n\n".join(f"{i}{mark} {question}" for i, question in enumerate(questions, 1))
    assert synthesis.read_questions(Reply(text)) == list(dict.fromkeys(questions))


@given(st.text(max_size=200))
def test_any_reply_gives_questions_of_one_line_or_none(text):
    for question in synthesis.read_questions(Reply(text)):
        assert question.strip() == question and len(question.splitlines()) == 1


def test_copies_and_texts_about_something_else():
    long = " ".join(f"word{i}" for i in range(200))
    assert is_copy(long[50:600].upper(), long) and not is_copy(
        long[50:300], long
    )  # a short quotation is an answer
    assert not is_copy(long[50:400] + " and then something else entirely " * 20, long)
    assert (
        is_about("42", long)
        and is_about("The harbour?", HARBOUR)
        and not is_about("Planets have rings", HARBOUR)
    )
    assert is_about("谁建造了港口？安娜。", CHINESE) and not is_about("土星有光环。", CHINESE)
    assert language(CHINESE) == "zh" and language(HARBOUR) == "en"


def test_it_runs_as_a_module(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["synthesis", "--help"])
    monkeypatch.delitem(sys.modules, "gateau_lib.synthesis")
    with pytest.raises(SystemExit) as end:
        runpy.run_module("gateau_lib.synthesis", run_name="__main__")
    assert end.value.code == 0 and "--per-document" in capsys.readouterr().out
