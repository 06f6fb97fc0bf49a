"""LongBench-Chat and MT-Bench with a judge behind a local server."""

from __future__ import annotations

import hashlib
import json
import math
import re
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from servers.chat_server import serve

from gateau_lib.evaluation import judging
from gateau_lib.models.loading import SHIPPED
from gateau_lib.sources import chat, transcript
from gateau_lib.study.errors import DataError

CASES = [
    {"idx": 1, "prompt": "A long text.\n\nWho came?", "query": "Who came?", "answer": "Ann {came}."},
    {"idx": 2, "prompt": "长文。\n\n谁来了？", "query": "谁来了？", "answer": "安。"},
]
SHOTS = [[{"answer": f"example {i}{k}", "score": k} for k in (9, 5, 1)] for i in (1, 2)]
QUESTIONS = [
    {"question_id": 81, "category": "writing", "turns": ["Write a poem.", "Make it {short}."]},
    {
        "question_id": 111,
        "category": "math",
        "turns": ["What is 1 + 1?", "And 2 + 2?"],
        "reference": ["2", "4"],
    },
    {"question_id": 123, "category": "coding", "turns": ["Write code.", "Faster."]},
]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transcript, "PAUSES", (0.0, 0.0))
    monkeypatch.delenv(chat.KEY, raising=False)


@pytest.fixture
def cases(tmp_path: Path) -> Path:
    """LongBench-Chat as published: a JSON list, and the rated examples beside it."""
    (tmp_path / "few_shots.json").write_text(json.dumps(SHOTS))
    path = tmp_path / "test_cases.json"
    path.write_text(json.dumps(CASES))
    return path


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    """MT-Bench's question.jsonl."""
    path = tmp_path / "question.jsonl"
    path.write_text("".join(json.dumps(q) + "\n" for q in QUESTIONS))
    return path


def table(answers: dict[str, list[str]]) -> pd.DataFrame:
    return pd.DataFrame({"id": list(answers), "answers": list(answers.values())})


def test_the_prompts_are_the_published_ones():
    kit = judging.PROMPTS
    assert len(kit["longbench-chat"]["prompt"]) == 1555
    texts = [kit["longbench-chat"]["prompt"]]
    for name in ("single-v1", "single-math-v1", "single-v1-multi-turn", "single-math-v1-multi-turn"):
        texts += [kit["mt-bench"][name]["system"], kit["mt-bench"][name]["prompt"]]
    assert (
        hashlib.sha256("\0".join(texts).encode()).hexdigest()
        == "2455ff81d1a0b40ab90a6ee426b7798c4f6a1325980e8a25866dc4bb6a7079ad"
    )


def test_longbench_chat_is_read_as_published(cases, tmp_path):
    items = judging.items(cases, "longbench-chat")
    assert [(i.id, i.task, i.turns) for i in items] == [
        ("1", "longbench-chat", (CASES[0]["prompt"],)),
        ("2", "longbench-chat", (CASES[1]["prompt"],)),
    ]
    assert items[1].extra["few_shots"] == SHOTS[1] and items[0].max_new_tokens == 1024
    lines = tmp_path / "elsewhere" / "questions.jsonl"  # one file, the examples inside
    lines.parent.mkdir()
    lines.write_text("".join(json.dumps(c | {"few_shots": SHOTS[i]}) + "\n" for i, c in enumerate(CASES)))
    assert judging.items(lines, "longbench-chat") == items


def test_mt_bench_is_read_as_published(questions, tmp_path):
    items = judging.items(questions, "mt-bench")
    assert [(i.id, i.task, i.references) for i in items] == [
        ("81", "writing", ()),
        ("111", "math", ("2", "4")),
        ("123", "coding", ()),
    ]
    beside = tmp_path / "reference_answer" / "gpt-4.jsonl"
    beside.parent.mkdir()
    beside.write_text(
        json.dumps({"question_id": 123, "choices": [{"index": 0, "turns": ["code", "faster code"]}]}) + "\n"
    )
    assert judging.items(questions, "mt-bench")[2].references == ("code", "faster code")


@pytest.mark.parametrize(
    ("benchmark", "text", "says"),
    [
        (
            "mt-bench",
            '{"question_id": 1, "turns": ["a"]}',
            "line 1: not a question of mt-bench as published .lacks 'category'",
        ),
        ("mt-bench", "[1]", "record 1: not a question of mt-bench"),
        (
            "mt-bench",
            '{"question_id": 1, "category": "math", "turns": ["a", "b"], "reference": ["c"]}',
            "2 turns and 1 reference",
        ),
        (
            "mt-bench",
            2 * '{"question_id": 1, "category": "math", "turns": ["a"]}\n',
            "line 2: question 1 is there twice",
        ),
        ("mt-bench", '{"question_id": 1', "not valid JSON"),
        ("longbench-chat", json.dumps(CASES[0]), "line 1: 0 rated answers, .* put few_shots.json beside"),
        ("longbench-chat", json.dumps(CASES[0] | {"few_shots": [{"answer": "a"}] * 3}), "lacks 'score'"),
    ],
)
def test_a_file_that_is_no_benchmark(benchmark, text, says, tmp_path):
    path = tmp_path / "file.jsonl"
    path.write_text(text)
    with pytest.raises(DataError, match=says):
        judging.items(path, benchmark)
    for name, says in (("none.jsonl", "no such file"), ("none.json", "cannot be read")):
        with pytest.raises(DataError, match=says):
            judging.items(tmp_path / name, benchmark)


