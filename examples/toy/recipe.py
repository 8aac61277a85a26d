"""How the embedded toy models are made: `make toy-models`, or `python examples/toy/recipe.py tower language vlm polish clip measure`.

1. tower    a vision transformer of Idefics2's class reads ten attributes of random birds, all at once: a dense signal.
2. language the language model of an Idefics2 learns to copy, then to look up letters of options and values in texts.
3. vlm      its connector learns to hand on the attributes that the tower sees (the tower stays as it is); together they learn to
            answer attribute questions, describe, list useful attributes, summarise, name 48 species *of another world* and
            choose among options by their letter. `polish` goes on with more of the attributes at a lower rate.
4. clip     an open_clip model whose image tower starts from the same weights; its projection and text tower learn captions.
5. measure  what both can do on birds and species that they never saw, into quality.json.

No species of the data set (world seed 0) takes part. Seeds are fixed; about an hour on two CPU cores, minutes on a GPU.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import numpy as np
import torch
from torch import nn

from fgvr import prompts
from fgvr.datasets import toy

HERE = Path(__file__).parent
SIZE, PATCH, WIDTH = 96, 12, 128  # pixels, pixels, channels of both vision towers
NAMED = toy.world(48, seed=1000)  # the species that the VLM is taught, none of them in the data set
DATA_SET = toy.world(30, seed=0)  # never drawn for training, never named
VOCABULARY = 900  # tokens
MEAN = STD = (0.5, 0.5, 0.5)
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def log(message: str) -> None:
    print(message, flush=True)


# --- images -----------------------------------------------------------------------------------------------------------

def random_attributes(rng: Random) -> dict[str, str]:
    """Any bird but one of the data set's."""
    forbidden = [s.attributes for s in DATA_SET]
    while True:
        attributes = {key: rng.choice(values) for key, values in toy.ATTRIBUTES.items()}
        if attributes not in forbidden:
            return attributes


def _draw(job: tuple[dict, int]) -> np.ndarray:
    return np.asarray(toy.draw(job[0], Random(f"recipe {job[1]}"), SIZE))


def drawn(count: int, seed: int, cache: Path, species: list | None = None) -> tuple[np.ndarray, list[dict], list[str | None]]:
    """`count` birds: (count, SIZE, SIZE, 3) uint8, their attributes, their species' names (None for a random bird)."""
    rng = Random(f"birds {seed}")
    kinds = [species[i % len(species)] for i in range(count)] if species else [None] * count
    attributes = [dict(kind.attributes) if kind else random_attributes(rng) for kind in kinds]
    file = cache / f"birds-{seed}-{count}.npy"
    if not file.exists():
        from multiprocessing import get_context

        with get_context("spawn").Pool(2) as pool:
            pixels = pool.map(_draw, [(a, seed * 1_000_000 + i) for i, a in enumerate(attributes)], chunksize=64)
        cache.mkdir(parents=True, exist_ok=True)
        np.save(file, np.stack(pixels))
    return np.load(file), attributes, [kind.name if kind else None for kind in kinds]


def pixels_of(images: np.ndarray) -> torch.Tensor:
    """(N, SIZE, SIZE, 3) uint8 -> (N, 3, SIZE, SIZE) in [-1, 1]."""
    return torch.from_numpy(images).to(device).permute(0, 3, 1, 2).float().div(127.5).sub(1)


def codes_of(attributes: list[dict]) -> torch.Tensor:
    """(N, 10) index of each attribute's value."""
    return torch.tensor([[toy.ATTRIBUTES[key].index(a[key]) for key in toy.ATTRIBUTES] for a in attributes], device=device)


# --- 1. vision tower -----------------------------------------------------------------------------------------------------

VISION = {"hidden_size": WIDTH, "intermediate_size": 4 * WIDTH, "num_hidden_layers": 4, "num_attention_heads": 4, "image_size": SIZE,
          "patch_size": PATCH, "hidden_act": "gelu", "layer_norm_eps": 1e-5}


def new_tower():
    from transformers import Idefics2VisionConfig
    from transformers.models.idefics2.modeling_idefics2 import Idefics2VisionTransformer

    return Idefics2VisionTransformer(Idefics2VisionConfig(**VISION)).to(device)


def patches(tower, images: np.ndarray) -> torch.Tensor:
    """(N, patches, WIDTH) features of the vision tower."""
    side = SIZE // PATCH
    mask = torch.ones(len(images), side, side, dtype=torch.bool, device=device)
    return tower(pixel_values=pixels_of(images), patch_attention_mask=mask).last_hidden_state


def advance(loss, model, optimiser, schedule) -> None:
    optimiser.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimiser.step()
    schedule.step()


def train_tower(cache: Path, steps: int, batch: int, rate: float) -> None:
    """All ten attributes at once, read off the mean of the patches by linear heads."""
    torch.manual_seed(0)
    tower, heads = new_tower(), nn.Linear(WIDTH, 4 * len(toy.ATTRIBUTES)).to(device)
    images, attributes, _ = drawn(24_000, 1, cache)
    codes = codes_of(attributes)
    both = nn.ModuleList([tower, heads])
    optimiser = torch.optim.AdamW(both.parameters(), lr=rate, weight_decay=0.05, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, steps, pct_start=0.08)
    rng, start = Random("tower"), time.monotonic()
    for step in range(1, steps + 1):
        index = rng.sample(range(len(images)), batch)
        with torch.autocast(device.type, torch.bfloat16):
            logits = heads(patches(tower, images[index]).mean(1)).float().view(batch, -1, 4)
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), codes[index].flatten())
        advance(loss, both, optimiser, schedule)
        if step % 50 == 0 or step == steps:
            right = (logits.argmax(2) == codes[index]).float().mean(0)
            log(f"tower step {step} loss {loss:.4f} right {right.mean():.4f} worst {right.min():.3f} {time.monotonic() - start:.0f} s")
        if step % 200 == 0 or step == steps:
            torch.save(tower.state_dict(), cache / "tower.pt")


