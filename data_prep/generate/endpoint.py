"""The endpoint: OpenAI's chat completions, hosted or local (vLLM, llama.cpp, Ollama ...), through the official client.

    endpoint = Endpoint("http://localhost:8000/v1", "my-model", key=None)
    reply = await endpoint.ask([{"role": "user", "content": "..."}])

The client repeats what is worth repeating (timeouts, 408, 409, 429, 5xx) with growing pauses, or as long as the
server's Retry-After says.
"""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

from data_prep.errors import DataError, first_line, quoted

NO_KEY = "none"
HINTS = {
    401: "the key is refused; set the variable that --key-variable names",
    403: "the key may not use this model",
    404: "no such address or model; see --endpoint (it usually ends in /v1) and --model",
}


class Reply(NamedTuple):
    """What came back: the text, why it ended, and the tokens that were counted (0 when the server counts none)."""

    text: str
    finish: str | None
    tokens_in: int
    tokens_out: int


class NotNow(Exception):
    """The endpoint gave no answer this time; the text says why."""


class Refused(Exception):
    """The endpoint refuses this one request (too long, filtered); the text says why."""


class Pace:
    """Lets requests start no faster than a number a minute, and than their tokens a minute."""

    def __init__(self, requests: float | None, tokens: float | None) -> None:
        """Take the limits; None is no limit."""
        self._requests, self._tokens = requests, tokens
        self._free = 0.0

    async def turn(self, tokens: int) -> None:
        """Wait until a request of `tokens` may start."""
        now = asyncio.get_running_loop().time()
        start = max(now, self._free)
        pauses = [60 / self._requests] if self._requests else []
        pauses += [60 * tokens / self._tokens] if self._tokens else []
        self._free = start + max(pauses, default=0.0)
        if start > now:
            await asyncio.sleep(start - now)


def _counted(usage: Any) -> tuple[int, int]:
    """Return the tokens that a server counted, 0 for what it did not count."""
    counts = [getattr(usage, name, None) for name in ("prompt_tokens", "completion_tokens")]
    first, second = (count if isinstance(count, int) and count >= 0 else 0 for count in counts)
    return first, second


class Endpoint:
    """One model behind one address."""

    def __init__(
        self, address: str, model: str, key: str | None, retries: int = 5, timeout: float = 120.0, **settings: Any
    ) -> None:
        """Open nothing yet; `settings` (max_tokens, temperature) go with every request."""
        try:
            import openai
        except ImportError:
            raise DataError("openai", "the client is not installed; pip install -e '.[generate]'") from None
        self._openai: Any = openai
        self.address, self.model = address, model
        self._settings = settings
        if key and not (key.isascii() and key.isprintable()):
            raise DataError("the key", "holds a character that no request can carry, a line end perhaps; set it again")
        try:
            if not address.startswith(("http://", "https://")):
                raise ValueError("it does not begin with http:// or https://")
            self._client: Any = openai.AsyncOpenAI(
                base_url=address, api_key=key or NO_KEY, max_retries=retries, timeout=timeout
            )
        except Exception as error:  # httpx's errors of addresses are of several kinds
            raise DataError(
                address, f"no address ({first_line(error)}); for example http://localhost:8000/v1"
            ) from None

    async def ask(self, messages: list[dict[str, str]]) -> Reply:
        """Return the reply to a chat; raise NotNow, Refused, or DataError when no request can succeed."""
        try:
            answer: Any = await self._client.chat.completions.create(
                model=self.model, messages=messages, **self._settings
            )
            choice = answer.choices[0]
            reply = Reply(choice.message.content or "", choice.finish_reason, *_counted(answer.usage))
        except self._openai.APIStatusError as error:
            raise self._failure(error.status_code, str(error)) from None
        except (self._openai.APIError, AttributeError, IndexError, TypeError) as error:
            raise NotNow(f"{self.address}: {str(error) or type(error).__name__:.200}") from None
        if not isinstance(reply.text, str):
            raise NotNow(f"{self.address}: its answer is no text but {quoted(reply.text, 40)}")
        return reply

    def _failure(self, status: int, message: str) -> Exception:
        if status in HINTS:
            return DataError(self.address, f"status {status}, model {self.model!r}: {HINTS[status]} ({message:.200})")
        if status in {400, 413, 422}:
            return Refused(f"status {status}: {message:.200}")
        return NotNow(f"{self.address}: status {status}: {message:.200}")

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()
