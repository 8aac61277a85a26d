"""Every family trains: what we make of an image and a conversation is what the model itself makes of pixels, loss and
all; a few steps of align and tune lower it, move the adapters and leave everything else as it was. Tiny random models
of the real classes, with real processors."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from fgvr.errors import FgvrError, RecordError, UsageError
from fgvr.images import open_image
from fgvr.models.answering import VlmAnswerer
from fgvr.models.base import Ask
from fgvr.models.families import PARTS
from fgvr.models.vlm import IGNORE, Vlm, open_vlm
from fgvr.names import Aliases
from fgvr.stages import align, tune
from fgvr.training.adapters import add_adapter, checkpoint_layers, go_on_training, roots, trained
from fgvr.training.checkpoints import seal
from fgvr.training.conversations import Talk, lessons, reply_loss, token_loss
from fgvr.training.trainer import Recipe, train
from fgvr.training.vision import Vision
from tests import families, triples
from tests.test_families import images, real_llava, real_qwen, template

TALKS = [
    Talk("Which bird is this?", "Red Kite"),
    Talk("Describe the bird.\nIn a line.", "The bill of the bird is red. Its tail is forked."),
    Talk("Name?", "Wren"),
]


TURNS = (
    ("Which kind of bird is this?", "A kite."),
    ("List its marks.", "A red tail, forked. A hooked bill."),
    ("So which one is it?", "Red Kite"),
)
DIALOGUE = Talk(*TURNS[-1], TURNS[:-1])


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    """kind -> the folder of a tiny model of it."""
    made: dict[str, str] = {}

    def folder(kind: str) -> str:
        if kind == "smolvlm":
            pytest.importorskip("num2words")
        if kind not in made:
            made[kind] = str(families.build(kind, tmp_path_factory.mktemp(kind)))
        return made[kind]

    return folder


@pytest.fixture(params=list(PARTS))
def vlm(request: pytest.FixtureRequest, folders: Callable[[str], str]) -> Vlm:
    torch.manual_seed(3)
    return open_vlm(folders(request.param), device="cpu")


@pytest.fixture
def world(tmp_path: Path) -> tuple[Path, list[dict[str, Any]]]:
    """Images of other shapes in a folder, and records of both stages."""
    names, records = ["Red Kite", "Wren", "Barn Owl"], []
    for number, (name, image) in enumerate(zip(names, images(), strict=False)):
        image.save(tmp_path / f"{number}.png")
        triple = {"image": f"{number}.png", "category": name, "description": f"The bill of the {name} is red.",
                  "superclass": "bird"}  # fmt: skip
        question = {"kind": "open", "question": "Which bird is this?", "answer": name}
        turns = [{"question": text, "answer": reply} for text, reply in TURNS]
        question = {"kind": "dialogue", "turns": turns} if number == 2 else question
        records.append({**triple, **question, "id": str(number)})
    return tmp_path, triples.mined(records, 1)


def own_loss(vlm: Vlm, talk: Talk, image: Any) -> tuple[float, int]:
    """The model's loss on a conversation that its own processor prepares, from pixels, and its labelled tokens."""
    whole = vlm.chat([*talk.before, (talk.question, talk.answer)], image is not None)
    options: dict[str, Any] = {"return_tensors": "pt", **vlm.text_options(whole)}
    if image is None:
        inputs = own_text(vlm, talk, whole, options)
    elif vlm.parts is not None and vlm.parts.prefix:  # PaliGemma's says which tokens are the reply
        asked = vlm.chat([*talk.before, (talk.question, None)], True)
        inputs = vlm.processor(text=[asked], images=[[image]], suffix=[talk.answer], **options)
    else:
        inputs = vlm.processor(text=[whole], images=[[image]], **options)
        asked = vlm.chat([*talk.before, (talk.question, None)], True)
        prompt = vlm.processor(text=[asked], images=[[image]], **vlm.text_options(asked))["input_ids"][0]
        ids = inputs["input_ids"][0].tolist()
        shared = next((i for i, (a, b) in enumerate(zip(ids, prompt, strict=False)) if a != b), len(prompt))
        inputs["labels"] = inputs["input_ids"].clone()
        inputs["labels"][:, :shared] = IGNORE
    with torch.no_grad():
        return vlm.model(**inputs).loss.item(), int((inputs["labels"] != IGNORE).sum())


