"""Reading an option or a label out of replies: many phrasings, and many that must not be read."""

import itertools
import json
import os
import random
import time
from pathlib import Path

import pytest

from fgvr.answers import STRATEGIES, foci_prefix, label, normalise, read_option, read_yes_no, strict

OPTIONS = ["American Crow", "Blue Jay", "Black-footed Albatross", "Northern Cardinal"]

# {L} the letter, {l} in lower case, {T} the text of that option
ONE_LETTER = [
    "{L}", "{l}", " {L}\n", "({L})", "({l})", "[{L}]", "{L}.", "{L})", "{l})", "{L}:", "{L},", "**{L}**", "**{L}.**",
    "`{L}`",
    '"{L}"', "'{L}'", "$\\boxed{{{L}}}$", "\\boxed{{\\text{{{L}}}}}", "<answer>{L}</answer>", "{L}</s>",
    "{L}<end_of_utterance>", "{L}. {T}", "{L}) {T}", "({L}) {T}", "{L}: {T}", "{L} - {T}", "{L} – {T}", "{L}, {T}.",
    "{L} {T}",
    "**{L}. {T}**", "{l}. {T}", "Option {L}", "option {l}.", "Letter {L}", "Choice {L}: {T}",
    "Answer: {L}", "answer: {l}", "ANSWER: ({L})", "Answer:\n{L}", "Answer:\n\n({L}) {T}", "**Answer:** {L}",
    "**Answer: {L}**",
    "Final answer: {L}. {T}", "Answer - {L}", "Answer = {L}",
    "The answer is {L}.", "The answer is ({L}).", "The correct answer is: **{L}. {T}**", "the correct option is {L}",
    "The answer is {L} because of the crown.", "The answer to this question is {L}.", "The answer is definitely {L}.",
    "The best match is {L}.", "My guess is {L}.", "The right choice would be {L}.", "The answer is option {L}.",
    "I choose {L}.", "I would choose option {L}.", "I'd go with {L}.", "I select ({L}).", "I pick option {L}",
    "{L} is the correct answer.", "Option {L} is correct.", "Option {L} seems to be the best match.",
    "I think that it is {L}.", "It must be {L}.", "Based on the bill, the answer is {L}.", "This bird matches ({L}).",
    "Sure! {L}", "Sure, here it is: ({L}) {T}", "{L}\n\nThe bird has a long tail.", "{L}\nBecause of the bill.",
    "{L} because it is small", "Considering A, B, C and D, the best match is {L}.", "The image shows a {T} ({L}).",
    "First I thought the answer is A, but the answer is {L}.", "Answer: B. Wait, no. Answer: {L}",
    "A. American Crow\nB. Blue Jay\nC. Black-footed Albatross\nD. Northern Cardinal\n\nAnswer: {L}",
    "<think>A or C. The answer is C?</think>{L}", "<think>A</think>\n\nAnswer: {L}", "reasoning, A</think>\n{L}",
    '{{"answer": "{L}"}}', "{{'answer': '{L}'}}", "### Answer\n{L}", "Assistant: {L}", "\uff1a{L}",
    "**Final Answer**\n\n{L}",
    "Between A and B, I choose {L}.", "Therefore {L}.", "I'm not sure, but {L}", "Definitely {L}!",
    "<s>{L}", "\uff08{L}\uff09", "This bird matches ({l}).", "**Answer:** {L} (others: A, B, C, D)",
    "Option {L} is correct, as a bird with such a bill is not common.", "The answer is {L} since the Blue Jay is blue",
]  # fmt: skip

ONE_TEXT = [
    "{T}", "{T}.", "a {T}", "An {T}!", "**{T}**", '"{T}"', "It is a {T}.", "This is the {T}, a bird.",
    "The bird is a\n{T}",
    "I believe this is a {T}, since it is small.", "A {T} stands on a branch.", "Answer: {T}", "The answer is {T}.",
    "Answer: The bird in this image is a {T}.", "The choices are Blue Jay and American Crow. The answer is {T}.",
    "It is not a sparrow but a {T}.", "Is it an eagle? No: {T}", "E. {T}", "{T}</s>", "I am sure it's {T}",
]  # fmt: skip

