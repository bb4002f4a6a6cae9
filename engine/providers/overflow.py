"""A request that is too large for a model, as services say it: by tokens, by bytes, or by its media; and one whose
images a service does not take.

The wordings are those of services and servers that people use; each line of WORDINGS names whose it is. All of it is a
service's text: it decides whether less is sent the next time, and nothing else. Numbers in it are believed within
bounds only.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from typing import Any, Final

import attrs


class Overflow(enum.StrEnum):
    """What there was too much of."""

    TOKENS = "tokens"
    BYTES = "bytes"
    MEDIA = "media"


@attrs.frozen(slots=True)
class Wording:
    """`whose` words these are, and what they complain of. A group named `window` is the model's window in tokens."""

    whose: str
    kind: Overflow
    pattern: re.Pattern[str]


_N: Final = r"(?P<window>[\d,]{1,12})"


def _says(whose: str, pattern: str, kind: Overflow = Overflow.TOKENS) -> Wording:
    return Wording(whose, kind, re.compile(pattern.replace("N#", _N), re.I | re.S))


# Media first: an image that is too large is said with words of size, too.
WORDINGS: Final = (
    _says("Anthropic", r"image exceeds [\d.]+ ?MB", Overflow.MEDIA),
    _says("Anthropic", r"image dimensions exceed", Overflow.MEDIA),
    _says("Anthropic", r"too (many|much) (images|media)", Overflow.MEDIA),
    _says("Anthropic", r"maximum of \d+ PDF pages", Overflow.MEDIA),
    _says("OpenAI, Groq, Mistral", r"(too many|number of|max(imum)?( of)?) images?\b.{0,60}", Overflow.MEDIA),
    _says("OpenAI", r"(image|images|file|attachment)s?\b.{0,40}\btoo (large|big|many)", Overflow.MEDIA),
    _says("OpenAI, Gemini", r"image.{0,40}exceeds?.{0,30}(size|limit|maximum|pixels)", Overflow.MEDIA),
    _says("vLLM, SGLang", r"at most \d+ (image|video|audio)", Overflow.MEDIA),
    _says("Bedrock", r"too many total text bytes", Overflow.BYTES),
    _says("Gemini", r"payload size exceeds", Overflow.BYTES),
    _says("Anthropic", r"request exceeds the maximum (allowed )?(size|number of bytes)", Overflow.BYTES),
    _says("nginx, Express", r"(request|payload) ?(entity|body|content)? ?(is )?too ?large(?! for)", Overflow.BYTES),
    _says("proxies", r"(request|content|body)[ _-](body|length|size).{0,30}(exceed|too large|limit)", Overflow.BYTES),
    _says("OpenAI, Azure, DeepSeek, vLLM, SGLang, OpenRouter", r"maximum context length (is|of) N# tokens"),
    _says("SGLang", r"longer than the model.?s context length \(N# tokens\)"),
    _says("vLLM", r"maximum model length of N#"),
    _says("vLLM", r"context length is only N# tokens"),
    _says("OpenAI", r"exceed the configured limit of N# tokens"),
    _says("OpenAI", r"exceeds? the context window"),
    _says("Anthropic", r"prompt is too long: [\d,]+ tokens > N# maximum"),
    _says("Anthropic", r"exceed context limit: [\d,]+ \+ [\d,]+ > N#"),
    _says("Anthropic, Bedrock, Fireworks", r"(prompt|input|request) is too long"),
    _says("Bedrock", r"input tokens exceeded|number of input tokens exceeds"),
    _says("llama.cpp", r"available context size \(N# tokens\)"),
    _says("llama.cpp", r"available context size|context size has been exceeded"),
    _says("Ollama", r"(input|prompt) (length )?(too long|exceeds?).{0,20} max(imum)? context|input length exceeds"),
    _says("LM Studio", r"context length of only N# tokens"),
    _says("LM Studio", r"greater than the context length|context the overflows"),
    _says("Gemini, Vertex", r"exceeds the maximum number of tokens allowed \(N#\)"),
    _says("Gemini, Vertex", r"input token count.{0,60}only supports up to N#"),
    _says("Mistral", r"too large for model with N# maximum context length"),
    _says("Groq, OpenAI", r"request too large for .*limit N#, requested"),
    _says("Groq, Cerebras, OpenAI", r"reduce the length of (the|either|your) (messages|prompt|input|one)"),
    _says("xAI", r"maximum prompt length is N#"),
    _says("TGI, Together", r"tokens.{0,20}\+ `?max_new_tokens`? must be <= N#"),
    _says("Cohere", r"tokens in the prompt cannot exceed N#"),
    _says("Moonshot", r"exceeded model token limit:? N#"),
    _says("MiniMax", r"context window exceeds limit"),
    _says("Qwen (DashScope)", r"range of input length should be \[\d+, N#\]"),
    _says("Z.ai", r"prompt exceeds max(imum)? length"),
    _says("GitHub", r"prompt token count.{0,40}exceeds the limit of N#"),
    _says("others", r"context.?length.{0,20}exceeded|exceed.{0,40}\bcontext|context.?window.{0,40}exceed"),
    _says("others", r"(prompt|input|messages?|conversation|context)\b.{0,80}\btoo (long|large|many tokens)"),
    _says("others", r"too many (input )?tokens(?! per)|maximum.{0,20} tokens.{0,60}\bprompt"),
)  # fmt: skip

