"""Answers from a server that speaks OpenAI's chat completions (vLLM, SGLang, llama.cpp, OpenAI): openai:NAME.

Images travel as PNG data URLs, so that the server sees the very pixels. Greedy: temperature 0. The key comes from
OPENAI_API_KEY and is never written anywhere.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import io
import math
import os
import weakref
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from fgvr.errors import FgvrError, RecordError, TryAgain, Unanswered, UsageError, reason
from fgvr.models.base import Answerer, Ask, Said
from fgvr.models.replay import Keys, key_of
from fgvr.models.settings import Server

if TYPE_CHECKING:
    from PIL.Image import Image

T = TypeVar("T")
SEEN = 20  # likeliest next tokens that a server may be asked for
AGAIN = (408, 409, 429)  # statuses that pass, as those from 500 on do


def open_answerer(
    name: str,
    revision: str | None = None,
    device: str = "auto",
    adapter: str | None = None,
    server: Server | None = None,
) -> Answerer:
    """Open openai:NAME. The server is first spoken to when it is first asked.

    Raises:
        UsageError: an adapter, which only the server could load; an address that is none.
        FgvrError: the openai package is not installed, or OpenAI itself is meant and there is no key.
    """
    if adapter is not None:
        raise UsageError(f"model openai:{name}: --adapter cannot be sent to a server; let the server load it")
    try:
        import openai
    except ImportError as error:
        raise FgvrError(f"model openai:{name}: the openai package is missing; install fgvr[openai]") from error
    server = server or Server()
    address = server.base_url if server.base_url is not None else os.environ.get("OPENAI_BASE_URL") or None
    if address is not None and not _is_address(address):
        raise UsageError(f"--base-url {address!r} is no address; give one like http://localhost:8000/v1")
    key = os.environ.get("OPENAI_API_KEY")
    if not key and address is None:
        raise FgvrError(f"model openai:{name}: OPENAI_API_KEY is not set; set it, or name a server with --base-url")
    client = openai.AsyncOpenAI(  # it waits longer from attempt to attempt, or as long as the server says
        api_key=key or "none", base_url=address, timeout=server.timeout_s, max_retries=server.retries
    )
    return ServerAnswerer(client, name, server)


def _is_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0  # `port` may raise
    except ValueError:
        return False


class ServerAnswerer:
    """Questions to a server, several at once, in order."""

    def __init__(self, client: Any, name: str, server: Server) -> None:
        self.client, self.name, self.server = client, name, server
        self.about = {"name": f"openai:{name}", "revision": None}
        self.where = f"{client.base_url.host}" + (f":{client.base_url.port}" if client.base_url.port else "")
        self.limit = "max_tokens"
        self.spent: dict[str, float] = {}  # requests and tokens so far, and what they cost
        self._kept: dict[str, Any] = {}  # of a call in which a question failed: what the others gave
        self._keys = Keys()
        self.heard: Callable[[Ask, Said], None] = lambda ask, said: None  # told of each reply as soon as it is there
        self._loop = asyncio.new_event_loop()
        weakref.finalize(self, _close, self._loop, client)

    def reply(self, asks: Sequence[Ask], max_new_tokens: int) -> list[str]:
        return [text for text, _ in self._replies(asks, max_new_tokens)]

    def reply_scored(self, asks: Sequence[Ask], max_new_tokens: int) -> list[Said]:
        return self._replies(asks, max_new_tokens, logprobs=True)

    def sample(self, ask: Ask, max_new_tokens: int, temperature: float, seed: int) -> str:
        return self._replies([ask], max_new_tokens, temperature=temperature, seed=seed)[0].text

    def _replies(self, asks: Sequence[Ask], max_new_tokens: int, **more: Any) -> list[Said]:
        async def one(ask: Ask) -> Said:
            choice = await self._choice(ask, max_new_tokens, **more)
            likely = [self._likely(token) for token in _tokens(choice)]
            sure = sum(likely) / len(likely) if likely else None
            said = Said(self._text(choice.message.content).strip(), sure)
            self.heard(ask, said)
            return said

        return self._all(one, asks, {"max_new_tokens": max_new_tokens, **more})

    def letters(self, asks: Sequence[Ask], letters: Sequence[Sequence[str]]) -> list[list[float | None]]:
        """Over the tokens that are a letter but for white space; None for a letter that is not among the likeliest."""

        async def one(pair: tuple[Ask, Sequence[str]]) -> list[float | None]:
            choice = await self._choice(pair[0], 1, logprobs=True, top_logprobs=SEEN)
            said = _tokens(choice)
            if not said:
                raise FgvrError(
                    f"server {self.where} gives no log-probabilities of {self.name}; use --scoring generate"
                )
            found: dict[str, float] = {}
            for token in said[0].top_logprobs or ():
                text = str(token.token).strip(" \n\t▁Ġ")
                found[text] = found.get(text, 0.0) + math.exp(self._likely(token))
            return [math.log(found[letter]) if found.get(letter) else None for letter in pair[1]]

        return self._all(one, list(zip(asks, letters, strict=True)), {"letters": True})

    # --- requests ---

    def _all(self, one: Callable[[Any], Awaitable[T]], things: Sequence[Any], settings: dict[str, Any]) -> list[T]:
        """`one` for each thing, at most `concurrency` at once.

        A question that is refused or not answered does not stop the others, and the caller may ask them one by one
        after it: what they gave is kept, so that no reply is paid for twice. Any other failure stops all.
        """
        found: dict[int, Any] = {}
        if self._kept:
            keys = [self._key(thing, settings) for thing in things]
            found = {n: self._kept.pop(key) for n, key in enumerate(keys) if key in self._kept}
            self._kept = self._kept if found else {}
        new = [n for n in range(len(things)) if n not in found]
        found.update(zip(new, self._gathered(one, [things[n] for n in new]), strict=True))
        failed = [found[n] for n in range(len(things)) if isinstance(found[n], RecordError)]
        if not failed:
            return [found[n] for n in range(len(things))]
        if len(things) > 1:
            self._kept.update((self._key(things[n], settings), found[n]) for n in new)
        raise failed[0]

    def _key(self, thing: Any, settings: dict[str, Any]) -> str:
        ask, *rest = thing if isinstance(thing, tuple) and not isinstance(thing, Ask) else (thing,)
        return key_of(ask, {**settings, "rest": rest}, self._keys.image(ask.image))

    def _gathered(self, one: Callable[[Any], Awaitable[T]], things: Sequence[Any]) -> list[T | RecordError]:
        gate = asyncio.Semaphore(self.server.concurrency)

        async def gated(thing: Any) -> T | RecordError:
            async with gate:
                try:
                    return await one(thing)
                except RecordError as error:
                    return error

        async def gathered() -> list[T | RecordError]:
            tasks = [asyncio.ensure_future(gated(thing)) for thing in things]
            try:
                return list(await asyncio.gather(*tasks))
            except BaseException:
                await _cancelled(tasks)
                raise

        try:
            return self._loop.run_until_complete(gathered())
        except BaseException:  # a signal stops the loop itself, with all tasks in it
            self._loop.run_until_complete(_cancelled(asyncio.all_tasks(self._loop)))
            raise

    async def _choice(self, ask: Ask, max_new_tokens: int, **more: Any) -> Any:
        """The first choice of a completion. Raises as `_failed` does."""
        import openai

        texts = [*(text for turn in ask.before for text in turn), ask.prompt]
        content: list[list[dict[str, Any]]] = [[{"type": "text", "text": text}] for text in texts]
        if ask.image is not None:
            content[0].insert(0, {"type": "image_url", "image_url": {"url": data_url(ask.image)}})
        messages: Any = [{"role": ("user", "assistant")[n % 2], "content": parts} for n, parts in enumerate(content)]
        more = {"temperature": 0, **more}
        if ask.schema is not None:
            schema = {"name": "reply", "strict": True, "schema": dict(ask.schema)}
            more["response_format"] = {"type": "json_schema", "json_schema": schema}
        try:
            made = await self.client.chat.completions.create(
                model=self.name, messages=messages,
                **{self.limit: max_new_tokens}, **more,
            )  # fmt: skip
        except openai.BadRequestError as refused:
            if self.limit == "max_tokens" and "max_completion_tokens" in str(refused):
                self.limit = "max_completion_tokens"  # what newer models of OpenAI insist on
                return await self._choice(ask, max_new_tokens, **more)
            raise self._failed(refused) from refused
        except (openai.OpenAIError, ValueError) as error:  # a ValueError: the body is no JSON
            raise self._failed(error) from error
        choices: Any = getattr(made, "choices", None)
        some = isinstance(choices, list) and len(choices) > 0
        if (told := _told(choices[0] if some else made)) is not None:
            raise self._refused(told)
        self._account(getattr(made, "usage", None))
        if not some or getattr(choices[0], "message", None) is None:
            raise RecordError(f"server {self.where} returned no reply; ask another model")
        return choices[0]

    def _account(self, usage: Any) -> None:
        """Add an answered request to `spent`; a server need not tell its tokens."""
        told = (getattr(usage, f"{kind}_tokens", None) for kind in ("prompt", "completion"))
        sent, back = (count if isinstance(count, int) else 0 for count in told)
        for name, count in {"requests": 1, "prompt_tokens": sent, "completion_tokens": back}.items():
            self.spent[name] = self.spent.get(name, 0) + count
        if self.server.price is not None:
            a, b = map(float, self.server.price.split(","))
            self.spent["cost"] = round((a * self.spent["prompt_tokens"] + b * self.spent["completion_tokens"]) / 1e6, 6)

    def _text(self, content: Any) -> str:
        """A reply's text, which some servers send in parts."""
        parts = content if isinstance(content, list) else [content or ""]
        texts: list[Any] = [part.get("text") if isinstance(part, dict) else part for part in parts]
        if not all(isinstance(text, str) for text in texts):
            raise RecordError(f"server {self.where} returned a reply that is no text; ask another model")
        return "".join(texts)

    def _likely(self, token: Any) -> float:
        """A token's log-probability; -9999, as OpenAI's own server has it, for -inf."""
        value = getattr(token, "logprob", None)
        if not isinstance(value, int | float) or math.isnan(value) or value > 1:
            raise RecordError(f"server {self.where} returned {value!r} for a log-probability; ask another model")
        return max(value, -9999.0)

    def _failed(self, error: Exception) -> Exception:
        """The last failure, in our words: out of reach (75), refused altogether (1), or refused or not answered for
        this question."""
        import openai

        if isinstance(error, openai.AuthenticationError | openai.PermissionDeniedError):
            return FgvrError(f"server {self.where} refuses the key; set OPENAI_API_KEY")
        if isinstance(error, openai.NotFoundError):
            return FgvrError(f"server {self.where} knows no model {self.name!r} here; check the name and --base-url")
        if isinstance(error, openai.APIStatusError) and error.status_code < 500 and error.status_code not in AGAIN:
            return RecordError(f"server {self.where} refuses the question: {self._said(error)}; correct the record")
        kind: type[Exception] = Unanswered
        if isinstance(error, openai.APITimeoutError):
            what = f"does not answer within {self.server.timeout_s:g} s"
        elif isinstance(error, openai.APIStatusError):
            what = f"answers {error.status_code} ({self._said(error)})"
        elif isinstance(error, openai.APIConnectionError):
            what = f"cannot be reached ({reason(error.__cause__ or error)})"
            kind = TryAgain if "ConnectError" in type(error.__cause__).__name__ else Unanswered  # nobody is there
        else:
            what = "sends what is no JSON"
        return kind(f"server {self.where} {what}; see to it, then go on with --resume")

    def _refused(self, error: Any) -> Exception:
        """An error that came as 200: one that passes by its code (as OpenRouter's), or one with this question."""
        body = error if isinstance(error, dict) else {"message": error}
        code, what = body.get("code"), f"server {self.where} answers with an error: {self._short(body.get('message'))}"
        if isinstance(code, int) and (500 <= code < 600 or code in AGAIN):
            return Unanswered(f"{what} ({code}); see to it, then go on with --resume")
        return RecordError(f"{what}; correct the record, or ask another model")

    def _said(self, error: Any) -> str:
        body = error.body if isinstance(error.body, dict) else {}
        return self._short(body.get("message") or error.message)

    def _short(self, text: Any) -> str:
        return " ".join(str(text).split())[:200].replace(self.client.api_key, "***")


def _told(made: Any) -> Any:
    """The error in a body of 200 or in its choice, as most servers put it there, or as FastChat does; None: none."""
    if getattr(made, "object", None) == "error":
        return {"message": getattr(made, "message", None), "code": getattr(made, "code", None)}
    return getattr(made, "error", None)


def _tokens(choice: Any) -> list[Any]:
    """The tokens of a reply with their log-probabilities; [] where the server tells none."""
    found = getattr(getattr(choice, "logprobs", None), "content", None)
    return found if isinstance(found, list) else []


def _close(loop: asyncio.AbstractEventLoop, client: Any) -> None:
    """The client first: it needs the loop to say goodbye."""
    if not loop.is_closed():
        with contextlib.suppress(Exception):
            loop.run_until_complete(client.close())
        loop.close()


async def _cancelled(tasks: Any) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def data_url(image: Image) -> str:
    """The image's pixels, without loss."""
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