NOTHING = [
    "", " ", "\n", "...", "I", "I.", "E", "(E)", "Answer: E", "Z", "1", "2.", "A bird", "a bird", "a", "A black bird.",
    "A crow",
    "I think it is a bird", "American", "Crow", "Because it is blue", "Both", "Cannot tell", "Dog", "Chihuahua",
    "Boxer",
    "Barn Swallow", "An image of a bird", "Cardinals are red", "Answer: a crow", "The answer is a bird.", "Unknown",
    "None of the above", "I cannot tell.", "A or B", "A, B", "A/B", "A & B", "A and C", "AB", "A) or (B)", "A; B",
    "ABCD",
    "Answer: A or B", "Answer: A, B", "The answer is B or C.", "Maybe B, or maybe C", "The answer is not B",
    "It is not (B).",
    "Blue Jay or American Crow", "Either a Blue Jay or an American Crow.", "It isn't a Blue Jay.",
    "It cannot be the Blue Jay",
    "B. American Crow", "Answer: D. Blue Jay", "(C) Blue Jay", "Blue Jays", "Bluejay", "Option E", "I'd say it's hard",
    "The answer is A bird.", "Option A is not correct.", "A is not right", "(B) isn't the answer",
    "The Blue Jay is not it.", "(A bird with a bill)", "[A bird]", "Answer: (a bird)",
    "A. American Crow\nB. Blue Jay\nC. Black-footed Albatross\nD. Northern Cardinal", "B's", "C-Class", "R&D", "b2b",
    "D/C",
    "Vitamin-B", "A: B", "<think>Answer: B", "It could be A, but I think B", "option_b", "D-Day", "Cardinal, Northern",
]  # fmt: skip
NOTHING.remove("a")                                     # a lone letter is a letter


def fill(template, index, options=OPTIONS):
    letter = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[index]
    return template.format(L=letter, l=letter.lower(), T=options[index])


@pytest.mark.parametrize("template", ONE_LETTER)
def test_a_letter_is_read(template):
    for index in range(4):
        assert read_option(fill(template, index), OPTIONS) == index, fill(template, index)


@pytest.mark.parametrize("template", ONE_TEXT)
def test_a_text_is_read_whatever_its_spelling(template):
    for index, change in itertools.product(range(4), (str, str.lower, str.upper, lambda t: t.replace("-", " "))):
        reply = template.replace("{T}", change(OPTIONS[index]).replace(" ", "_") if change is str.lower else "{T}")
        reply = reply.replace("{T}", change(OPTIONS[index]))
        assert read_option(reply, OPTIONS) == index, reply


@pytest.mark.parametrize("reply", NOTHING)
def test_nothing_is_guessed(reply):
    assert read_option(reply, OPTIONS) is None


def test_the_place_of_an_option_does_not_matter():
    draw = random.Random(0)
    for _ in range(200):
        options = draw.sample([*OPTIONS, "Arctic Tern", "I'iwi", "Bald Eagle", "A B C", "Ram C/V Cargo Van"], 4)
        index, template = draw.randrange(4), draw.choice(ONE_LETTER[:-4] + ONE_TEXT[:8])
        if "American Crow" in template:                 # it lists the options of the other tests
            continue
        assert read_option(fill(template, index, options), options) == index, (template, options)


def test_letters_inside_option_texts_are_no_letters():
    cars = ["Mercedes-Benz C-Class Sedan 2012", "Ram C/V Cargo Van Minivan 2012", "Audi A 4", "Type D R&D"]
    for index, name in enumerate(cars):
        assert read_option(f"It is the {name}.", cars) == index
        assert read_option(f"This car looks like a {name} to me", cars) == index
    assert read_option("It is a C-Class.", cars) is None and read_option("A C/V van", cars) is None