def own_text(vlm: Vlm, talk: Talk, whole: str, options: dict[str, Any]) -> Any:
    """A conversation without an image as the tokenizer alone prepares it."""
    assert "<image" not in whole and "image_pad" not in whole
    asked = vlm.chat([*talk.before, (talk.question, None)], False)
    if vlm.parts is not None and vlm.parts.prefix:  # as its processor writes it behind an image
        start, end = vlm.tokenizer.bos_token, vlm.tokenizer.eos_token
        inputs = vlm.tokenizer(f"{start}{asked}\n", talk.answer + end, return_token_type_ids=True, **options)
        inputs["labels"] = torch.where(inputs["token_type_ids"] == 1, inputs["input_ids"], IGNORE)
        return inputs
    inputs, prompt = vlm.tokenizer(whole, **options), vlm.tokenizer(asked, **options)["input_ids"]
    inputs["labels"] = inputs["input_ids"].clone()
    shared = torch.eq(inputs["input_ids"][0, : prompt.shape[1]], prompt[0]).cumprod(0).sum()
    inputs["labels"][:, :shared] = IGNORE
    return inputs


TEXTS = [
    {"id": "t0", "kind": "open", "question": "What is taxonomy?", "answer": "A science.", "modality": "text"},
    {"id": "t1", "kind": "dialogue", "turns": [{"question": q, "answer": a} for q, a in TURNS], "modality": "text"},
]


