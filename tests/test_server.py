"""openai:NAME against a real HTTP server, through the official client."""

from __future__ import annotations

import json
import math
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from fgvr.errors import FgvrError, RecordError, TryAgain, Unanswered, UsageError
from fgvr.models import open_answerer
from fgvr.models.base import Ask, Said
from fgvr.models.replay import recorded
from fgvr.models.settings import Server as Settings
from tests.server import Server, serving

pytest.importorskip("openai")
KEY = "sk-secret-of-a-test"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)


@pytest.fixture
def server() -> Iterator[Server]:
    with serving(Server()) as started:
        yield started


def opened(server: Server, **settings: float):
    return open_answerer("openai:org/mllm@v2", server=Settings(base_url=server.url, **settings))  # type: ignore[arg-type]


def images(count: int) -> list[Image.Image]:
    return [Image.new("RGB", (n + 1, 3), (n, 7, 250 - n)) for n in range(count)]


def test_replies_come_in_order_each_for_its_own_pixels(server: Server) -> None:
    def say(prompt: str, image: Image.Image | None) -> str:
        if image is None:
            return f" {prompt}! \n"
        time.sleep(0.02 * (4 - image.width))  # the first ones end last
        return f"{prompt} {image.size} {image.getpixel((0, 0))}"

    server.say = say
    asks = [*(Ask(f"q{n}", image) for n, image in enumerate(images(4))), Ask("text")]
    replies = opened(server).reply(asks, 17)
    assert replies == [*(f"q{n} ({n + 1}, 3) ({n}, 7, {250 - n})" for n in range(4)), "text!"]
    body = server.bodies[0]
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("org/mllm@v2", 0, 17)
    assert server.keys == {f"Bearer {KEY}"}