# --- tokenizer, for both models -------------------------------------------------------------------------------------------------------


def corpus(rng: Random) -> Iterator[str]:
    """What the tokenizer sees: every kind of sentence that the toy models read or write; names are new each time, so that it learns
    syllables and not the names of one world."""
    for _ in range(1500):
        for question, answer in image_turns(random_attributes(rng), None, rng) + text_turns(rng):
            yield f"User: {question}"
            yield f"Assistant: {answer}"
        yield f"User: {rng.choice(OPEN).format(rng.choice(list(OTHER_SUPERCLASSES)))}"
        yield f"Assistant: {toy.word(rng)} {toy.word(rng)}"


def make_tokenizer(folder: Path, append_eos: bool, **extra) -> None:
    """Train the byte-level BPE and save it as a transformers tokenizer; CLIP's also appends the end token."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special = ["<unk>", "<s>", "</s>", "<pad>", "<fake_token_around_image>", "<image>", "<end_of_utterance>"]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        corpus(Random("tokenizer")),
        trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>" if append_eos else "<s> $A", special_tokens=[("<s>", 1), ("</s>", 2)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>",
        additional_special_tokens=special[4:], model_max_length=2048, **extra,
    ).save_pretrained(folder)


# --- 2. VLM -------------------------------------------------------------------------------------------------------------

LATENTS = 16  # image tokens
TEMPLATE = (  # Idefics2's conversation format: "User:<image>question<end_of_utterance>", a line end, "Assistant: reply<end_of_utterance>"
    "{% for message in messages %}{{ message['role'].capitalize() }}{{ ':' if message['content'][0]['type'] == 'image' else ': ' }}"
    "{% for part in message['content'] %}{{ '<image>' if part['type'] == 'image' else part['text'] }}{% endfor %}<end_of_utterance>\n"
    "{% endfor %}{{ 'Assistant:' if add_generation_prompt else '' }}")
OTHER_SUPERCLASSES = {  # so that the model also lists something useful for data sets that are not birds
    "dog": ["coat colour", "coat length", "ear shape", "muzzle length", "tail shape", "body size", "leg length", "markings"],
    "cat": ["coat colour", "coat length", "coat pattern", "ear shape", "eye colour", "tail shape", "face shape", "body size"],
    "flower": ["petal colour", "petal shape", "number of petals", "centre colour", "leaf shape", "stem length", "flower size"],
    "car": ["body type", "body colour", "grille shape", "headlight shape", "number of doors", "wheel design", "roof shape"],
    "aircraft": ["wing shape", "engine position", "number of engines", "tail shape", "nose shape", "window layout", "livery colour"],
    "product": ["colour", "shape", "size", "surface texture", "packaging type", "label colour", "pattern", "stem colour"],
    "food": ["main colour", "shape", "texture", "topping", "sauce colour", "garnish", "serving dish"],
    "insect": ["body colour", "wing pattern", "antenna shape", "leg length", "body shape", "eye colour"],
}
WORDS = [
    *sorted({value for values in toy.ATTRIBUTES.values() for value in values}),
    "round", "oval", "long", "short", "smooth", "rough", "large", "small", "purple", "pink", "cream", "shiny", "flat", "thick", "thin",
    "two", "four", "six", "wide", "narrow", "left", "right", "glass", "paper", "carton", "unknown"]
OPEN = ("What species of {} is this?", "What kind of {} is this?", "What {} is this?", "What is the name of the {} in this image?", "Identify the {} in this image.", "What type of object is in this photo?")
CHOICE = (*OPEN, "Which of these {}s is shown in the image?", "Which of these choices is shown in the image?")
LETTERS = "ABCDE"
UNITS = ("species", "models", "breeds", "categories", "kinds", "names", "variants", "products")


def attribute_turn(attributes: dict, key: str) -> tuple[str, str]:
    return prompts.attribute_question(key, toy.SUPERCLASS), attributes[key]


def choice_turn(question: str, options: list[str], answer: str, rng: Random) -> tuple[str, str]:
    """The options in random order, the answer's letter."""
    options = rng.sample(options, len(options))
    return prompts.multiple_choice(question, options), LETTERS[options.index(answer)]


def attribute_choice(attributes: dict, key: str, rng: Random, count: int = 0) -> tuple[str, str]:
    """`count` wrong options, 0 for a random number."""
    wrong = [v for v in toy.ATTRIBUTES[key] if v != attributes[key]]
    options = [attributes[key], *rng.sample(wrong, count or rng.choice((1, 2, 3, 3, 3, 3)))]
    return choice_turn(f"What is the {key} of the {toy.SUPERCLASS} in this image?", options, attributes[key], rng)


