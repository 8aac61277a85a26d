"""Stage I and II: what is trained, what is not, on which tokens, with which gradients; and that a killed run goes on
exactly."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from fgvr import losses
from fgvr.errors import RecordError
from fgvr.models.vlm import IGNORE, Vlm, open_vlm
from fgvr.stages import align, tune
from fgvr.training.adapters import add_adapter, targets
from fgvr.training.conversations import Talk, distinct, reply_loss
from fgvr.training.vision import Vision
from tests import procs, triples


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict]]:
    """A folder with images, and mined triples of six species."""
    root = tmp_path_factory.mktemp("world")
    mined = triples.drawn(root)
    procs.write_jsonl(root / "mined.jsonl", mined)
    return root, mined


@pytest.fixture
def vlm(toy_vlm: Path) -> Vlm:
    torch.manual_seed(3)
    opened = open_vlm(str(toy_vlm), device="cpu")
    add_adapter(opened, rank=4, alpha=4, dropout=0.0)
    return opened


def features_of(vlm: Vlm, root: Path, records: list[dict]) -> list[torch.Tensor]:
    from fgvr.images import open_image

    return vlm.features(vlm.pixels([open_image(root / "images", record["image"]) for record in records]))


def test_adapters_sit_on_connector_and_language_model_alone(vlm: Vlm) -> None:
    trained = [name for name, p in vlm.model.named_parameters() if p.requires_grad]
    assert trained and all("lora_" in name for name in trained)
    assert all(name.startswith(("model.connector.", "model.text_model.")) for name in trained)
    linear = [
        n
        for n, m in vlm.model.named_modules()
        if isinstance(m, torch.nn.Linear)
        and n.endswith(("_proj", "_proj.base_layer"))
        and n.startswith(("model.connector.", "model.text_model."))
    ]
    assert len(trained) == 2 * len(linear)
    assert "lm_head" not in targets(vlm)


def test_one_step_moves_every_adapter_and_nothing_else(vlm: Vlm, world: tuple[Path, list[dict]]) -> None:
    root, mined = world
    before = {name: p.detach().clone() for name, p in vlm.model.named_parameters()}
    learning = [p for p in vlm.model.parameters() if p.requires_grad]
    optimiser = torch.optim.SGD(learning, lr=0.5)
    vlm.model.train()
    for _ in range(2):  # B of LoRA starts at zero, so A has no gradient in the first step
        optimiser.zero_grad()
        for loss, _parts in align.objective(vlm, root / "images", "paper", 0.1, "mean")(mined[:4]):
            loss.backward()
        optimiser.step()
    moved = {name for name, p in vlm.model.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name, p in vlm.model.named_parameters() if p.requires_grad}
    assert any(".connector." in name for name in moved)


def test_the_tower_never_enters_the_graph(vlm: Vlm, world: tuple[Path, list[dict]]) -> None:
    """Even when something (peft with gradient checkpointing) makes its input require a gradient."""
    root, mined = world
    seen = []
    vlm.part("tower").register_forward_hook(
        lambda module, args, output: seen.append(output.last_hidden_state.requires_grad)
    )
    vlm.part("tower").requires_grad_(True)
    features = features_of(vlm, root, mined[:2])
    assert seen == [False]
    assert features[0].requires_grad  # through the connector's adapters
    assert "forward" not in vars(vlm.part("tower"))


def test_labels_are_the_reply_alone(vlm: Vlm) -> None:
    ids, labels = vlm.encode("What bird is this?", "Salim Renfa", 16)
    assert len(ids) == len(labels)
    assert vlm.tokenizer.decode([x for x in labels if x != IGNORE]).rstrip("\n") == " Salim Renfa<end_of_utterance>"
    assert ids.count(vlm.image_token_id) == 16
    processed = vlm.processor(text=[vlm.chat([("What bird is this?", "Salim Renfa")], True)]).input_ids[0]
    assert ids == list(processed)


def test_reply_loss_equals_the_models_own_and_a_slow_loop(vlm: Vlm, world: tuple[Path, list[dict]]) -> None:
    root, mined = world
    talks = [
        Talk("What bird is this?", "Salim Renfa"),
        Talk("Describe the bird in this image in detail.", mined[1]["description"]),
    ]
    with torch.no_grad():
        features = features_of(vlm, root, mined[:2])
        found = reply_loss(vlm, talks, features)
        total, count = 0.0, 0
        for talk, feature in zip(talks, features, strict=True):
            ids, labels = vlm.encode(talk.question, talk.answer, len(feature))
            logits = vlm.model(inputs_embeds=vlm.embed(torch.tensor([ids]), [feature])).logits[0]
            for position in range(1, len(ids)):
                if labels[position] != IGNORE:
                    total += -F.log_softmax(logits[position - 1].double(), 0)[labels[position]].item()
                    count += 1
        own = vlm.model(inputs_embeds=vlm.embed(torch.tensor([ids]), [feature]), labels=torch.tensor([labels])).loss
        alone = reply_loss(vlm, talks[1:], features[1:])
    assert found.item() == pytest.approx(total / count, abs=1e-5)
    assert alone.item() == pytest.approx(own.item(), abs=1e-5)


def test_contrastive_terms_equal_encoding_every_text_by_itself(vlm: Vlm, world: tuple[Path, list[dict]]) -> None:
    root, mined = world
    batch = mined[:5]
    with torch.no_grad():
        features = features_of(vlm, root, batch)
        found = align.contrastive(vlm, batch, features, "paper", 0.2, "mean")
        o = torch.cat([vlm.pool_features([feature]) for feature in features])
        a = torch.cat([vlm.pool_texts([r["description"]]) for r in batch])
        c = torch.cat([vlm.pool_texts([r["category"]]) for r in batch])
        width = max(len(r["negatives"]) for r in batch)
        neg_a, neg_c = torch.zeros(5, width, o.shape[1]), torch.zeros(5, width, o.shape[1])
        mask = torch.zeros(5, width, dtype=torch.bool)
        for i, record in enumerate(batch):
            for k, negative in enumerate(record["negatives"]):
                neg_a[i, k], neg_c[i, k] = (
                    vlm.pool_texts([negative["description"]])[0],
                    vlm.pool_texts([negative["category"]])[0],
                )
                mask[i, k] = True
        same = torch.tensor([[x["category"] == y["category"] for y in batch] for x in batch])
        wanted = (
            losses.object_attribute(o, a, neg_a, mask=mask, same=same, temperature=0.2),
            losses.attribute_category(a, c, neg_a, neg_c, mask=mask, same=same, temperature=0.2),
            losses.category_category(c, neg_c, mask=mask, temperature=0.2),
        )
    for name, x, y in zip(("oac", "acc", "ccc"), found, wanted, strict=True):
        assert x.item() == pytest.approx(y.item(), abs=1e-4), name


def test_distinct_gives_back_every_text() -> None:
    texts = ["b", "a", "b", "c", "a"]
    kept, at = distinct(texts)
    assert kept == ["b", "a", "c"] and [kept[i] for i in at] == texts


def test_micro_batches_add_up_to_the_batch(vlm: Vlm, world: tuple[Path, list[dict]]) -> None:
    root, mined = world
    records = [
        {**r, "kind": "open", "question": "What bird is this?", "answer": r["category"] if i % 2 else r["description"]}
        for i, r in enumerate(mined[:5])
    ]

    def gradient(micro_batch: int) -> tuple[float, torch.Tensor]:
        vlm.model.zero_grad()
        total = 0.0
        for loss, _ in tune.objective(vlm, root / "images", micro_batch)(records):
            loss.backward()
            total += loss.item()
        return total, torch.cat([p.grad.flatten() for p in vlm.model.parameters() if p.grad is not None])

    whole, parts = gradient(5), gradient(2)
    assert parts[0] == pytest.approx(whole[0], abs=1e-5)
    assert torch.allclose(parts[1], whole[1], atol=1e-6)
    assert whole[1].abs().max() > 1e-3


def test_a_choice_is_taught_as_its_letter() -> None:
    record = {
        "kind": "mcq",
        "question": "What bird is this?",
        "options": ["Kite", "Tern", "Wren"],
        "answer": "Tern",
        "answer_index": 1,
    }
    talk = tune.talk(record)
    assert talk.answer == "B" and "B. Tern" in talk.question
    assert tune.talk(record, "text").answer == "Tern"
    assert tune.talk({**record, "kind": "open", "options": None}).answer == "Tern"
    with pytest.raises(RecordError, match="answer_index 3"):
        tune.talk({**record, "answer_index": 3})
    with pytest.raises(RecordError, match="answer_index 2 is 'Wren', but its answer is 'Tern'; correct one"):
        tune.talk({**record, "answer_index": 2})


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"turns": []}, "'turns' must be a list"),
        ({"turns": [{"question": "Q", "answer": None}]}, "every turn needs texts"),
        ({"kind": "open"}, "record has no 'question'"),
        ({"kind": None}, "record has no 'kind'"),
    ],
)
def test_what_a_dialogue_needs(change: dict, why: str) -> None:
    record = {"kind": "dialogue", "turns": [{"question": "Q", "answer": "A"}, {"question": "R", "answer": "B"}]}
    assert tune.talk(record) == Talk("R", "B", (("Q", "A"),))
    with pytest.raises(RecordError, match=why):
        tune.talk({**record, **change})


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({}, ""),
        ({"modality": None}, "record has no 'image'; add it, or \"modality\": \"text\" where there is none to see"),
        ({"question": "What is in <image> this?"}, "its text holds '<image>', but it has no image; add the image, or"),
        ({"kind": "caption"}, "a caption is of an image"),
        ({"answer": " "}, "'answer' is empty; correct the record, or leave it out"),
        ({"question": "Why? " * 300}, "even its first sentence; shorten it"),
        ({"answer": "Because it " * 200}, "even its first sentence; shorten it"),
        ({"answer": "Because. " * 300}, ""),
        ({"question": "What is <fake_token_around_image> this?"}, ""),
    ],
)
def test_a_record_without_an_image_says_so(change: dict, why: str, vlm: Vlm) -> None:
    """And what the model cannot take of it is found before training."""
    from fgvr.cli.training import _readable
    from fgvr.stream import Bad

    record = {"id": "1", "kind": "open", "question": "What is a kite?", "answer": "A bird.", "modality": "text"}
    vlm.writer.context = 256
    sight = Vision(vlm, "nowhere")
    (found,) = _readable(iter([{**record, **change}]), "nowhere", lambda record: tune.fits(sight, record))
    assert (isinstance(found, Bad) and why in found.error) if why else found == {**record, **change}


OPTIONS = "--batch-size 4 --epochs 4 --lr 0.002 --warmup-steps 2 --save-steps 3"


def command(stage: str, toy_vlm: Path, *more: object) -> list[str]:
    return ["fgvr", stage, "--model", str(toy_vlm), "--image-root", "images", *OPTIONS.split(), *map(str, more)]


def questions(root: Path, mined: list[dict]) -> Path:
    records = [
        {
            "id": f"{r['id']}/open",
            "image": r["image"],
            "kind": "open",
            "question": "What bird is this?",
            "answer": r["category"],
        }
        for r in mined
    ]
    return procs.write_jsonl(root / "questions.jsonl", records)


@pytest.mark.parametrize("stage", ["align", "tune"])
def test_a_stage_learns_and_equal_runs_are_equal_bytes(
    stage: str, toy_vlm: Path, world: tuple[Path, list[dict]]
) -> None:
    root, mined = world
    source = root / "mined.jsonl" if stage == "align" else questions(root, mined)
    for out in (f"{stage}-1", f"{stage}-2"):
        ended = procs.run(command(stage, toy_vlm, "-o", out, source), root)
        assert (ended.status, ended.err) == (0, "")
    curve = procs.read_jsonl(root / f"{stage}-1" / "log.jsonl")
    assert [entry["step"] for entry in curve] == list(range(1, 21))
    assert sum(e["loss"] for e in curve[-4:]) < 0.9 * sum(e["loss"] for e in curve[:4])
    first, second = root / f"{stage}-1", root / f"{stage}-2"
    assert sorted(p.name for p in first.iterdir()) == ["adapter_config.json", "adapter_model.safetensors", "log.jsonl"]
    for file in first.iterdir():
        assert file.read_bytes() == (second / file.name).read_bytes(), file.name
        assert file.stat().st_mode == (root / "mined.jsonl").stat().st_mode, "others may read it"
    assert str(root) not in (first / "adapter_config.json").read_text()


@pytest.mark.parametrize(
    ("stage", "signum", "steps"),
    [("tune", signal.SIGTERM, 8), ("tune", signal.SIGKILL, 8), ("tune", signal.SIGKILL, 2),
     ("align", signal.SIGKILL, 5)],
)  # fmt: skip
def test_a_killed_training_goes_on_to_the_same_bytes(
    stage: str, signum: int, steps: int, toy_vlm: Path, world: tuple[Path, list[dict]]
) -> None:
    """Also before the first checkpoint."""
    root, mined = world
    source = questions(root, mined) if stage == "tune" else root / "mined.jsonl"
    whole, out = root / f"whole-{stage}", root / f"out-{stage}-{signum}-{steps}"
    if not whole.exists():
        assert procs.run(command(stage, toy_vlm, "-o", whole, source), root).status == 0
    running = procs.start(command(stage, toy_vlm, "-o", out, source), root)
    log = root / f"{out.name}.partial" / "log.jsonl"
    until = time.monotonic() + 120
    while not log.exists() or log.read_bytes().count(b"\n") < steps:
        assert time.monotonic() < until and running.status is None
        time.sleep(0.01)
    running.kill(signum)
    ended = running.wait()
    assert ended.status == (75 if signum == signal.SIGTERM else -9)
    assert not out.exists()
    torn = root / f"{out.name}.partial" / "checkpoints" / "checkpoint-19"  # as a kill while it is saved leaves it
    torn.mkdir(parents=True)
    (torn / "trainer_state.json").write_text("{" if signum == signal.SIGTERM else "")
    ended = procs.run(command(stage, toy_vlm, "-o", out, source, "--resume"), root)
    assert (ended.status, ended.err) == (0, "")
    for file in whole.iterdir():
        assert file.read_bytes() == (out / file.name).read_bytes(), file.name


def test_tune_goes_on_from_aligns_adapter(toy_vlm: Path, world: tuple[Path, list[dict]]) -> None:
    root, mined = world
    assert procs.run(command("align", toy_vlm, "--rank", "3", "-o", "start", root / "mined.jsonl"), root).status == 0
    source = questions(root, mined)
    assert procs.run(command("tune", toy_vlm, "--adapter", "start", "-o", "further", source), root).status == 0
    from safetensors.torch import load_file

    old, new = (load_file(root / name / "adapter_model.safetensors") for name in ("start", "further"))
    assert old.keys() == new.keys() and any(not torch.equal(old[k], new[k]) for k in old)
    assert json.loads((root / "further" / "adapter_config.json").read_text())["r"] == 3
    record = json.loads((root / "further.run.json").read_text())
    assert any("start" in entry["name"] for entry in record["inputs"])


def test_an_unreadable_image_is_found_before_training(toy_vlm: Path, world: tuple[Path, list[dict]]) -> None:
    root, mined = world
    (root / "images" / "torn.png").write_bytes((root / "images" / mined[0]["image"]).read_bytes()[:300])
    records = [*mined[:5], {**mined[5], "image": "torn.png"}]
    source = procs.write_jsonl(root / "torn.jsonl", records)
    ended = procs.run(command("align", toy_vlm, "-o", "torn-out", source), root)
    assert ended.status == 1 and "torn.png" in ended.err and ended.err.count("\n") == 1
    ended = procs.run(
        command("align", toy_vlm, "-o", "torn-out", source, "--on-error", "skip", "--errors", "bad.jsonl"), root
    )
    assert ended.status == 0 and "1 of 6 records skipped" in ended.err
    assert [r["image"] for r in procs.read_jsonl(root / "bad.jsonl")] == ["torn.png"]