def test_earlier_turns_are_messages(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.server.read", lambda body: ("", None))
    opened(server).reply([Ask("Which?", images(1)[0], before=(("Colours?", "red"),))], 5)
    first, second, third = server.bodies[0]["messages"]
    assert [part["type"] for part in first["content"]] == ["image_url", "text"]
    assert (first["content"][1]["text"], second, third) == (
        "Colours?",
        {"role": "assistant", "content": [{"type": "text", "text": "red"}]},
        {"role": "user", "content": [{"type": "text", "text": "Which?"}]},
    )


def test_no_more_requests_at_once_than_allowed(server: Server) -> None:
    server.pause_s = 0.05
    opened(server, concurrency=3).reply([Ask(str(n)) for n in range(9)], 5)
    assert server.most_at_once == 3 and len(server.bodies) == 9


def test_letters_from_the_servers_log_probabilities(server: Server) -> None:
    server.likely = {"B": 0.5, " B": 0.1, "A": 0.25, "The": 0.1}
    (found,) = opened(server).letters([Ask("q", images(1)[0])], ["ABC"])
    assert found == [pytest.approx(math.log(0.25)), pytest.approx(math.log(0.6)), None]
    body = server.bodies[0]
    assert (body["max_tokens"], body["logprobs"], body["top_logprobs"]) == (1, True, 20)


def test_a_server_without_log_probabilities(server: Server) -> None:
    with pytest.raises(FgvrError, match=r"^server 127\.0\.0\.1:\d+ gives no log-probabilities .*--scoring generate$"):
        opened(server).letters([Ask("q")], ["AB"])


@pytest.mark.parametrize(
    ("logprobs", "words"),
    [
        ({"content": "x"}, "gives no log-probabilities"),
        ([], "gives no log-probabilities"),
        ({"content": [{"token": "A", "top_logprobs": [{"token": "A", "logprob": "x"}]}]}, "returned 'x'"),
        ({"content": [{"token": "A", "logprob": -1, "top_logprobs": [{"token": "A", "logprob": None}]}]}, "None for a"),
        ({"content": [{"token": "A", "top_logprobs": [{"token": "A", "logprob": math.nan}]}]}, "nan for"),
    ],
)  # fmt: skip
def test_log_probabilities_that_are_none(logprobs: object, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    choice = {"index": 0, "message": {"role": "assistant", "content": "A"}, "logprobs": logprobs}
    monkeypatch.setattr(Server, "reply", lambda self, body: {"id": "1", "choices": [choice]})
    with serving(Server()) as server, pytest.raises(FgvrError, match=words):
        opened(server).letters([Ask("q")], ["AB"])


def test_log_probabilities_without_a_token_or_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    top = [{"token": None, "logprob": -1}, {"token": "B", "logprob": -2}, {"token": "A", "logprob": -math.inf}]
    message = {"role": "assistant", "content": "A"}
    choice = {"index": 0, "message": message, "logprobs": {"content": [{**top[2], "top_logprobs": top}]}}
    monkeypatch.setattr(Server, "reply", lambda self, body: {"id": "1", "choices": [choice]})
    with serving(Server()) as server:
        assert opened(server).letters([Ask("q")], ["AB"]) == [[None, -2.0]]
        assert opened(server).reply_scored([Ask("q")], 5)[0].confidence == -9999.0


def test_choices_that_are_no_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Server, "reply", lambda self, body: {"id": "1", "choices": 5.0})
    with serving(Server()) as server, pytest.raises(RecordError, match="returned no reply"):
        opened(server).reply([Ask("q")], 5)


@pytest.mark.parametrize("fault", ["429", "500", "503", "truncated", "hang"])
def test_what_passes_is_tried_again(server: Server, fault: str) -> None:
    server.faults = [fault]
    assert opened(server, retries=1, timeout_s=1).reply([Ask("q")], 5) == ["A"]
    assert len(server.bodies) == 2


def test_the_pause_is_as_long_as_the_server_asks(server: Server) -> None:
    server.faults, server.retry_after = ["429"], "1.2"
    assert opened(server).reply([Ask("q")], 5) == ["A"]
    assert server.times[1] - server.times[0] >= 1.15  # by itself the client waits half a second


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        ("429 slow down", Unanswered, r"answers 429 \(.*slow down.*\); see to it, then go on with --resume$"),
        ("503", Unanswered, r"answers 503 \(.*for now"),
        ("truncated", Unanswered, "cannot be reached"),
        ("no json", Unanswered, "sends what is no JSON"),
        ("hang", Unanswered, "does not answer within 1 s"),
        ("401 bad sk-secret-of-a-test", FgvrError, "refuses the key; set OPENAI_API_KEY$"),
        ("404", FgvrError, "knows no model 'org/mllm@v2' here"),
        ("400 image too large, sk-secret-of-a-test", RecordError, r"refuses the question: .*image too large, \*\*\*"),
        ("no choices", RecordError, "returned no reply"),
        ('{"error": {"message": "busy with\\nsk-secret-of-a-test", "code": 429}}', Unanswered,
         r"answers with an error: busy with \*\*\* \(429\); see to it, then go on with --resume$"),
        ('{"error": {"message": "no images here", "code": 400}, "choices": []}', RecordError,
         "answers with an error: no images here; correct the record, or ask another model$"),
        ('{"error": "out of credit"}', RecordError, "answers with an error: out of credit; "),
        ('{"object": "error", "message": "prompt too long", "code": 40303}', RecordError, "error: prompt too long; "),
        ('{"choices": [{"message": {"content": ""}, "error": {"message": "died", "code": 502}}]}', Unanswered,
         r"error: died \(502\)"),
        ("empty", Unanswered, "sends what is no JSON"),
    ],
)
def test_what_does_not_pass_is_one_line(server: Server, fault: str, kind: type[Exception], words: str) -> None:
    server.faults = [fault]
    with pytest.raises(kind, match=words) as caught:
        opened(server, retries=0, timeout_s=1).reply([Ask("q")], 5)
    assert type(caught.value) is kind and "\n" not in str(caught.value) and KEY not in str(caught.value)
    assert opened(server).reply([Ask("q")], 5) == ["A"], "it goes on"


def test_an_empty_reply_is_a_reply(server: Server) -> None:
    server.say = lambda prompt, image: ""
    assert opened(server).reply([Ask("q")], 5) == [""]