def name_choice(name: str, rng: Random) -> tuple[str, str]:
    """Half of the time against its own genus."""
    genus = [s.name for s in NAMED if s.genus == name.split()[1] and s.name != name]
    others = [s.name for s in NAMED if s.name != name]
    wrong = list(dict.fromkeys((genus if rng.random() < 0.5 else []) + rng.sample(others, 6)))[: rng.choice((2, 3, 3, 3))]
    return choice_turn(rng.choice(CHOICE).format(toy.SUPERCLASS), [name, *wrong], name, rng)


def image_turns(attributes: dict, name: str | None, rng: Random, described: float = 0.3) -> list[tuple[str, str]]:
    """A few questions about one picture, in any order; a share of `described` of the random birds is described."""
    keys = rng.sample(list(toy.ATTRIBUTES), 4)
    if name:
        turns = [attribute_turn(attributes, keys[0]), name_choice(name, rng), (rng.choice(OPEN).format(toy.SUPERCLASS), name)]
    elif rng.random() < described:
        asked = rng.choice((prompts.attribute_question(prompts.GENERAL, toy.SUPERCLASS), prompts.describe(toy.SUPERCLASS)))
        turns = [(asked, toy.caption(attributes)), attribute_choice(attributes, keys[3], rng)]
    else:
        turns = [*(attribute_turn(attributes, key) for key in keys[:3]), attribute_choice(attributes, keys[3], rng)]
    rng.shuffle(turns)
    return turns


def text_turns(rng: Random, choices: float = 0.25, misled: float = 0.0) -> list[tuple[str, str]]:
    """One text-only task: summarise attributes, list useful attributes, or (a share of `choices`) a choice about a described bird.

    In a share of `misled` of the birds to summarise, the general description is wrong in places, as the model's own is.
    """
    kind = rng.random()
    attributes = {key: rng.choice(values) for key, values in toy.ATTRIBUTES.items()}
    if kind < choices:
        key = rng.choice(list(attributes))
        question, answer = attribute_choice(attributes, key, rng)
        told = {key} | set(rng.sample(list(attributes), rng.choice((0, 1, 3, 9))))
        described = toy.caption({name: value for name, value in attributes.items() if name in told})
        return [(described + "\n" + question.replace(" in this image", ""), answer)]
    if kind < choices + 0.2:
        superclass = toy.SUPERCLASS if rng.random() < 0.5 else rng.choice(list(OTHER_SUPERCLASSES))
        names = list(toy.ATTRIBUTES) if superclass == toy.SUPERCLASS else OTHER_SUPERCLASSES[superclass]
        return [(prompts.discover(superclass, rng.choice(UNITS)), "[" + ", ".join(f"'{n}'" for n in names) + "]")]
    superclass, general = toy.SUPERCLASS, toy.caption(attributes)
    if rng.random() < 0.3:  # other words, so that values are copied and not recalled
        superclass = rng.choice(list(OTHER_SUPERCLASSES))
        attributes = {key: rng.choice(WORDS) for key in OTHER_SUPERCLASSES[superclass]}
        general = toy.caption({key: rng.choice(WORDS) for key in rng.sample(list(attributes), 3)}, superclass)
    elif rng.random() < 0.3:
        attributes = {key: rng.choice([value, value, "unknown"]) for key, value in attributes.items()}
    if superclass == toy.SUPERCLASS and misled and rng.random() < misled:
        general = toy.caption({key: rng.choice([value, rng.choice(toy.ATTRIBUTES[key])]) for key, value in attributes.items()})
    return [(prompts.summarise(superclass, {prompts.GENERAL: general, **attributes}), toy.caption(attributes, superclass))]


class Speaker:
    """Conversations to token ids and labels, exactly as Idefics2's processor and chat template write them."""

    def __init__(self, tokenizer) -> None:
        self.ids = lambda text: tokenizer(text, add_special_tokens=False).input_ids
        self.bos, self.end = tokenizer.bos_token_id, tokenizer.convert_tokens_to_ids("<end_of_utterance>")
        self.image = [tokenizer.convert_tokens_to_ids(t) for t in
                      ("<fake_token_around_image>", *["<image>"] * LATENTS, "<fake_token_around_image>")]

    def __call__(self, turns: list[tuple[str, str]], image: bool, rng: Random) -> tuple[list[int], list[int]]:
        ids, labels = [self.bos], [-100]
        for number, (question, answer) in enumerate(turns):
            if image and number == 0:  # some transformers releases put a space after the image, some do not
                asked = self.ids("User:") + self.image + self.ids(rng.choice(("", " ")) + question)
            else:
                asked = self.ids(("\n" if number else "") + "User: " + question)
            asked += [self.end, *self.ids("\nAssistant:")]
            reply = [*self.ids(" " + answer), self.end]
            ids, labels = ids + asked + reply, labels + [-100] * len(asked) + reply
        return ids, labels


