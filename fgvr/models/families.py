"""What differs between families of vision-language models when they answer and when they are taken apart. One row each;
what a row does not say is the same for all: the processor writes the image's tokens into the prompt, the chat template
writes the conversation.
"""

from __future__ import annotations

from dataclasses import dataclass

# A conversation without chat template: the question, then the reply. {image} is the processor's image mark, {end} the
# tokenizer's end of a text.
Format = tuple[str, str]
VICUNA = ("USER: {image}\n{question} ASSISTANT:", " {reply}{end}")
MISTRAL = ("[INST] {image}\n{question} [/INST]", " {reply}{end}")
CHATML = ("<|im_start|>user\n{image}\n{question}<|im_end|>\n<|im_start|>assistant\n", "{reply}<|im_end|>\n")
QWEN = (CHATML[0].replace("{image}\n", "<|vision_start|>{image}<|vision_end|>"), CHATML[1])
IDEFICS = ("User:{image}{question}<end_of_utterance>\nAssistant:", " {reply}<end_of_utterance>\n")
SMOL = ("<|im_start|>User:{image}{question}<end_of_utterance>\nAssistant:", " {reply}<end_of_utterance>\n")
SEEN = ("<|vision_start|>{image}<|vision_end|>", "{image}\n", "{image}")  # how a question shows its image
BY_LANGUAGE_MODEL: dict[str, Format] = {"llama": VICUNA, "mistral": MISTRAL, "qwen2": CHATML, "qwen3": CHATML}


@dataclass(frozen=True)
class Family:
    """One family.

    Args:
        name: what its authors call it.
        plain: the conversation where there is no chat template; None: that of its language model.
        closing: what the processor itself puts after a prompt.
        language_model: the submodule that goes on after a cached prompt, where the whole model insists on an image.
        first_position: position of the first token.
        marked: the prompt holds an image mark; False: the processor puts the image first by itself.
        joint: without chat template, what parts two turns in place of the reply's end mark.
    """

    name: str
    plain: Format | None = None
    closing: str = ""
    language_model: str = ""
    first_position: int = 0
    marked: bool = True
    joint: str | None = None


# model_type -> family. In each, options that share their cached prompt score as one by one (tests/test_families.py);
# a type that is not here answers too where it has a chat template, its options one by one
FAMILIES = {
    "idefics2": Family("Idefics2", IDEFICS),
    "idefics3": Family("Idefics3", SMOL),
    "smolvlm": Family("SmolVLM", SMOL),
    "llava": Family("LLaVA-1.5"),
    "llava_next": Family("LLaVA-NeXT"),
    "llava_onevision": Family("LLaVA-OneVision"),
    "qwen2_vl": Family("Qwen2-VL", QWEN),
    "qwen2_5_vl": Family("Qwen2.5-VL", QWEN),
    "qwen3_vl": Family("Qwen3-VL", QWEN),
    "paligemma": Family("PaliGemma", ("{image}{question}", "{reply}{end}"), closing="\n", first_position=1,
                        joint="\n"),
    "internvl": Family("InternVL"),
    "blip-2": Family(
        "BLIP-2", ("Question: {question} Answer:", " {reply}{end}"), language_model="language_model", marked=False,
        joint=". ",
    ),
    "instructblip": Family(
        "InstructBLIP", ("{question}", " {reply}{end}"), language_model="language_model", marked=False, joint="\n"
    ),
}


def plain_format(kind: str, language_model: str) -> Format | None:
    """The conversation of a model of a known family that has no chat template; None: there is none."""
    return FAMILIES[kind].plain or BY_LANGUAGE_MODEL.get(language_model) if kind in FAMILIES else None


@dataclass(frozen=True)
class Parts:
    """Where a family keeps its parts, and how it takes features.

    tower, connector, decoder: dotted names below the model; several, apart by spaces, where one module holds both
        tower and connector.
    text_expands: the processor writes out the image tokens of a text without being given the image, so that many
        questions on one image prepare it once.
    joined: the model takes the features of a batch as one tensor, not as a list.
    prefix: question and image are read in both directions, the reply in one.
    """

    tower: str
    connector: str
    decoder: str
    text_expands: bool = False
    joined: bool = False
    prefix: bool = False


PROJECTOR = ("model.vision_tower", "model.multi_modal_projector", "model.language_model")
PERCEIVER = ("model.vision_model", "model.connector", "model.text_model")
QWEN_TOWER, MERGER = "model.visual.patch_embed model.visual.blocks", "model.visual.merger"
# model_type -> parts: the families that align, tune and probe take. In each, features put into a prompt give what the
# model itself gives from pixels, in value and loss (tests/test_training_families.py)
PARTS = {
    "idefics2": Parts(*PERCEIVER, text_expands=True, joined=True),
    "idefics3": Parts(*PERCEIVER, joined=True),
    "smolvlm": Parts(*PERCEIVER, joined=True),
    "llava": Parts(*PROJECTOR),
    "llava_next": Parts(*PROJECTOR),
    "llava_onevision": Parts(*PROJECTOR),
    "qwen2_vl": Parts(QWEN_TOWER, MERGER, PROJECTOR[2]),
    "qwen2_5_vl": Parts(QWEN_TOWER, MERGER, PROJECTOR[2]),
    "qwen3_vl": Parts(
        f"{QWEN_TOWER} model.visual.pos_embed", f"{MERGER} model.visual.deepstack_merger_list", PROJECTOR[2]
    ),
    "paligemma": Parts(*PROJECTOR, joined=True, prefix=True),
    "internvl": Parts(*PROJECTOR, joined=True),
}