# Images that a model cannot be shown at all, or that a service cannot read. Whose words they are: OpenAI; Anthropic;
# Gemini; llama.cpp; vLLM; Ollama; OpenRouter, Groq; DeepSeek and others that know texts only.
_NO_IMAGES: Final = re.compile(
    r"unsupported image|image(_url)?\b.{0,60}\b(invalid|not valid)\b|\b(invalid|not .{0,20}valid)\b.{0,30}\bimage"
    r"|could not process image|image appears to be|image\.source|failed to (decode|load|download|fetch).{0,30}\bimage"
    r"|unable to process input image|unsupported (mime|media)[ _]?type.{0,40}image/|image is not (valid|supported)"
    r"|images? (input|content|inputs|url)?s? ?(is|are) not supported|cannot identify image|not a multi-?modal model"
    r"|missing data required for image|image: unknown format|(does not|doesn.t|not) support (image|vision|multi-?modal)"
    r"|no endpoints found that support image|unknown variant `?image_url|content.{0,20} must be a string",
    re.I | re.S,
)
_NO_IMAGES_STATUSES: Final = frozenset({None, 400, 404, 415, 422, 500, 501})
# The same by a name: an error's type or code.
_KINDS: Final[Mapping[str, Overflow]] = {
    "context_length_exceeded": Overflow.TOKENS,
    "exceed_context_size_error": Overflow.TOKENS,
    "model_max_prompt_tokens_exceeded": Overflow.TOKENS,
    "string_above_max_length": Overflow.TOKENS,
    "request_too_large": Overflow.BYTES,
    "payload_too_large": Overflow.BYTES,
    "image_too_large": Overflow.MEDIA,
}
# Statuses that such an error comes with. 500 is of servers that did not expect it.
_STATUSES: Final = frozenset({None, 400, 413, 422, 500})
_TOO_LARGE: Final = 413
# A window that makes sense; what is said beyond is no number of tokens.
_WINDOW_MIN, _WINDOW_MAX = 256, 100_000_000
# A limit by the minute is no overflow, unless the one request is beyond it.
_PER_MINUTE: Final = re.compile(r"request too large for .*limit ([\d,]+), requested ([\d,]+)", re.I | re.S)
# Bounds of an answer, not of the conversation.
_OF_ANSWERS: Final = re.compile(r"max_(completion_)?tokens.{0,60}(supports? at most|completion tokens)", re.I | re.S)


@attrs.frozen(slots=True, kw_only=True)
class Found:
    """An overflow. `window` is the model's window in tokens, if the service said it."""

    kind: Overflow
    window: int | None = None

    def data(self) -> dict[str, Any]:
        """As data of the error."""
        return {"overflow": self.kind} | ({} if self.window is None else {"window_tokens": self.window})


def find(message: str, names: str, status: int | None, *, limited: bool, told: object = None) -> Found | None:
    """Whether an error says that the request was too large. `names` are its types and codes, `limited` that it is about
    a rate; `told` is a window that stands in a field of its own."""
    if limited:
        found = _PER_MINUTE.search(message)
        if found is None or _number(found[2]) <= _number(found[1]):
            return None
    elif status not in _STATUSES:
        return None
    named = next((kind for name, kind in _KINDS.items() if name in names), None)
    wording = None
    match = None
    if not _OF_ANSWERS.search(message):
        for wording in WORDINGS:
            match = wording.pattern.search(message)
            if match is not None:
                break
    if match is None or wording is None:
        if named is None and status != _TOO_LARGE:
            return None
        return Found(kind=named or Overflow.BYTES, window=_window(told))
    window = _window(match.groupdict().get("window"))
    kind = wording.kind if wording.kind is Overflow.MEDIA or named is None else named
    return Found(kind=kind, window=window if window is not None else _window(told))


def refuses_images(message: str, status: int | None) -> bool:
    """Whether an error may be about images that were shown. Who has shown none has to take it for something else."""
    return status in _NO_IMAGES_STATUSES and _NO_IMAGES.search(message) is not None


def _number(text: str) -> int:
    return int(text.replace(",", "") or "0")


def _window(value: object) -> int | None:
    number = _number(value) if isinstance(value, str) else value
    return number if type(number) is int and _WINDOW_MIN <= number <= _WINDOW_MAX else None