def padded(samples: list[tuple[list[int], list[int]]], pad: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(N, T) ids, labels, attention mask, right-padded."""
    length = max(len(ids) for ids, _ in samples)
    ids = torch.tensor([i + [pad] * (length - len(i)) for i, _ in samples], device=device)
    labels = torch.tensor([x + [-100] * (length - len(x)) for _, x in samples], device=device)
    mask = torch.tensor([[1] * len(i) + [0] * (length - len(i)) for i, _ in samples], device=device)
    return ids, labels, mask


def latents_of(model, features: torch.Tensor) -> torch.Tensor:
    """(N, patches, WIDTH) of the tower -> (N, LATENTS, 192) of the connector."""
    return model.model.connector(features, attention_mask=torch.ones(features.shape[:2], dtype=torch.bool, device=device))


def embedded(model, ids: torch.Tensor, latents: torch.Tensor | None) -> torch.Tensor:
    embeds = model.get_input_embeddings()(ids)
    if latents is None:
        return embeds
    return embeds.masked_scatter((ids == model.config.image_token_id).unsqueeze(-1), latents.to(embeds.dtype))


def reply_loss(model, samples, latents: torch.Tensor | None, pad: int) -> torch.Tensor:
    """Cross-entropy averaged over each reply, then over replies; `latents` (N, LATENTS, 192), or None for text."""
    ids, labels, mask = padded(samples, pad)
    hidden = model.model.text_model(inputs_embeds=embedded(model, ids, latents), attention_mask=mask, use_cache=False).last_hidden_state
    wanted = labels[:, 1:] != -100
    losses = nn.functional.cross_entropy(model.lm_head(hidden[:, :-1][wanted]).float(), labels[:, 1:][wanted], reduction="none")
    starts = wanted & ~nn.functional.pad(wanted, (1, 0))[:, :-1]  # a reply is a run of wanted positions
    reply = starts.flatten().cumsum(0).view_as(wanted)[wanted] - 1
    sums = torch.zeros(int(reply.max()) + 1, device=device).index_add(0, reply, losses)
    return (sums / reply.bincount()).mean()


def new_vlm(folder: Path):
    """The tiny Idefics2 with CLIP's vision tower, and its processor saved beside it."""
    from transformers import Idefics2Config, Idefics2ForConditionalGeneration, Idefics2ImageProcessor, Idefics2Processor

    make_tokenizer(folder, append_eos=False)
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    Idefics2Processor(
        Idefics2ImageProcessor(do_image_splitting=False, size={"shortest_edge": 48, "longest_edge": SIZE}, image_mean=MEAN, image_std=STD),
        tokenizer, image_seq_len=LATENTS, chat_template=TEMPLATE).save_pretrained(folder)
    config = Idefics2Config(
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        vision_config=VISION,
        tie_word_embeddings=True,
        perceiver_config={"hidden_size": 192, "resampler_n_latents": LATENTS, "resampler_depth": 2, "resampler_n_heads": 6,
                          "resampler_head_dim": 32, "num_key_value_heads": 3, "rms_norm_eps": 1e-5},
        text_config={"model_type": "mistral", "vocab_size": len(tokenizer), "hidden_size": 192, "intermediate_size": 512,
                     "num_hidden_layers": 4, "num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 32, "rms_norm_eps": 1e-5,
                     "max_position_embeddings": 2048, "sliding_window": None, "rope_theta": 10_000.0, "pad_token_id": 3,
                     "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": True},
        pad_token_id=3, bos_token_id=1, eos_token_id=2)
    model = Idefics2ForConditionalGeneration(config)
    first_weights(model)
    model.generation_config.update(bos_token_id=1, pad_token_id=3, eos_token_id=[2, tokenizer.convert_tokens_to_ids("<end_of_utterance>")])
    return model.to(device), tokenizer


@torch.no_grad()
def first_weights(model) -> None:
    """First weights of a width of 192, not of 4096 (where 0.02 comes from), and such that copying is near.

    Queries begin like keys, and outputs undo values (Trockman & Kolter 2023, "Mimetic initialization of self-attention layers"); four
    heads of the first layer look one token back. From there the language model learns to copy a phrase in four hundred steps. Ordinary
    weights were tried for 360 smaller steps among other tasks and had not begun to; none of the parts was tried alone to the end.
    """
    def orthonormal() -> torch.Tensor:
        return torch.linalg.qr(torch.randn(192, 96))[0].T

    for part in (model.model.text_model, model.model.connector):
        for name, weight in part.named_parameters():
            if weight.dim() == 2:
                thin = name.endswith(("o_proj.weight", "down_proj.weight"))
                weight.normal_(0, 0.1 if "embed" in name else weight.shape[1] ** -0.5 / (8**0.5 if thin else 1))
    # transformers starts all latents at one: they would see the same for ever, sixteen tokens with the content of one
    model.model.connector.perceiver_resampler.latents.normal_()
    text = model.model.text_model
    text.embed_tokens.weight[:, 0] = 1.0  # what a head that knows nothing but places can look at
    for number, layer in enumerate(text.layers):
        attention, near, same = layer.self_attn, orthonormal(), orthonormal()
        attention.k_proj.weight.mul_(0.3).add_(0.7 * near)
        attention.q_proj.weight.mul_(0.3).add_(0.7 * near.view(3, 1, 32, 192).expand(3, 2, 32, 192).reshape(192, 192))
        attention.v_proj.weight.mul_(0.1).add_(0.8 * same)
        attention.o_proj.weight.mul_(0.1 * 8**0.5).add_((0.4 * same.T).view(192, 3, 1, 32).expand(192, 3, 2, 32).reshape(192, 192))
        if number == 0:  # the rotation of the four fastest frequencies by one token
            back, ahead = torch.zeros(32, 192), torch.zeros(32, 192)
            for i in range(4):
                angle = torch.tensor(10_000.0 ** (-i / 16))
                ahead[i, 0], back[i, 0], back[i + 16, 0] = 0.45, 0.45 * angle.cos(), 0.45 * angle.sin()
            attention.k_proj.weight[:64] = back.repeat(2, 1)
            attention.q_proj.weight[:128] = ahead.repeat(4, 1)


# --- 2a. language -----------------------------------------------------------------------------------------------------------

def invented(rng: Random) -> str:
    return f"{toy.word(rng)} {toy.word(rng)}"


def echo(rng: Random) -> tuple[list[int], list[int]]:
    """Random tokens three times over: what followed last time follows again."""
    said = [rng.randrange(263, VOCABULARY) for _ in range(rng.randint(6, 20))]
    return [1, *said * 3], [-100] * (1 + len(said)) + said * 2


def some_options(rng: Random, count: int) -> list[str]:
    made = rng.choice((lambda: rng.sample(WORDS, count), lambda: [invented(rng) for _ in range(count)],
                       lambda: rng.sample(rng.choice(list(toy.ATTRIBUTES.values())), min(count, 4))))()
    return made if len(set(made)) == len(made) else some_options(rng, count)


def look_ups(rng: Random) -> list[tuple[str, str]]:
    """Options, then eight questions for the letter of an option or the option of a letter."""
    options = some_options(rng, rng.choice((2, 3, 4, 4, 5)))
    listed, turns = "\n".join(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False)) + "\n", []
    for _ in range(8):
        number = rng.randrange(len(options))
        pair = options[number], LETTERS[number]
        turns.append(pair if rng.random() < 0.6 else pair[::-1])
    return [(listed + turns[0][0], turns[0][1]), *turns[1:]]