@pytest.mark.parametrize(
    ("content", "said"), [([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "ab"), (None, ""), (5, None),
                          ([{"type": "image"}], None)],
)  # fmt: skip
def test_replies_of_other_types(server: Server, content: object, said: str | None) -> None:
    server.say = lambda prompt, image: content  # type: ignore[return-value]
    if said is not None:
        assert opened(server).reply([Ask("q")], 5) == [said]
        return
    with pytest.raises(RecordError, match="returned a reply that is no text; ask another model"):
        opened(server).reply([Ask("q")], 5)


def test_models_that_want_the_other_name_of_the_limit(server: Server) -> None:
    server.faults = ["400 Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."]
    answerer = opened(server)
    assert answerer.reply([Ask("q")], 5) + answerer.reply([Ask("q")], 6) == ["A", "A"]
    assert [body.get("max_completion_tokens") for body in server.bodies] == [None, 5, 6]


def test_what_makes_no_sense(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="--adapter"):
        open_answerer("openai:x", adapter=".")
    for address in ("http://[::1", "http://localhost:99999/v1", "http://localhost:x", "http://localhost:0"):
        with pytest.raises(UsageError, match="is no address"):
            open_answerer("openai:x", server=Settings(base_url=address))
    with pytest.raises(UsageError, match="is no address"):
        open_answerer("openai:x", server=Settings(base_url="localhost:8000"))
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(FgvrError, match="OPENAI_API_KEY is not set"):
        open_answerer("openai:x")
    monkeypatch.setitem(__import__("sys").modules, "openai", None)
    with pytest.raises(FgvrError, match=r"install fgvr\[openai\]$"):
        open_answerer("openai:x")


def test_a_server_that_goes_away_ends_with_75_and_resume_goes_on(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command, from start to end; the key is in no file."""
    from fgvr.cli import boundary, eval

    said: list[str] = []
    monkeypatch.setattr(boundary, "say", said.append)
    monkeypatch.chdir(tmp_path)
    records = []
    for n, image in enumerate(images(6)):
        image.save(f"{n}.png")
        record = {"id": f"q{n}", "image": f"{n}.png", "kind": "mcq", "question": "Which?", "answer": "Kite"}
        records.append({**record, "options": ["Owl", "Kite"]})
    Path("in.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    server.say = lambda prompt, image: "B" if image is not None and image.width % 2 else "A"

    def run(url: str, *more: str) -> Exception | None:
        words = ["--model", "openai:m", "--base-url", url, "--image-root", ".", "--batch-size", "2", "--retries", "0"]
        result = CliRunner().invoke(eval.command, [*words, "in.jsonl", *more])
        return result.exception if isinstance(result.exception, Exception) else None

    assert run(server.url, "-o", "whole.jsonl") is None
    server.faults = ["", "", "503"]
    failed = run(server.url, "-o", "out.jsonl")
    assert isinstance(failed, TryAgain) and failed.status == 75 and "out.jsonl.partial" in failed.note
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        gone = f"http://127.0.0.1:{free.getsockname()[1]}/v1"
    failed = run(gone, "-o", "out.jsonl", "--resume")
    assert isinstance(failed, TryAgain) and "cannot be reached" in str(failed)
    asked = len(server.bodies)
    assert run(server.url, "-o", "out.jsonl", "--resume") is None
    again = len(server.bodies) - asked
    assert again in (3, 4), "two of six were there; three, if the fault met the second of its batch"
    assert Path("out.jsonl").read_bytes() == Path("whole.jsonl").read_bytes()
    found = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert [r["prediction"] for r in found] == ["Kite", "Owl"] * 3
    assert [r["correct"] for r in found] == [True, False] * 3
    assert not [path for path in tmp_path.iterdir() if KEY.encode() in path.read_bytes()]
    assert said == [f"server: {n} requests, {10 * n} prompt tokens, {2 * n} completion tokens" for n in (6, 3, again)]


def test_a_question_that_is_not_answered_is_set_aside_and_no_reply_is_paid_twice(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One question fails again and again; the others of its batch are asked once; tokens and cost are written down."""
    from fgvr.cli.summarise import command

    monkeypatch.chdir(tmp_path)
    server.fails = lambda prompt: "503" if "r2 is odd" in prompt else ""
    records = [{"id": f"r{n}", "superclass": "bird", "attributes": {"crown": f"r{n} is odd"}} for n in range(6)]
    Path("in.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    words = ["--model", "openai:m", "--base-url", server.url, "--retries", "1", "--batch-size", "4", "in.jsonl"]
    skip = ["--on-error", "skip", "--errors", "errors", "--price", "0.5,2", "-o", "out"]
    assert CliRunner().invoke(command, [*words, *skip], catch_exceptions=False).exit_code == 0
    assert [r["id"] for r in map(json.loads, Path("out").read_text().splitlines())] == ["r0", "r1", "r3", "r4", "r5"]
    (fault,) = map(json.loads, Path("errors").read_text().splitlines())
    assert fault["id"] == "r2" and "answers 503" in fault["error"]
    assert len(server.bodies) == 5 + 2
    spent = json.loads(Path("out.run.json").read_text())["summary"]["server"]
    assert spent == {"requests": 5, "prompt_tokens": 50, "completion_tokens": 10, "cost": 45e-6}
    failed = CliRunner().invoke(command, words).exception
    assert isinstance(failed, TryAgain) and failed.status == 75 and str(failed).startswith("r2: server ")


def test_a_paid_evaluation_is_repeated_offline(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fgvr.cli.eval import command

    monkeypatch.chdir(tmp_path)
    server.say = lambda prompt, image: f"{image and image.width}"
    for n, image in enumerate(images(3)):
        image.save(f"{n}.png")
    asked = [{"id": f"{n}", "image": f"{n}.png", "kind": "open", "question": "Wide?", "answer": "2"} for n in range(3)]
    Path("in.jsonl").write_text("".join(json.dumps(record) + "\n" for record in asked))
    more = ["--image-root", ".", "in.jsonl"]
    paid = ["--model", "openai:m", "--base-url", server.url, "--record", "paid", *more, "-o", "a"]
    assert CliRunner().invoke(command, paid, catch_exceptions=False).exit_code == 0
    count = len(server.bodies)
    again = CliRunner().invoke(command, ["--model", "replay:paid", *more, "-o", "b"], catch_exceptions=False)
    assert again.exit_code == 0 and len(server.bodies) == count == 3
    assert Path("a").read_bytes() == Path("b").read_bytes() and b'"correct":true' in Path("a").read_bytes()
    refused = CliRunner().invoke(command, [*paid, "--scoring", "letter"]).exception
    assert isinstance(refused, UsageError) and "--record keeps replies to single questions" in str(refused)


def test_schemas_samples_and_confidence(server: Server) -> None:
    server.likely = {"A": 0.5, "B": 0.25}
    model = opened(server)
    assert model.reply_scored([Ask("q", schema={"type": "object"})], 5) == [Said("A", math.log(0.5))]
    assert model.sample(Ask("q"), 5, 0.7, 11) == "A" and model.reply([Ask("q")], 5) == ["A"]
    first, second, third = server.bodies
    assert first["response_format"]["json_schema"]["schema"] == {"type": "object"} and first["logprobs"] is True
    assert (second["temperature"], second["seed"], third["temperature"]) == (0.7, 11, 0)
    assert "response_format" not in second and "logprobs" not in third


def test_what_was_paid_for_before_a_failure_is_recorded(server: Server, tmp_path: Path) -> None:
    """The third of three requests fails for good; when the run goes on, only that one is asked again."""
    server.say = lambda prompt, image: prompt.upper()
    asks = [Ask(name) for name in "abc"]
    server.faults = ["", "", *["503"] * 2]
    file = str(tmp_path / "paid")
    with recorded(opened(server, concurrency=1, retries=1), file) as model, pytest.raises(TryAgain):
        model.reply(asks, 5)
    with recorded(opened(server), file) as model:
        assert model.reply(asks, 5) == ["A", "B", "C"]
    assert [body["messages"][0]["content"][-1]["text"] for body in server.bodies] == ["a", "b", "c", "c", "c"]
    assert open_answerer(f"replay:{file}").reply(asks[::-1], 5) == ["C", "B", "A"]


def test_the_commands_take_a_server(server: Server, tmp_path: Path) -> None:
    from fgvr.cli.discover_attrs import command

    server.say = lambda prompt, image: "['bill', 'tail']"
    words = ["--model", "openai:m", "--base-url", server.url, "--superclass", "bird", "-o", str(tmp_path / "attrs")]
    assert CliRunner().invoke(command, words, catch_exceptions=False).exit_code == 0
    assert len((tmp_path / "attrs").read_text().splitlines()) == 3
    assert KEY not in (tmp_path / "attrs.run.json").read_text()