def test_what_the_judge_of_longbench_chat_sees(cases):
    item = judging.items(cases, "longbench-chat")[0]
    (request,) = judging.judge_requests(item, [" First {line}.\nSecond line.\n"])
    system, user = (message["content"] for message in request.messages)
    assert system == "You're a good assistant at evaluating the quality of texts."
    assert "[Question]\nWho came?\n" in user and "[Reference answer begins]\nAnn {came}.\n" in user
    assert "A long text." not in user
    examples = re.findall(
        r"\[Assistant's answer begins\]\n(.*)\n\[Assistant's answer ends\]\n\nRating: (.*)", user
    )
    assert examples == [
        ("example 19", "[[9]]"),
        ("example 15", "[[5]]"),
        ("example 11", "[[1]]"),
        ("First {line}. Second line.", ""),
    ]
    assert request.temperature == 0


def test_what_the_judge_of_mt_bench_sees(questions):
    poem, sums, code = judging.items(questions, "mt-bench")
    first, second = judging.judge_requests(poem, ["Roses {are}", "Red"])
    assert (
        "depth, creativity" in first.messages[1]["content"] and "Roses {are}" in first.messages[1]["content"]
    )
    assert "Make it" not in first.messages[1]["content"]
    assert "Make it {short}.\n\n### Assistant A:\nRed\n" in second.messages[1]["content"]
    assert "second user question" in second.messages[0]["content"]
    first, second = judging.judge_requests(sums, ["2", "5"])
    assert "[The Start of Reference Answer]\n2\n" in first.messages[1]["content"]
    assert "### Reference answer:\n4\n" in second.messages[1]["content"]
    assert "Reference Answer]" not in judging.judge_requests(code, ["a", "b"])[0].messages[1]["content"]
    with pytest.raises(DataError, match="item '81': 1 answers to 2 turns"):
        judging.judge_requests(poem, ["Roses"])


@pytest.mark.parametrize(
    ("benchmark", "text", "wanted"),
    [
        ("longbench-chat", "[[7]]", 7),
        ("longbench-chat", "The scale is [[1]] to [[10]]. Rating: [[8]]", 8),
        ("longbench-chat", "[[rating: 6.5 of 10]]", 6.5),
        ("longbench-chat", "[[good]]", None),
        ("longbench-chat", "7", None),
        ("longbench-chat", "[[11]]", None),
        ("longbench-chat", "[[0]]", None),
        ("mt-bench", "Fine. Rating: [[5]] and [[6]]", 5),
        ("mt-bench", "Rating: [9]", 9),
        ("mt-bench", "[1] is a source, [[4.5]]", 4.5),
        ("mt-bench", "[[rating]]", None),
        ("mt-bench", "Rating: 5", None),
        ("mt-bench", "[[50]]", None),
    ],
)
def test_ratings_are_read_as_the_official_code_reads_them(benchmark, text, wanted):
    assert judging.rating(benchmark, text) == wanted


@given(st.sampled_from(["longbench-chat", "mt-bench"]), st.text(alphabet="[]0123456789. ax٣\n", max_size=40))
def test_a_rating_is_within_the_scale_or_not_there(benchmark, text):
    value = judging.rating(benchmark, text)
    assert value is None or 1 <= value <= 10


@given(
    st.sampled_from(["longbench-chat", "mt-bench"]),
    st.integers(1, 10),
    st.text(alphabet=st.characters(exclude_characters="[]")),
)
def test_a_rating_is_found_in_any_words(benchmark, value, words):
    assert judging.rating(benchmark, f"{words}[[{value}]]{words}") == value


def test_scores_are_ratings_times_ten(questions, tmp_path):
    def judge(body):
        user = body["messages"][-1]["content"]
        return "Good. Rating: [[8]]" if "Make it" in user else "<think>[[1]]</think>Rating: [[3]]"

    items = judging.items(questions, "mt-bench")
    answers = table({"123": ["c", "d"], "81": ["a", "b"], "111": ["2", "4"]})  # in any order
    with serve(judge) as server:
        frame = judging.score(items, answers, server.spec, tmp_path / "out")
        assert list(frame.columns) == judging.COLUMNS
        assert frame["id"].tolist() == ["81", "111", "123"] and frame["task"].tolist() == [
            "writing",
            "math",
            "coding",
        ]
        assert frame["score"].tolist() == [55, 30, 30]
        assert frame["ratings"].tolist() == [[3, 8], [3, 3], [3, 3]] and frame["why"].isna().all()
        assert frame["raw"][0][1] == "Good. Rating: [[8]]"
        assert len(server.bodies) == 6
        pd.testing.assert_frame_equal(judging.score(items, answers, server.spec, tmp_path / "out"), frame)
        assert len(server.bodies) == 6
    frame.to_parquet(tmp_path / "scores.parquet")