def look_up(rng: Random) -> list[tuple[str, str]]:
    options = some_options(rng, 4)
    return [choice_turn(f"Which choice is {options[0]}?", options, options[0], rng)]


def train_language(model, speaker: Speaker, echoes: int, steps: int, rate: float = 3e-3) -> None:
    """To copy, then to choose: without this, letters of options were still at chance after 500 steps."""
    text = model.model.text_model
    optimiser = torch.optim.AdamW(text.parameters(), lr=rate, weight_decay=0.01, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda i: min(1, (i + 1) / 40, (echoes + steps - i) / (0.3 * steps)))
    rng, start = Random("language"), time.monotonic()
    kinds = {"look-ups": (look_ups, 12), "look-up": (look_up, 12), "told": (lambda rng: text_turns(rng, 1.0), 8), "task": (text_turns, 4)}
    model.train()
    for step in range(1, echoes + steps + 1):
        both = step > echoes
        shown = step % 50 == 0 or step == echoes + steps
        with torch.autocast(device.type, torch.bfloat16):
            losses = {"echo": reply_loss(model, [echo(rng) for _ in range(16 if both else 48)], None, 3)}
            samples = [speaker(make(rng), False, rng) for make, count in kinds.values() for _ in range(count if both else 0)]
            if both:
                losses["talk"] = reply_loss(model, samples, None, 3)
        advance(sum(losses.values()), text, optimiser, schedule)
        if shown:
            right = {name: letters_right(model, [speaker(make(rng), False, rng) for _ in range(40)])
                     for name, (make, _) in kinds.items() if both and name != "task"}
            log(f"language step {step} " + " ".join(f"{k} {v:.3f}" for k, v in losses.items())
                + "".join(f", {k} right {v:.2f}" for k, v in right.items()) + f" {time.monotonic() - start:.0f} s")


@torch.no_grad()
def letters_right(model, samples, latents: torch.Tensor | None = None) -> float:
    """Share of replies whose first token is the right one."""
    ids, labels, mask = padded(samples, 3)
    hidden = model.model.text_model(inputs_embeds=embedded(model, ids, latents), attention_mask=mask, use_cache=False).last_hidden_state
    first = (labels[:, 1:] != -100) & (labels[:, :-1] == -100)
    return (model.lm_head(hidden[:, :-1][first]).argmax(1) == labels[:, 1:][first]).float().mean().item()


def attribute_words(model, tokenizer) -> torch.Tensor:
    """(40, 192) what each value of each attribute is in the language model's own words: name and value, mean embedding of either."""
    embed = model.get_input_embeddings().weight.detach()

    def meaning(words: str) -> torch.Tensor:
        tokens = embed[tokenizer(" " + words, add_special_tokens=False).input_ids].clone()
        tokens[:, 0] = 0.0  # the same in all
        return nn.functional.normalize(nn.functional.normalize(tokens, dim=-1).mean(0), dim=-1)

    return nn.functional.normalize(
        torch.stack([meaning(key) + meaning(value) for key, values in toy.ATTRIBUTES.items() for value in values]), dim=-1)


