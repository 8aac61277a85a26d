"""Prompts and the parsers of their replies."""

import json
import os
import random
import time
from pathlib import Path

import pytest

from fgvr import prompts
from fgvr.prompts import GENERAL, hide_name, leaks, parse_answer, parse_attributes, parse_description

THREE = ["bill shape", "wing color", "tail"]


@pytest.fixture(scope="module")
def finer():
    if not os.environ.get("FGVR_SHARED"):
        pytest.skip("FGVR_SHARED is not set")
    return Path(os.environ["FGVR_SHARED"]) / "reference/finer_vocabulary_free"


def test_prompts_say_what_the_papers_say():
    assert prompts.discover("bird", "species").startswith(
        "Your task is to tell me what are the useful attributes for distinguishing bird species in a photo of a bird."
    )
    assert prompts.attribute_question("bill shape", "bird") == "Describe the bill shape of the bird in this image."
    assert prompts.attribute_question(GENERAL, "bird") == "Questions: Describe this image in details. Answer:"
    assert prompts.open_question("car") == "What is the name of the car in this image?"
    assert "dog" in prompts.describe("dog")


def test_summarise_lays_the_pairs_out():
    values = {"bill shape": "long {thin}\n- crown: red", GENERAL: "a bird"}
    first, general, listed = prompts.summarise("bird", values).split("\n\n")
    assert first == (
        "Summarize the information you get about the bird from the general description and attribute description "
        "with five sentences."
    )
    assert general == "General Description: a bird"
    assert listed == "Attributes List:\n- bill shape: long {thin} - crown: red"
    assert list(values) == ["bill shape", GENERAL]                       # the argument is left as it was
    assert "General Description:" not in prompts.summarise("bird", {"tail": "long"})


def test_multiple_choice_is_in_foci_s_format():
    assert prompts.multiple_choice("Which?", ["a {b}", "c"]) == (
        "Which?\nChoices:\nA. a {b}\nB. c\nAnswer with the letter from the given choices directly."
    )
    for options in (["a"], [str(i) for i in range(27)], ["a", "b\nC. c"]):
        with pytest.raises(ValueError, match="2 to 26"):
            prompts.multiple_choice("Which?", options)


@pytest.mark.parametrize(
    "reply",
    [
        "['bill shape', 'wing color', 'tail']",
        '["Bill Shape", "wing color", "tail."]',
        "```python\nattributes = [\n    'bill_shape',\n    'wing color',  # upper side\n    'the tail',\n]\n```",
        'Sure! {"attributes": ["bill shape", "wing color", "tail"]} I hope that helps.',
        '{"bill shape": "how long it is", "wing color": "of which kind", "tail": "forked?"}',
        "[bill shape, wing color, tail]",
        "['bill shape', 'wing color', 'tail', 'unfinis",
        "['bill shape' 'wing color', 'tail']",                            # a missing comma fuses nothing
        "Such attributes [1] are: ['bill shape', 'wing color', 'tail', 'Tail']",
        "Here they are:\n- bill shape\n- wing color\n- tail",
        "1. **Bill shape**: short or long, hooked\n2. **Wing color**: which\n3. **Tail** (long or short)\n",
        "* Bill shape - its form\n\n* wing color\n* tail\n\nLet me know!",
        "1) bill shape\n2) wing color\n3) tail",
        "\u2022 bill shape\n\u2022 wing color\n\u2022 tail",
        "bill shape, wing color, tail",
        "Useful attributes are: bill shape, wing color and tail.",
        "Birds differ. The useful attributes include the bill shape, wing color (left, right), and tail. They help.",
        "bill shape\nwing color\ntail\n",
    ],
)
def test_attribute_names_are_read_from_many_shapes(reply):
    assert parse_attributes(reply) == THREE


@pytest.mark.parametrize(
    "reply", ["", "\n", "I do not know.", "Sorry, I cannot, as an AI.", "[]", "{}", "[1, 2]", "...", "'", "bill",
              "yes, bird", "Birds fly quite high\nNobody knows quite why they do\nAsk me something else"]
)
def test_no_attribute_names_are_made_up(reply):
    assert parse_attributes(reply) == []


def test_attribute_names_are_bounded():
    many = [f"part {i} colour" for i in range(100)]
    assert parse_attributes(str(many)) == many[:40] and parse_attributes(str(many), most=3) == many[:3]
    odd = ["x" * 61, "one b c d e f g", "bird's tail", "", "42", "tail", "TAIL"]
    assert parse_attributes(str(odd)) == ["bird's tail", "tail"]


def test_finer_s_attribute_lists_are_read(finer):
    counts = {"bird": 29, "flower": 36, "pokemon": 26}                   # pokemon's file fuses two of its 26 names
    for superclass, count in counts.items():
        text = (finer / f"{superclass}_vqa_questions.txt").read_text()
        names = parse_attributes(text)
        assert len(names) == count and all(f"'{name}'" in text for name in names)
        questions = [prompts.attribute_question(name, superclass) for name in [GENERAL, *names]]
        pairs = json.loads((finer / f"{superclass}_attributes_pairs_3.json").read_text())
        answers = len(next(iter(pairs.values())))
        assert len(questions) == answers + (superclass == "pokemon")


def test_finer_s_answers_are_left_as_they_are(finer):
    for path in sorted(finer.glob("*_attributes_pairs_*.json")):
        for values in json.loads(path.read_text()).values():
            assert [parse_answer(value) for value in values] == values