def test_records_with_and_without_an_image_in_one_batch(
    vlm: Vlm, world: tuple[Path, list[dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch's loss is the mean over all reply tokens of what the model itself, asked plainly for one conversation
    at a time, says that each costs."""
    root, records = world
    mixed = [records[0], TEXTS[0], records[2], TEXTS[1]]
    total = count = 0.0
    for record in mixed:
        image = images()[int(record["id"])] if "image" in record else None
        talk = tune.talk(record)
        turns = (*talk.before, (talk.question, talk.answer))
        for n, turn in enumerate(turns):
            loss, tokens = own_loss(vlm, Talk(*turn, turns[:n]), image)
            total, count = total + loss * tokens, count + tokens
    for together in (False, True):
        for micro_batch in (None, 2, 1):
            found = [(loss.item(), parts["tokens"]) for loss, parts in tune.objective(vlm, root, micro_batch)(mixed)]
            assert sum(tokens for _, tokens in found) == count
            assert sum(loss for loss, _ in found) == pytest.approx(total / count, abs=3e-5)
            assert (len(found) == 1) is (together and micro_batch is None)
        # they are worked on apart, for their lengths differ by an image; but a model takes them together, too
        monkeypatch.setattr(tune, "alike", lambda lengths, size: [[*range(n, min(n + size, len(lengths)))] for n in (
            range(0, len(lengths), size))])  # fmt: skip
    ids, labels = tune.talk(TEXTS[0]).encode(vlm, None)
    asked = VlmAnswerer(vlm)._inputs([Ask(TEXTS[0]["question"])], with_image=False)["input_ids"][0].tolist()
    learnt = labels.count(IGNORE)
    assert ids[:learnt] == asked[:learnt] and len(asked) - learnt <= 1, "what is learnt is what eval asks"


def test_loss_and_labels_are_the_models_own(vlm: Vlm) -> None:
    """Of each conversation alone; in a padded batch, the mean over all reply tokens."""
    features = vlm.features(vlm.pixels(images()[:3]))
    own = [own_loss(vlm, talk, image) for talk, image in zip(TALKS, images(), strict=False)]
    for talk, feature, (wanted, count) in zip(TALKS, features, own, strict=True):
        ids, labels = vlm.encode(talk.question, talk.answer, vlm.sight(feature))
        taught = [label for label in labels if label != IGNORE]
        assert len(taught) == count and ids[-count:] == taught
        assert vlm.tokenizer.decode(taught, skip_special_tokens=True).strip() == talk.answer
        assert reply_loss(vlm, [talk], [feature]).item() == pytest.approx(wanted, abs=2e-5)
    mean = sum(loss * count for loss, count in own) / sum(count for _, count in own)
    assert reply_loss(vlm, TALKS, features).item() == pytest.approx(mean, abs=2e-5)
    other = reply_loss(vlm, TALKS, vlm.features(vlm.pixels(images()[:1] * 3))).item()
    assert abs(other - mean) > 1e-4, "the image matters"


def test_a_conversation_teaches_every_reply(vlm: Vlm) -> None:
    """The labels are the replies, in order, each with what ends it, and each costs what the model itself says that it
    costs after its own prompt; the image stands in the first turn alone."""
    (feature,) = vlm.features(vlm.pixels(images()[:1]))
    found = lessons(vlm, DIALOGUE)
    assert len(found) == (3 if vlm.parts is not None and vlm.parts.prefix else 1)

    def told(pair: tuple[int, int]) -> bool:
        return pair[1] != IGNORE

    taught, total = [], 0.0
    for lesson in found:
        ids, labels = lesson.encode(vlm, vlm.sight(feature))
        assert ids.count(vlm.image_token_id) == len(feature) and len(ids) == len(labels)
        spans = [list(run) for said, run in itertools.groupby(zip(ids, labels, strict=True), told) if said]
        assert all(id == label for span in spans for id, label in span)
        taught += [[label for _, label in span] for span in spans]
        total += reply_loss(vlm, [lesson], [feature]).item() * sum(map(len, spans))
    texts = [vlm.tokenizer.decode(span) for span in taught]
    plain = [vlm.tokenizer.decode(span, skip_special_tokens=True).strip() for span in taught]
    assert plain == [reply for _, reply in TURNS]
    assert all(text.strip() != reply for text, reply in zip(texts, plain, strict=True)), "the end of the turn is taught"
    own = [own_loss(vlm, Talk(*turn, TURNS[:n]), images()[0]) for n, turn in enumerate(TURNS)]
    assert [count for _, count in own] == [len(span) for span in taught]
    assert total == pytest.approx(sum(loss * count for loss, count in own), abs=1e-4)


def test_a_conversation_that_is_too_long(folders: Callable[[str], str]) -> None:
    """Loses its last turns, then the last sentences of its first reply."""
    vlm = open_vlm(folders("llava"), device="cpu")
    whole, two, first = (len(vlm.encode(*TURNS[n], 16, TURNS[:n])[0]) for n in (2, 1, 0))
    assert whole > two > first
    for context, want in ((two, TURNS[1][1]), (first, TURNS[0][1])):
        vlm.writer.context = context
        labels = vlm.encode(*TURNS[2], 16, TURNS[:2])[1]
        assert vlm.tokenizer.decode([x for x in labels if x != IGNORE], skip_special_tokens=True).endswith(want)
    assert vlm.writer.cut == {TURNS[1][1], TURNS[2][1]}
    vlm.writer.context = len(vlm.encode("Q?", "One. Two.", 16)[0]) - 1
    labels = vlm.encode("Q?", "One. Two.", 16, ())[1]
    assert vlm.tokenizer.decode([x for x in labels if x != IGNORE]) == "One.</s>"


@pytest.mark.parametrize(
    ("kind", "tokens", "name", "ends"),
    [
        ("llava", real_llava, "llava-1.5-7b-hf", ("", "", "")),  # this template has no end mark
        ("qwen2_vl", real_qwen, "qwen2-vl-7b-instruct", ("<|im_end|>\n",) * 3),
        ("idefics2", None, "idefics2-8b", ("<end_of_utterance>\n",) * 3),
    ],
)
def test_conversations_in_real_templates(
    shared: Path, tmp_path: Path, kind: str, tokens: Any, name: str, ends: tuple[str, ...]
) -> None:
    built = families.build(kind, tmp_path, tokens(shared) if tokens else None, template(shared, name))
    vlm = open_vlm(str(built), device="cpu")
    ids, labels = DIALOGUE.encode(vlm, 16)
    runs = [[label for _, label in run] for said, run in
            itertools.groupby(enumerate(labels), lambda x: x[1] != IGNORE) if said]  # fmt: skip
    found = [vlm.tokenizer.decode(run, clean_up_tokenization_spaces=False).strip(" ") for run in runs]
    assert found == [reply + end for (_, reply), end in zip(TURNS, ends, strict=True)]
    assert vlm.tokenizer.decode(ids, skip_special_tokens=True).count("List its marks.") == 1
    alone, told = DIALOGUE.encode(vlm, None)
    assert [x for x in told if x != IGNORE] == [x for x in labels if x != IGNORE]
    assert len(alone) <= len(ids) - ids.count(vlm.image_token_id) and vlm.image_token_id not in alone
    assert vlm.tokenizer.decode(alone, clean_up_tokenization_spaces=False).endswith(vlm.chat(TURNS, False))


def test_object_embeddings_are_the_models_own(vlm: Vlm) -> None:
    """Object tokens and EOS, from pixels, one image at a time: in a batch of other lengths the same."""
    found = vlm.pool_features(vlm.features(vlm.pixels(images()[:3])))
    for row, image in zip(found, images(), strict=False):
        pixels = vlm.pixels([image])
        count = len(vlm.features(pixels)[0])
        ids = torch.tensor([[vlm.image_token_id] * count + [vlm.tokenizer.eos_token_id]])
        more: dict[str, Tensor] = {"token_type_ids": (ids != vlm.image_token_id).long()}
        if vlm.sight(vlm.features(pixels)[0]).grid is not None:
            more = {"mm_token_type_ids": (ids == vlm.image_token_id).int()}
        elif vlm.parts is None or not vlm.parts.prefix:
            more = {}
        del pixels["sight"]
        with torch.no_grad():
            wanted = vlm.model.model(input_ids=ids, **pixels, **more).last_hidden_state[0, -1]
        assert torch.allclose(row, wanted, atol=1e-5)
    assert not torch.allclose(found[0], found[1], atol=1e-3)


def test_text_embeddings_do_not_depend_on_their_batch(vlm: Vlm) -> None:
    vlm.features(vlm.pixels(images()[:2]))  # the Qwens keep what an image did to positions
    reply_loss(vlm, TALKS[:1], vlm.features(vlm.pixels(images()[:1])))
    texts = ["Red Kite", "The bill of the bird is red and its tail is forked.", "a"]
    together = vlm.texts(texts)
    for text, row in zip(texts, together, strict=True):
        ids = torch.tensor([vlm.writer.rows([text])[0]])
        with torch.no_grad():
            if vlm.parts is not None and vlm.parts.prefix:
                wanted = vlm.model.model(input_ids=ids, token_type_ids=torch.ones_like(ids))
            else:
                wanted = vlm.part("decoder")(input_ids=ids)
        alone = wanted.last_hidden_state[0, -1]
        assert torch.allclose(row, alone, atol=1e-5)


@pytest.mark.parametrize("stage", ["align", "tune"])
def test_a_family_learns(stage: str, vlm: Vlm, world: tuple[Path, list[dict[str, Any]]]) -> None:
    """The loss falls; adapters of connector and language model move; all else stays bit for bit."""
    root, records = world
    add_adapter(vlm, rank=4, alpha=4, dropout=0.0)
    before = {name: parameter.detach().clone() for name, parameter in vlm.model.state_dict().items()}
    step = align.objective(vlm, root, "paper", 0.1, "mean") if stage == "align" else tune.objective(vlm, root, 2)
    optimiser = torch.optim.AdamW(trained(vlm).values(), lr=0.01)
    vlm.model.train()
    curve = []
    for _ in range(4):
        optimiser.zero_grad()
        curve.append(0.0)
        for loss, _parts in step(records):
            loss.backward()
            curve[-1] += loss.item()
        optimiser.step()
    assert curve[-1] < curve[0] - 0.05, curve
    learning = trained(vlm)
    assert all("lora_" in name for name in learning)
    for part in ("connector", "language-model"):
        inside = [p for name, p in learning.items() if name.startswith(tuple(f"{r}." for r in roots(vlm, part)))]
        assert inside and all(p.grad is not None for p in inside)
        assert any(p.grad.abs().max() > 0 for p in inside if p.grad is not None)
    moved = {name for name, value in vlm.model.state_dict().items() if not torch.equal(value, before[name])}
    assert moved and moved <= set(learning)
    assert {name for name in learning if "lora_B" in name} == {name for name in moved if "lora_B" in name}


def test_features_of_a_copy(folders: Callable[[str], str]) -> None:
    """Where the number of tokens does not tell how an image stands in a prompt, a copy is refused, never misread."""
    untold = ("qwen2_vl", "idefics3", "internvl")
    for kind, told in {**dict.fromkeys(untold, False), "llava": True, "paligemma": True}.items():
        vlm = open_vlm(folders(kind), device="cpu")
        features = vlm.features(vlm.pixels(images()[:1]))
        copies = [feature.detach() for feature in features]
        if told:
            assert reply_loss(vlm, TALKS[:1], copies).item() == reply_loss(vlm, TALKS[:1], features).item()
        else:
            with pytest.raises(ValueError, match=r"must come from Vlm\.features"):
                reply_loss(vlm, TALKS[:1], copies)


# --- what is trained ---


@pytest.mark.parametrize("train", ["connector", "language-model", "full"])
def test_train_says_what_is_trained(train: str, folders: Callable[[str], str]) -> None:
    for kind in ("idefics2", "qwen3_vl"):
        vlm = open_vlm(folders(kind), device="cpu")
        add_adapter(vlm, 2, 2, 0.0, train=train)
        inside = tuple(f"{root}." for root in roots(vlm, train))
        names = set(trained(vlm))
        if train == "full":
            tower = {f"{path}.{n}" for path in PARTS[kind].tower.split()
                     for n, _ in vlm.model.get_submodule(path).named_parameters()}  # fmt: skip
            assert names == {n for n, _ in vlm.model.named_parameters()} - tower
            assert vlm.learner is vlm.model
        else:
            assert names and all(name.startswith(inside) and "lora_" in name for name in names)
            assert vlm.learner is vlm.peft
        loss = reply_loss(vlm, TALKS[:2], vlm.features(vlm.pixels(images()[:2])))
        loss.backward()
        assert all(p.grad is None for n, p in vlm.model.named_parameters() if n not in names)


@pytest.mark.parametrize("kind", list(PARTS))
def test_a_whole_model_goes_on_from_its_checkpoint(
    kind: str, folders: Callable[[str], str], world: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    """The library's names on the disk are other ones than in memory in most families."""
    recipe = Recipe(1, 1, 1e-3, 0, 0.0, 1.0, 2, 0)

    def trained_to(resumed: bool) -> dict[str, Tensor]:
        vlm = open_vlm(folders(kind), device="cpu")
        add_adapter(vlm, 2, 2, 0.0, train="full")
        train(vlm, world[1][:3], tune.objective(vlm, world[0]), recipe, tmp_path / "run", lambda *_: None, resumed)
        return vlm.model.state_dict()

    (tmp_path / "run").mkdir()
    first, whole = open_vlm(folders(kind), device="cpu").model.state_dict(), trained_to(False)
    checkpoints = tmp_path / "run" / "checkpoints"
    shutil.rmtree(checkpoints / "checkpoint-3")
    again = trained_to(True)
    assert all(torch.equal(value, again[name]) for name, value in whole.items())
    assert sum(not torch.equal(value, first[name]) for name, value in whole.items()) > 10
    shutil.rmtree(checkpoints / "checkpoint-3")
    weights = checkpoints / "checkpoint-2" / "model.safetensors"
    save_file({f"old.{name}": value for name, value in load_file(weights).items()}, weights)
    seal(checkpoints / "checkpoint-2")
    with pytest.raises(FgvrError, match=r"weights of the checkpoint are not the model's .*; start again without"):
        trained_to(True)


@pytest.mark.parametrize("kind", list(PARTS))
def test_every_tower_is_kept_or_refused(
    kind: str, folders: Callable[[str], str], world: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    """What is kept on disk or in memory gives the features that the model gives, bit for bit where it works alone."""
    vlm = open_vlm(folders(kind), device="cpu")
    add_adapter(vlm, 2, 2, 0.0)
    names = [record["image"] for record in world[1]]
    want = [vlm.features(vlm.pixels([open_image(world[0], name)]))[0] for name in names]
    shown = Vision(vlm, world[0]).show(names[:1])
    assert all(torch.equal(shown.features(again=True)[0], want[0]) for _ in range(2))
    if "qwen" in kind:
        with pytest.raises(FgvrError, match="holds the connector in this family"):
            Vision(vlm, world[0], tmp_path / "kept")
        return
    for _ in range(2):
        found = Vision(vlm, world[0], tmp_path / "kept").features(names)
        assert all(torch.allclose(mine, own, atol=1e-6) for mine, own in zip(found, want, strict=True))


@pytest.mark.parametrize("negatives", [[], "one"])
def test_mean_pooling_without_a_mark_of_beginning(negatives: Any, folders: Callable[[str], str], world: Any) -> None:
    """Rows without negatives add no text of no tokens, whose mean is none."""
    vlm = open_vlm(folders("qwen2_vl"), device="cpu")
    vlm.tokenizer.bos_token, row = None, vlm.writer.rows(["Wren"])[0]
    assert row[-1] == vlm.tokenizer.eos_token_id
    add_adapter(vlm, 2, 2, 0.0)
    records = [{**r, "negatives": r["negatives"] if negatives and not n else []} for n, r in enumerate(world[1])]
    batch = align.Batch(records, Aliases())
    assert "" not in batch.texts and batch.mask.sum() == sum(len(r["negatives"]) for r in records)
    for loss, _ in align.objective(vlm, world[0], "paper", 0.1, "mean", pool="mean")(records):
        loss.backward()
    grads = [p.grad for p in vlm.model.parameters() if p.grad is not None]
    assert grads and all(grad.isfinite().all() for grad in grads)


def test_dora_learns_magnitudes_too(folders: Callable[[str], str]) -> None:
    vlm = open_vlm(folders("llava"), device="cpu")
    features = vlm.features(vlm.pixels(images()[:3]))
    before = reply_loss(vlm, TALKS, features).item()
    add_adapter(vlm, 2, 2, 0.0, dora=True)
    loss = reply_loss(vlm, TALKS, vlm.features(vlm.pixels(images()[:3])))
    assert loss.item() == pytest.approx(before, abs=1e-5), "a new adapter changes nothing"
    loss.backward()
    magnitudes = [p for name, p in trained(vlm).items() if "magnitude" in name]
    assert magnitudes and all(p.grad is not None and p.grad.abs().max() > 0 for p in magnitudes)


def test_dora_on_a_row_of_zeros(toy_vlm: Path) -> None:
    """It would divide by zero; the embedded model has such rows."""
    with pytest.raises(UsageError, match=r"--dora cannot scale the rows of zeros that model.text_model.layers.0"):
        add_adapter(open_vlm(str(toy_vlm), device="cpu"), 2, 2, 0.0, dora=True)


def test_an_adapter_goes_on_in_one_part(folders: Callable[[str], str]) -> None:
    vlm = open_vlm(folders("idefics2"), device="cpu")
    add_adapter(vlm, 2, 2, 0.0)
    go_on_training(vlm, "connector")
    assert trained(vlm) and all(name.startswith("model.connector.") for name in trained(vlm))
    with pytest.raises(UsageError, match="merge it into the model first"):
        go_on_training(vlm, "full")
    with pytest.raises(UsageError, match="--train language-model: the adapter has no layer there"):
        go_on_training(vlm, "language-model")


# --- memory ---


def test_token_loss_in_parts_is_the_whole(folders: Callable[[str], str]) -> None:
    """Value and gradients, of states and output layer, at any size of the parts."""
    torch.manual_seed(0)
    states, labels = torch.randn(11, 8, dtype=torch.float64), torch.randint(0, 30, (11,))
    head = torch.randn(30, 8, dtype=torch.float64, requires_grad=True)

    def value_and_gradients(chunk: int) -> tuple[Tensor, ...]:
        hidden = states.clone().requires_grad_()
        loss = token_loss(lambda x: x @ head.T, hidden, labels, chunk)
        return (loss.detach(), *torch.autograd.grad(loss, (hidden, head)))

    whole = torch.nn.functional.cross_entropy(states @ head.T, labels)
    for chunk in (1, 3, 10, 11, 100):
        for found, wanted in zip(value_and_gradients(chunk), value_and_gradients(11), strict=True):
            assert torch.allclose(found, wanted, atol=1e-12)
        assert torch.allclose(value_and_gradients(chunk)[0], whole.detach(), atol=1e-12)


def test_logits_are_the_models_own_also_when_capped(folders: Callable[[str], str]) -> None:
    """PaliGemma 2 caps them; transformers forgot to, up to 5.20."""
    vlm = open_vlm(folders("paligemma"), device="cpu")
    ids, mask = vlm.tokens(["Red Kite"])
    with torch.no_grad():
        wanted = vlm.model(input_ids=ids, attention_mask=mask, token_type_ids=torch.ones_like(ids)).logits
        assert torch.allclose(vlm.logits(vlm.hidden(ids, mask)), wanted, atol=1e-5)
        vlm.model.config.get_text_config().final_logit_softcapping = 0.5
        assert torch.allclose(vlm.logits(vlm.hidden(ids, mask)), (wanted / 0.5).tanh() * 0.5, atol=1e-5)


@pytest.mark.parametrize("kind", ["idefics2", "qwen3_vl"])
def test_checkpointing_changes_no_gradient_and_leaves_the_tower_alone(
    kind: str, folders: Callable[[str], str]
) -> None:
    vlm = open_vlm(folders(kind), device="cpu")
    torch.manual_seed(0)
    add_adapter(vlm, 2, 2, 0.0)
    for parameter in trained(vlm).values():
        torch.nn.init.normal_(parameter, std=0.1)
    runs: dict[str, int] = {"tower": 0, "layer": 0}
    tower = vlm.part("tower")
    seen = tower[1] if isinstance(tower, torch.nn.ModuleList) else tower
    seen = seen[0] if isinstance(seen, torch.nn.ModuleList) else seen
    seen.register_forward_hook(lambda *_: runs.update(tower=runs["tower"] + 1))
    layer = vlm.part("decoder").layers[0].self_attn
    layer.register_forward_hook(lambda *_: runs.update(layer=runs["layer"] + 1))

    def gradients() -> list[Tensor]:
        vlm.model.zero_grad()
        runs.update(tower=0, layer=0)
        reply_loss(vlm, TALKS, vlm.features(vlm.pixels(images()[:3]))).backward()
        return [p.grad.clone() for p in trained(vlm).values() if p.grad is not None]

    vlm.model.train()
    plain, once = gradients(), dict(runs)
    checkpoint_layers(vlm)
    found, twice = gradients(), dict(runs)
    assert (once["tower"], twice["tower"]) == (1, 1)
    assert (once["layer"], twice["layer"]) == (1, 2)
    assert len(found) == len(trained(vlm))
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(plain, found, strict=True))


@pytest.mark.parametrize("kind", ["idefics2", "qwen2_5_vl"])
def test_nf4(kind: str, folders: Callable[[str], str]) -> None:
    """The language model's layers and nothing else in 4 bits; gradients are those on the same weights dequantised,
    also after a forward in evaluation mode, which would repack them on CPUs with AVX512-BF16."""
    from fgvr.models.loading import through_nf4

    def gradients(vlm: Vlm) -> tuple[float, list[Tensor]]:
        vlm.model.zero_grad()
        loss = reply_loss(vlm, TALKS, vlm.features(vlm.pixels(images()[:3])))
        loss.backward()
        return loss.item(), [p.grad.clone() for p in trained(vlm).values() if p.grad is not None]

    def opened(quantise: str) -> Vlm:
        vlm = open_vlm(folders(kind), device="cpu", quantise=quantise)
        if quantise == "none":
            through_nf4(vlm.part("decoder"))
        torch.manual_seed(0)
        add_adapter(vlm, 2, 2, 0.0)
        torch.manual_seed(0)
        for parameter in trained(vlm).values():
            torch.nn.init.normal_(parameter, std=0.1)
        return vlm

    four, plain = opened("nf4"), opened("none")
    assert four.about["quantised"] == "nf4"
    kinds = {name: type(layer).__name__ for name, layer in four.model.named_modules()}
    quantised = {name.removesuffix(".base_layer") for name, layer in kinds.items() if layer == "Linear4bit"}
    assert len(quantised) == 7 * len(four.part("decoder").layers)
    assert all(name.startswith(f"{PARTS[kind].decoder}.") for name in quantised)
    first = gradients(four)
    four.model.eval()
    with torch.no_grad():
        four.texts(["a text"])
    four.model.train()
    wanted = gradients(plain)
    for loss, found in (first, gradients(four)):
        assert loss == pytest.approx(wanted[0], abs=1e-5)
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(found, wanted[1], strict=True))
    with pytest.raises(UsageError, match="--train full cannot train weights in 4 bits"):
        add_adapter(four, 2, 2, 0.0, train="full")


def test_a_layer_that_should_be_in_4_bits_and_is_not(
    folders: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import transformers

    class Forgetful(transformers.BitsAndBytesConfig):  # type: ignore[misc]
        def __init__(self, **options: Any) -> None:
            super().__init__(**{**options, "llm_int8_skip_modules": ["vision_tower"]})

    monkeypatch.setattr(transformers, "BitsAndBytesConfig", Forgetful)
    with pytest.raises(FgvrError, match=r"bitsandbytes quantised \d+ layers, not the 14 of model.language_model"):
        open_vlm(folders("llava"), device="cpu", quantise="nf4")


# --- bad input ---


@pytest.mark.parametrize(
    ("kind", "said"),
    [("blip-2", r"BLIP-2 \(blip-2\) can answer but not be taken apart for training; use one of idefics2, ")],
)
def test_a_family_that_cannot_be_trained(kind: str, said: str, folders: Callable[[str], str]) -> None:
    with pytest.raises(FgvrError, match=said):
        open_vlm(folders(kind), device="cpu")


def test_a_model_without_images(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(FgvrError, match=r"type 'llama' takes no images; name a vision-language model"):
        open_vlm(str(tmp_path), device="cpu")


def test_a_processor_that_writes_otherwise(folders: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    vlm = open_vlm(folders("internvl"), device="cpu")
    made = type(vlm.processor).__call__

    def wordy(self: Any, text: Any = None, **more: Any) -> Any:
        return made(self, text=[f"{t} indeed" if "What" in t else t for t in text], **more)

    monkeypatch.setattr(type(vlm.processor), "__call__", wordy)
    with pytest.raises(FgvrError, match="writes a prompt otherwise than is known of InternVL; it cannot be trained"):
        open_vlm(folders("internvl"), device="cpu")


@pytest.mark.parametrize(("kind", "mark"), [("qwen2_vl", "<|image_pad|>"), ("idefics2", "<image>")])
def test_an_image_mark_in_a_text(folders: Callable[[str], str], kind: str, mark: str) -> None:
    vlm = open_vlm(folders(kind), device="cpu")
    with pytest.raises(FgvrError, match="holds an image mark of its own"):
        vlm.encode("Which?", f"A kite {mark}.", 4)
    with pytest.raises(RecordError, match="holds an image mark of its own"):
        record = {"image": "a.png", "category": "Kite", "description": f"A kite {mark}."}
        align.fits(Vision(vlm, "nowhere"), record, "attribute")


def test_descriptions_are_cut_only_where_the_context_needs_it(folders: Callable[[str], str]) -> None:
    """At the end of a sentence, as late as fits; what fits stays as it is; what is cut is counted."""
    vlm = open_vlm(folders("llava"), device="cpu")
    writer, text = vlm.writer, "The bill is red. Its tail is forked! Is it a kite? It may be 3.5 feet wide. "
    long = text * 5 + "The end"
    (feature,) = vlm.features(vlm.pixels(images()[:1]))
    whole_row, whole = writer.rows([long])[0], vlm.encode("Describe.", long, vlm.sight(feature))
    assert not writer.cut and long in vlm.tokenizer.decode(whole_row)
    for context in (len(whole_row), len(whole_row) - 1, 80, 40):
        writer.context = context
        (row,) = writer.rows([long])
        assert len(row) <= context and row[-1] == vlm.tokenizer.eos_token_id
        kept = vlm.tokenizer.decode(row, skip_special_tokens=True).strip()
        if context == len(whole_row):
            assert row == whole_row and not writer.cut
            continue
        assert writer.cut == {long} and long.startswith(kept) and kept[-1] in ".!?" and not kept.endswith("3.")
        ends = (end for end in range(len(kept) + 1, len(long)) if long[end - 1] in ".!?" and long[end] == " ")
        more = next(ends, len(long))
        assert len(vlm.tokenizer(long[:more]).input_ids) + 1 > context, "another sentence would not fit"
    writer.cut.clear()
    writer.context = len(whole[0])
    assert vlm.encode("Describe.", long, vlm.sight(feature)) == whole and not writer.cut
    writer.context -= 1
    ids, labels = vlm.encode("Describe.", long, vlm.sight(feature))
    assert len(ids) <= writer.context and writer.cut == {long}
    assert vlm.tokenizer.decode([x for x in labels if x != IGNORE]).strip().endswith("wide.</s>")
    assert reply_loss(vlm, [Talk("Describe.", long)], [feature]).isfinite()
    writer.context = 5
    with pytest.raises(FgvrError, match="longer than this model's context of 5 tokens, even its first sentence"):
        writer.rows([long])