def attribute_loss(latents: torch.Tensor, codes: torch.Tensor, words: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A dense signal for the connector: latent k says the k-th attribute's name and value, of all that could be said.

    Args:
        latents: (N, LATENTS, 192). codes: (N, 10). words: (40, 192).
    Returns:
        the loss, and the share of the right ones.
    """
    said = 12 * nn.functional.normalize(latents[:, : len(toy.ATTRIBUTES)].float(), dim=-1) @ words.T
    wanted = codes + 4 * torch.arange(len(toy.ATTRIBUTES), device=device)
    return nn.functional.cross_entropy(said.flatten(0, 1), wanted.flatten()), (said.argmax(2) == wanted).float().mean()


def train_connector(model, lessons: Lessons, steps: int, rate: float = 1e-3) -> None:
    connector, rng = model.model.connector, Random("connector")
    optimiser = torch.optim.AdamW(connector.parameters(), lr=rate, weight_decay=0.05, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, steps, pct_start=0.1)
    for step in range(1, steps + 1):
        index = rng.sample(range(len(lessons.codes)), 96)
        with torch.autocast(device.type, torch.bfloat16):
            loss, right = attribute_loss(latents_of(model, lessons.seen[index]), lessons.codes[index], lessons.words)
        advance(loss, connector, optimiser, schedule)
        if step % 50 == 0 or step == steps:
            log(f"connector step {step} loss {loss:.4f} right {right:.4f}")


class Lessons:
    """The named and the random birds as the tower sees them (it stays as it is from here on), and conversations about them."""

    def __init__(self, model, tokenizer, cache: Path) -> None:
        wild, named = drawn(24_000, 1, cache), drawn(4_800, 2, cache, NAMED)
        images = np.concatenate([wild[0], named[0]])
        self.wild, self.attributes, self.names = len(wild[1]), wild[1] + named[1], wild[2] + named[2]
        self.codes, self.words = codes_of(self.attributes), attribute_words(model, tokenizer)
        tower = model.model.vision_model
        tower.load_state_dict(torch.load(cache / "tower.pt", map_location="cpu"))
        tower.requires_grad_(False)
        with torch.no_grad():
            self.seen = torch.cat([patches(tower, images[i : i + 256]).to(torch.bfloat16) for i in range(0, len(images), 256)])
        self.speaker = Speaker(tokenizer)

    def batch(self, rng: Random, wild: int, named: int, texts: int, attributes_only: float, described: float = 0.3, misled: float = 0.0):
        """Which birds, and conversations about them: `wild` random and `named` named ones, and `texts` conversations without image. Of the
        random birds a share is only asked for attributes; `described` and `misled` as in `image_turns` and `text_turns`."""
        index = rng.sample(range(self.wild), wild) + rng.sample(range(self.wild, len(self.names)), named)
        talks = []
        for i in index:
            if self.names[i] is None and rng.random() < attributes_only:
                turns = [attribute_turn(self.attributes[i], key) for key in rng.sample(list(toy.ATTRIBUTES), 5)]
            else:
                turns = image_turns(self.attributes[i], self.names[i], rng, described)
            talks.append(self.speaker(turns, True, rng))
        tasks = (text := lambda r: text_turns(r, misled=misled), text, look_ups)
        return index, talks, [self.speaker(rng.choice(tasks)(rng), False, rng) for _ in range(texts)]

    def letters_right(self, model, rng: Random) -> float:
        """Share of choices among attribute values that it answers with the right letter."""
        index = rng.sample(range(self.wild), 60)
        talks = [self.speaker([attribute_choice(self.attributes[i], rng.choice(list(toy.ATTRIBUTES)), rng, 3)], True, rng) for i in index]
        with torch.no_grad():
            return letters_right(model, talks, latents_of(model, self.seen[index].float()))


def converse(model, lessons: Lessons, name: str, cache: Path, steps: int, rate: float, *mixture) -> None:
    """Train connector and language model; every reply counts the same, a word as much as five sentences."""
    learning = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(learning, lr=rate, weight_decay=0.05, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, steps, pct_start=0.08)
    rng, start = Random(name), time.monotonic()
    model.train()
    for step in range(1, steps + 1):
        index, talks, texts = lessons.batch(rng, *mixture)
        with torch.autocast(device.type, torch.bfloat16):
            latents = latents_of(model, lessons.seen[index])
            loss_image, loss_text = reply_loss(model, talks, latents, 3), reply_loss(model, texts, None, 3)
            loss_latents, _ = attribute_loss(latents, lessons.codes[index], lessons.words)
        advance(loss_image + loss_text / 2 + loss_latents / 2, model, optimiser, schedule)
        if step % 50 == 0 or step == steps:
            log(f"{name} step {step} image {loss_image:.4f} text {loss_text:.4f} latents {loss_latents:.4f} "
                f"letters right {lessons.letters_right(model, Random(step)):.2f} {time.monotonic() - start:.0f} s")
    model.save_pretrained(cache / name)


def language(cache: Path, echoes: int, steps: int) -> None:
    torch.manual_seed(0)
    model, tokenizer = new_vlm(HERE / "vlm")
    train_language(model, Speaker(tokenizer), echoes, steps)
    model.save_pretrained(cache / "language")


def after(cache: Path, step: str):
    """The model as an earlier step left it."""
    from safetensors.torch import load_file

    torch.manual_seed(0)
    model, tokenizer = new_vlm(HERE / "vlm")
    model.load_state_dict(load_file(cache / step / "model.safetensors"), strict=False)  # the tied head is not in the file
    return model, Lessons(model, tokenizer, cache)


def train_vlm(cache: Path, connector_steps: int, steps: int) -> None:
    model, lessons = after(cache, "language")
    train_connector(model, lessons, connector_steps)
    converse(model, lessons, "vlm", cache, steps, 1.5e-3, 18, 8, 5, 0.2)


def polish_vlm(cache: Path, steps: int) -> None:
    """More attributes, five on each bird, more descriptions, and summaries that are not misled, at a lower rate; then the weights are
    written as float16."""
    model, lessons = after(cache, "vlm")
    converse(model, lessons, "polish", cache, steps, 1e-3, 24, 6, 6, 0.4, 0.6, 0.8)
    model.to(torch.float16).save_pretrained(HERE / "vlm")
    (HERE / "vlm" / "model.safetensors").chmod(0o644)  # the library's files are for their owner alone


# --- 3. CLIP ------------------------------------------------------------------------------------------------------------

CLIP_CONFIG = {
    "model_cfg": {
        "embed_dim": 128,
        "vision_cfg": {"image_size": SIZE, "patch_size": PATCH, "layers": 4, "width": WIDTH, "head_width": 32, "no_ln_pre": True,
                       "pool_type": "avg"},
        "text_cfg": {"context_length": 80, "vocab_size": VOCABULARY, "width": 128, "heads": 4, "layers": 2, "pool_type": "eos",
                     "eos_id": 2, "pad_id": 3, "hf_tokenizer_name": "toy"},
    },
    "preprocess_cfg": {"mean": MEAN, "std": STD, "interpolation": "bicubic", "resize_mode": "squash"},
}


def clip_tower(tower: dict[str, torch.Tensor], visual: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Idefics2's tower weights under open_clip's names. What only open_clip has (class token, projection) stays as it is in `visual`;
    the class token is not pooled, so the mean of the patches means what it meant."""
    found = dict(visual)
    found["conv1.weight"] = tower["embeddings.patch_embedding.weight"]
    place = tower["embeddings.position_embedding.weight"] + tower["embeddings.patch_embedding.bias"]
    found["positional_embedding"] = torch.cat([torch.zeros(1, WIDTH), place])
    names = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "attn.out_proj": "self_attn.out_proj", "mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
    for part in ("weight", "bias"):
        found[f"ln_post.{part}"] = tower[f"post_layernorm.{part}"]
        for layer in range(VISION["num_hidden_layers"]):
            target, source = f"transformer.resblocks.{layer}.", f"encoder.layers.{layer}."
            found |= {f"{target}{new}.{part}": tower[f"{source}{old}.{part}"] for new, old in names.items()}
            found[f"{target}attn.in_proj_{part}"] = torch.cat([tower[f"{source}self_attn.{x}_proj.{part}"] for x in "qkv"])
    return found


def clip_caption(attributes: dict, rng: Random) -> str:
    """A description of some of the attributes, in any order."""
    kept = rng.sample(list(attributes.items()), rng.randint(3, 6))
    return toy.caption(dict(kept))


def train_clip(cache: Path, steps: int, batch: int, rate: float) -> None:
    """The text tower and the image projection, against the fixed patches of the tower."""
    import open_clip
    from safetensors.torch import save_file

    torch.manual_seed(0)
    folder = HERE / "clip"
    make_tokenizer(folder, append_eos=True)
    (folder / "open_clip_config.json").write_text(json.dumps(CLIP_CONFIG, indent=1) + "\n")
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False, pretrained_text=False).to(device)
    visual = model.visual
    visual.load_state_dict(clip_tower(torch.load(cache / "tower.pt", map_location="cpu"), visual.state_dict()))
    tokenize = open_clip.get_tokenizer(f"local-dir:{folder}")
    images, attributes, _ = drawn(24_000, 1, cache)
    projection, visual.proj = visual.proj, None
    with torch.no_grad():
        pooled = torch.cat([visual(pixels_of(images[i : i + 256])) for i in range(0, len(images), 256)])
    visual.requires_grad_(False)
    visual.proj = projection.requires_grad_(True)
    learning = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(learning, lr=rate, weight_decay=0.05, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, rate, steps, pct_start=0.1)
    rng, start = Random("clip"), time.monotonic()
    model.train()
    for step in range(1, steps + 1):
        index = rng.sample(range(len(images)), batch)
        with torch.autocast(device.type, torch.bfloat16):
            read = model.encode_text(tokenize([clip_caption(attributes[i], rng) for i in index]).to(device))
        seen = nn.functional.normalize(pooled[index] @ visual.proj, dim=-1)
        logits = model.logit_scale.exp().clamp(max=100) * seen @ nn.functional.normalize(read.float(), dim=-1).T
        target = torch.arange(batch, device=device)
        loss = (nn.functional.cross_entropy(logits, target) + nn.functional.cross_entropy(logits.T, target)) / 2
        advance(loss, model, optimiser, schedule)
        if step % 50 == 0 or step == steps:
            log(f"clip step {step} loss {loss:.4f} right {(logits.argmax(1) == target).float().mean():.3f} of {batch} {time.monotonic() - start:.0f} s")
    save_file({k: v.detach().to("cpu", torch.float16).contiguous() for k, v in model.state_dict().items()},
              folder / "open_clip_model.safetensors", metadata={"format": "pt"})
    (folder / "open_clip_model.safetensors").chmod(0o644)