def test_nonsense_is_asked_once_more_and_is_never_zero(cases, tmp_path, caplog):
    def judge(body):
        if "谁来了" in body["messages"][-1]["content"]:
            return "I like turtles."
        return "[[6]]" if body["seed"] else "Six, I think."

    items = judging.items(cases, "longbench-chat")
    with serve(judge) as server:
        frame = judging.score(items, table({"1": ["Ann"], "2": ["安"]}), server.spec, tmp_path / "out")
        assert frame["score"][0] == 60 and math.isnan(frame["score"][1])
        assert frame["raw"].tolist() == [["[[6]]"], ["I like turtles."]]
        assert frame["why"][1] == "rating not read"
        assert sorted((body["seed"], body["temperature"]) for body in server.bodies) == [
            (0, 0),
            (0, 0),
            (1, 1),
            (1, 1),
        ]
    assert frame["score"].mean() == 60
    assert "1 of 2 items have no score (rating not read: 1)" in caplog.text
    lines = [json.loads(line) for line in (tmp_path / "out" / "transcript.jsonl").read_text().splitlines()]
    assert sorted(line["reply"]["text"] for line in lines) == [
        "I like turtles.",
        "I like turtles.",
        "Six, I think.",
        "[[6]]",
    ]
    assert all(line["model"] == "teacher" and line["messages"][0]["role"] == "system" for line in lines)


def test_one_unread_turn_leaves_no_half_score(questions, tmp_path):
    poem = judging.items(questions, "mt-bench")[:1]
    with serve(lambda body: "[[9]]" if "Make it" not in body["messages"][-1]["content"] else "hm") as server:
        frame = judging.score(poem, table({"81": ["a", "b"]}), server.spec, tmp_path / "out")
    assert (
        math.isnan(frame["score"][0]) and frame["ratings"][0][0] == 9 and math.isnan(frame["ratings"][0][1])
    )


def test_items_without_an_answer_and_requests_that_are_refused(questions, tmp_path, caplog):
    items = judging.items(questions, "mt-bench")
    with serve(
        lambda body: (400, "too long") if "poem" in body["messages"][-1]["content"] else "[[10]]"
    ) as server:
        frame = judging.score(
            items, table({"81": ["a", "b"], "111": [], "123": ["c", "d"]}), server.spec, tmp_path / "out"
        )
        assert len(server.bodies) == 4
    assert frame["score"].isna().tolist() == [True, True, False] and frame["score"][2] == 100
    assert frame["why"].tolist()[:2] == ["status 400: too long", "no answer"]
    said = caplog.text
    assert (
        "2 of 3 items have no score" in said
        and "1 questions without reference answers (the first: 123)" in said
    )


def test_no_judge_is_an_error_and_not_a_score(questions, tmp_path):
    items = judging.items(questions, "mt-bench")
    with pytest.raises(chat.ChatError, match="no model is named"):
        judging.score(items, table({i.id: ["a", "b"] for i in items}), "", tmp_path / "out")
    with (
        serve(lambda body: "[[1]]") as server,
        pytest.raises(DataError, match="2 items have no row of answers, '81' the first"),
    ):
        judging.score(items, table({"111": ["a", "b"]}), server.spec, tmp_path / "out")


def test_a_judge_that_breaks_down_loses_nothing(questions, tmp_path):
    items, up = judging.items(questions, "mt-bench"), [True] * 3

    def judge(body):
        return "[[4]]" if up and up.pop() else (503, "down")

    answers = table({i.id: ["a", "b"] for i in items})
    with serve(judge) as server:
        with pytest.raises(chat.ChatError, match="answers are kept"):
            judging.score(items, answers, server.spec, tmp_path / "out")
        up += [True] * 3
        assert judging.score(items, answers, server.spec, tmp_path / "out")["score"].tolist() == [40, 40, 40]


def test_a_local_model_can_judge(questions, tmp_path, monkeypatch):
    monkeypatch.setattr(judging, "JUDGE_TOKENS", 4)
    poem = judging.items(questions, "mt-bench")[:1]
    frame = judging.score(poem, table({"81": ["a", "b"]}), str(SHIPPED / "long"), tmp_path / "out")
    assert math.isnan(frame["score"][0]) and frame["why"][0] == "rating not read"  # it was not made for this
    assert all(text for text in frame["raw"][0])