def test_an_answer_is_one_bounded_line():
    for reply, want in {
        " a long,\n curved  bill ": "a long, curved bill", "Answer: red": "red", "red Question: what else? blue": "red",
        "red\nQuestions: Describe": "red", "Unknown.": "unknown", " UNKNOWN ": "unknown",
        "unknown to me": "unknown to me",
        "": "", "Question: a": "", "no questions": "no questions",
    }.items():  # fmt: skip
        assert parse_answer(reply) == want
    assert parse_answer("word " * 100) == ("word " * 60).strip()
    assert parse_answer("x" * 400) == "x" * 300
    assert parse_answer("ab cd", most=2) == parse_answer("ab cd", most=4) == "ab"
    assert parse_answer("ab cd ef", most=5) == "ab cd"


@pytest.mark.parametrize(
    "reply",
    [
        "The bird is small. It has a red belly.",
        "Summary: The bird is small. It has a red belly.",
        "**Summary:**\n\nThe bird is small.\nIt has a red belly.\n",
        '"The bird is small. It has a red belly."',
        "```\nThe bird is small. It has a red belly.\n```",
        "Sure! Here is the summary:\n\nThe bird is small. It has a red belly.",
        "Sure, here's a five-sentence summary of the bird: The bird is small. It has a red belly.",
        "I'd be happy to help! Here is the summary:\n1. The bird is small.\n2. It has a red belly.",
        "Based on what you told me:\n- The bird is small.\n- It has a red belly.",
        "General Description: 'a bird'\n\nAttributes List:\n- bill: long\n- 'tail': 'red'\n\n"
        "Summary: The bird is small. It has a red belly.\n\nThree possible species:\n1. Robin\n2. Crow\n\n"
        'Output JSON:\n{"Robin": ["The bird is small."]}',
        "The bird is small. It has a red belly. Three possible species: Robin, Crow",
        "The bird is small. It has a red belly. Species names for this bird are:\n1) Robin\n2) Crow",
        "The bird is small. It has a red belly. The species may be:",
        "The bird is small. It has a red belly. Three possible species names for it could be Robin, Crow and Auk.",
        "The bird is small. It has a red belly.\n\nQuestion: What is its name? Answer: Robin",
        "- bill: long\n- tail: red\nThe bird is small. It has a red belly.",
    ],
)
def test_the_description_is_read_without_what_is_around_it(reply):
    assert parse_description(reply) == "The bird is small. It has a red belly."


def test_a_description_is_bounded_and_may_be_empty():
    for most in (20, 25):
        assert parse_description("One two. " * 9, most=most) == "One two. One two."
    assert parse_description("one two " * 9, most=20) == "one two one two one"
    assert parse_description("x" * 50, most=20) == "x" * 20
    for reply in ("", "Sure!", "- bill: long", "Here is the summary:"):
        assert parse_description(reply) == ""


def test_finer_s_summaries_are_read(finer):
    for name, count in {"bird": 200, "flower": 102, "pokemon": 30}.items():
        path = finer / f"{name}_llm_replies_raw_{3 if name == 'pokemon' else 1}.json"
        replies = json.loads(path.read_text()).values()
        assert len(replies) == count
        plain = 0
        for reply in replies:
            found = parse_description(reply)
            assert 100 < len(found) < 2000 and found[-1] in ".!" and "\n" not in found
            assert [junk for junk in ("Summary", "ossible", "JSON", "{", "1)", "List") if junk in found] == []
            assert " ".join(reply.split()).count(found) >= 1              # nothing is invented or rearranged
            paragraph = reply.partition("Summary:")[2].strip().split("\n\n")[0]
            plain += found == " ".join(paragraph.split())
        assert plain >= 0.85 * count                                      # the others run on into headings and guesses


def test_a_name_is_hidden_in_any_spelling():
    text = "The Blue Jay has a blue-jay's crest. BLUE_JAYS eat; bluejay! A Blue\nJay?"
    hidden = hide_name(text, "Blue Jay", "bird")
    assert hidden == "This bird has this bird's crest. This bird eat; this bird! This bird?"
    assert leaks(text, "blue_jay") and not leaks(hidden, "Blue Jay")
    both = "Wilsons Warbler and Wilson\u2019s warbler"
    assert hide_name(both, "Wilson's Warbler", "bird") == "This bird and this bird"
    assert hide_name("It is a 737-800 (a jet).", "737-800", "aircraft") == "It is this aircraft (a jet)."


def test_words_that_only_contain_the_name_stay():
    for text in ("The crown is blue.", "a crowned bird", "scarecrow", ""):
        assert hide_name(text, "crow", "bird") == text and not leaks(text, "crow")
    assert hide_name("This bird is a bird", "Bird", "bird") == "This bird is a bird"      # nothing to hide
    assert hide_name("any text", " ", "bird") == "any text"


def test_hiding_always_hides():
    draw = random.Random(0)
    words = ["the", "a", "Blue", "jay", "jays", "blue-jay", "crow", "crown", "crow's", ".", "(crow)", "ram c/v"]
    for _ in range(300):
        text = " ".join(draw.choices(words, k=draw.randint(0, 12)))
        category = draw.choice(["Blue Jay", "crow", "Ram C/V", "jay"])
        hidden = hide_name(text, category, "bird")
        assert not leaks(hidden, category) and (hidden == text) == (not leaks(text, category))


@pytest.mark.parametrize(
    "part", ["'a", "['a", "[", "{", "'", "- a\n", "a, ", "1.", "\\'", "  ", "**", "\n", "the ", ": ", "a\n", ":\n"]
)
def test_odd_and_long_replies_take_no_time_and_raise_nothing(part):
    start = time.process_time()
    reply = part * (100_000 // len(part))
    assert len(parse_attributes(reply)) <= 40
    assert len(parse_answer(reply)) <= 300 and len(parse_description(reply)) <= 2000
    hide_name(reply, "a a", "bird")
    assert time.process_time() - start < 5