def test_the_longest_of_nested_texts_wins():
    flowers = ["petunia", "mexican petunia", "rose", "pink primrose"]
    for reply, want in {
        "A Mexican petunia.": 1, "It is a petunia.": 0, "pink primrose": 3, "a primrose": None,
        "a rose or a primrose": 2,
        "a mexican petunia, not a petunia": 1, "a mexican petunia or a petunia": None, "mexican petunia; rose": None,
    }.items():  # fmt: skip
        assert read_option(reply, flowers) == want, reply


def test_a_denied_option_is_not_the_answer():
    for reply, want in {
        "It's not a Blue Jay, it's a Northern Cardinal.": 3, "Option A is not correct. Option B is correct.": 1,
        "It can't be A. It must be B.": 1, "Unlike the American Crow, the Blue Jay is blue.": 1,
        "A is not blue, and B is correct.": 1, "an elegant Blue Jay": 1,
        "American Crow? No. Answer:\nBlue Jay": 1,
        "a different American Crow": 0, "Rather than a Blue Jay, an American Crow": 0,
    }.items():  # fmt: skip
        assert read_option(reply, OPTIONS) == want, reply


def test_only_letters_of_real_choices_count():
    two, nine = OPTIONS[:2], [f"kind {i}" for i in "abcdefghi"]
    assert read_option("C", two) is None and read_option("Answer: C. Answer: B", two) == 1
    assert read_option("I", nine) == 8 and read_option("The answer is I.", nine) == 8
    assert read_option("Answer: I would say so", nine) is None and read_option("\uff22", nine) == 1
    assert read_option("I think it is (C)", nine) == 2 and read_option("I am sure", nine) is None
    assert read_option("Z", [str(i) for i in range(26)]) == 25


def test_equal_or_empty_options_are_never_chosen_by_text():
    twins = ["Blue Jay", "blue_jay", "x"]
    assert read_option("blue jay", twins) is None and read_option("It is a blue jay", twins) is None
    assert read_option("x or so", twins) == 2 and read_option("b", twins) == 1
    assert read_option("nothing here", ["", "...", "x"]) is None and read_option("", ["", "x"]) is None


def test_foci_prefix_behaves_as_the_reference():
    for reply, want in {
        "B": 1, "b": 1, "American Crow": 0, "Answer: D": 0, "Because": 1, "Chihuahua": 2, "Dog": 3, "(B)": None,
        " B": None, "**B**": None, "": None, "It is B": None,
    }.items():  # fmt: skip
        assert foci_prefix(reply, OPTIONS) == read_option(reply, OPTIONS, "foci-prefix") == want, reply
    assert foci_prefix("E", [*OPTIONS, "x"]) == 4 and foci_prefix("C", OPTIONS[:2]) is None


def test_strategies_that_know_letters_agree_on_the_released_replies():
    if not os.environ.get("FGVR_SHARED"):
        pytest.skip("FGVR_SHARED is not set")
    path = Path(os.environ["FGVR_SHARED"]) / "reference/finedefics/results/bird-200--finedefics.json"
    for row in json.loads(path.read_text())["predictions"]:
        for name in STRATEGIES.keys() - {"substring"}:
            assert row["options"][STRATEGIES[name](row["predicted_raw"], row["options"])] == row["predicted"]


# reply, then what each strategy reads: strict, foci-prefix, finedefics, vlmevalkit, mmmu, substring
COMPARED = [
    ("B", "B B B B B -"), ("b", "B B B - - -"), ("(B)", "B - - B B -"), (" B", "B - B B B -"), ("**B**", "B - - B - -"),
    ("Answer: B", "B A B B B -"), ("American Crow", "A A A A - A"), ("Because it is blue", "- B B - - -"),
    ("Blue Jay", "B B B B - B"), ("Dog", "- D D - - -"), ("A or B", "- A A - B -"), ("A bird", "- A A A A -"),
    ("It is a Blue Jay, I am sure of that", "B - - B B B"), ("Answer: D. Blue Jay", "- A D D - B"),
    ("(A) is wrong, (C) is right", "C - - - C -"), ("User: ... Assistant: C", "C - C C C -"), ("", "- - - - - -"),
    ("An image of a Northern Cardinal", "D A A D D D"), ("Blue Jays", "- B B B - B"), ("None of these", "- - - - - -"),
]  # fmt: skip