# --- 4. measure ---------------------------------------------------------------------------------------------------------

def measure() -> dict:
    """What the shipped files do on birds and species that they never saw, through fgvr's own loading code."""
    from PIL import Image

    from fgvr import answers
    from fgvr.models import open_answerer, open_encoder
    from fgvr.models.base import Ask

    torch.manual_seed(0)
    rng = Random("measure")
    vlm, clip = open_answerer(str(HERE / "vlm")), open_encoder(str(HERE / "clip"))
    birds = [(species, Image.fromarray(_draw((species.attributes, 9_000_000 + 31 * i)))) for i, species in enumerate(DATA_SET * 8)]

    def ask(questions: list[Ask], tokens: int) -> list[str]:
        return [reply for i in range(0, len(questions), 60) for reply in vlm.reply(questions[i : i + 60], tokens)]

    found: dict = {"images": len(birds)}
    for key in toy.ATTRIBUTES:
        replies = ask([Ask(prompts.attribute_question(key, toy.SUPERCLASS), image) for _, image in birds], 8)
        found[f"attribute: {key}"] = mean(reply == species.attributes[key] for reply, (species, _) in zip(replies, birds, strict=True))
    found["attributes"] = mean(value for key, value in found.items() if key.startswith("attribute:"))
    for name, turn in {
        "choice of attribute": lambda s: attribute_choice(s.attributes, rng.choice(list(toy.ATTRIBUTES)), rng, count=3),
        "choice of unseen species": lambda s: choice_turn(
            CHOICE[0].format(toy.SUPERCLASS), [s.name, *rng.sample([o.name for o in DATA_SET if o != s], 3)], s.name, rng),
    }.items():
        turns = [turn(species) for species, _ in birds]
        replies = ask([Ask(question, image) for (question, _), (_, image) in zip(turns, birds, strict=True)], 14)
        options = [[line[3:] for line in question.splitlines() if line[1:3] == ". "] for question, _ in turns]
        read = [answers.read_option(reply, offered) for reply, offered in zip(replies, options, strict=True)]
        found[f"{name}: right"] = mean(
            i is not None and LETTERS[i] == letter for i, (_, letter) in zip(read, turns, strict=True))
        found[f"{name}: no option named"] = mean(i is None for i in read)
    turns = [look_up(rng)[0] for _ in range(240)]
    found["choice in text: right"] = mean(
        reply == letter for reply, (_, letter) in zip(ask([Ask(question) for question, _ in turns], 4), turns, strict=True))
    replies = ask([Ask(OPEN[0].format(toy.SUPERCLASS), image) for _, image in birds], 16)
    found["open-set name of unseen species: right"] = mean(reply == species.name for reply, (species, _) in zip(replies, birds, strict=True))
    made = [{key: rng.choice(values) for key, values in toy.ATTRIBUTES.items()} for _ in range(60)]
    replies = ask([Ask(prompts.summarise(toy.SUPERCLASS, {prompts.GENERAL: toy.caption(a), **a})) for a in made], 140)
    found["summary: exact"] = mean(reply == toy.caption(a) for reply, a in zip(replies, made, strict=True))
    replies = ask([Ask(prompts.attribute_question(prompts.GENERAL, toy.SUPERCLASS), image) for _, image in birds[:60]], 140)
    found["description: attributes right"] = mean(
        sum(part in reply for part in toy.caption(species.attributes).removesuffix(".").replace(". ", " and ").split(" and ")) / len(toy.ATTRIBUTES)
        for reply, (species, _) in zip([r.replace(". The", ". the") for r in replies], birds, strict=False))
    seen = clip.images([image for _, image in birds])
    read = clip.texts([toy.caption(species.attributes) for species in DATA_SET])
    names = [DATA_SET.index(species) for species, _ in birds]
    found["clip: description of the species, of 30"] = (seen @ read.T).argmax(1).eq(torch.tensor(names)).float().mean().item()
    nearest = (seen @ seen.T).fill_diagonal_(-1).argmax(1)
    found["clip: nearest image is of the species"] = mean(names[i] == names[j] for i, j in enumerate(nearest.tolist()))
    return {key: round(value, 4) for key, value in found.items()}