@pytest.mark.parametrize(("reply", "want"), COMPARED)
def test_the_strategies_differ_as_their_sources_do(reply, want):
    read = [read_option(reply, OPTIONS, strategy) for strategy in STRATEGIES]
    assert " ".join("-" if i is None else "ABCD"[i] for i in read) == want


def test_aliases_stand_for_their_option():
    options = ["Artic_Tern", "Common Tern", "Tern", "Sooty Tern"]
    aliases = [["Arctic Tern", "Sterna paradisaea"], ["Sterna"], [], ["Common Tern", "Sterna"]]
    for reply, want in {
        "Arctic Tern": 0, "It is a sterna-paradisaea.": 0, "The answer is Arctic tern": 0, "Sterna": None, "a tern": 2,
        "Common Tern": 1, "an Arctic Tern or a Sooty Tern": None, "B": 1, "A. Arctic tern": 0, "B. Arctic tern": None,
        "Antarctic Tern": 2,
    }.items():  # fmt: skip
        assert read_option(reply, options, aliases=aliases) == want, reply
    assert read_option("Arctic Tern", options) == 2 and read_option("Arctic", options, aliases=aliases) is None
    assert read_option("Wilson's", ["x", "Wilsons"], aliases=[["y"], []]) == 1


@pytest.mark.parametrize(
    ("reply", "strict", "prefix"),
    [
        ("yes", "yes", "yes"), ("No.", "no", "no"), (" Yes", "yes", None), ("Yes, it is not a jay", "yes", "yes"),
        ("**No**, this is", "no", None), ("Nobody knows", None, "no"), ("Answer: no", "no", None), ("", None, None),
        ("Not sure", None, "no"), ("yes or no", None, "yes"), ("The answer is yes.", "yes", None),
        ("I see no", None, None),
        ("No... The answer is yes", "yes", "no"), ("<think>no</think>Yes", "yes", None), ("No-one", None, "no"),
        ("No doubt it is one", "no", "no"),
    ],
)  # fmt: skip
def test_yes_or_no(reply, strict, prefix):
    assert read_yes_no(reply) == strict and read_yes_no(reply, "foci-prefix") == prefix


def test_wrong_calls_are_refused():
    with pytest.raises(ValueError, match="strategy"):
        read_yes_no("yes", "random")
    for options, strategy in (([], "strict"), (["x"] * 27, "strict"), (["x"], "random")):
        with pytest.raises(ValueError, match=r"options|strategy"):
            read_option("A", options, strategy)


@pytest.mark.parametrize(
    "part",
    ["answer to ", "answer is the ", "Blue Jay ", "A ", "(A) ", "not ", "option ", "a", "(", "it is ", "\n", "A."],
)
def test_a_long_reply_is_read_in_linear_time(part):
    start = time.process_time()
    strict(part * (100_000 // len(part)), OPTIONS)
    assert time.process_time() - start < 5


def test_label_is_a_normalised_exact_match():
    names = ["Black_footed_Albatross", "Wilson's Warbler", "737-800", "rose"]
    for reply, want in {
        "black-footed albatross.": 0, "A Black footed Albatross": 0, "Answer: wilsons warbler</s>": 1,
        "Wilson\u2019s_Warbler": 1,
        "737 800": 2, "ROSE\n": 3, "It is a rose": None, "primrose": None, "roses": None, "": None, "Answer:": None,
    }.items():  # fmt: skip
        assert label(reply, names) == (None if want is None else names[want]), reply
    assert label("blue jay", ["Blue Jay", "blue-jay"]) is None and label("", [""]) is None


def test_normalise_is_idempotent_and_keeps_what_is_only_articles():
    for text in ("The  A-Team", "a", "An", "Größe_X", "ﬁnch", "I'iwi", "---", "", "Clark`s  Nutcracker\t"):
        assert normalise(normalise(text)) == normalise(text)
    assert normalise("a") == "a" and normalise("---") == "" and normalise("ﬁnch") == "finch"
    assert normalise("x " * 300) == ("x " * 300).strip()