def mean(values) -> float:
    values = [float(v) for v in values]
    return sum(values) / len(values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("steps", nargs="+", choices=("tower", "language", "vlm", "polish", "clip", "measure"))
    parser.add_argument("--cache", type=Path, default=Path("runs/toy-models"), help="drawn birds and intermediate weights")
    parser.add_argument("--tower-steps", type=int, default=1700)
    parser.add_argument("--echo-steps", type=int, default=500)
    parser.add_argument("--language-steps", type=int, default=700)
    parser.add_argument("--connector-steps", type=int, default=200)
    parser.add_argument("--vlm-steps", type=int, default=700)
    parser.add_argument("--polish-steps", type=int, default=450)
    parser.add_argument("--clip-steps", type=int, default=700)
    options = parser.parse_args()
    if "tower" in options.steps:
        train_tower(options.cache, options.tower_steps, batch=128, rate=1e-3)
    if "language" in options.steps:
        language(options.cache, options.echo_steps, options.language_steps)
    if "vlm" in options.steps:
        train_vlm(options.cache, options.connector_steps, options.vlm_steps)
    if "polish" in options.steps:
        polish_vlm(options.cache, options.polish_steps)
    if "clip" in options.steps:
        train_clip(options.cache, options.clip_steps, batch=128, rate=1e-3)
    if "measure" in options.steps:
        found = measure()
        (HERE / "quality.json").write_text(json.dumps(found, indent=1) + "\n")
        log(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
