"""How services say that a request is too large: (whose, status, the error's JSON, what there is too much of, the window
in tokens if it is said). Texts are those that the services and servers send."""

from __future__ import annotations

from typing import Any, Final

Wording = tuple[str, int, Any, str, int | None]


def _openai(message: str, code: str | None = None, kind: str = "invalid_request_error") -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": "messages", "code": code}}


def _anthropic(message: str, kind: str = "invalid_request_error") -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": message}}


WORDINGS: Final[tuple[Wording, ...]] = (
    (
        "OpenAI", 400,
        _openai(
            "This model's maximum context length is 128000 tokens. However, your messages resulted in 130104 tokens. "
            "Please reduce the length of the messages.",
            "context_length_exceeded",
        ),
        "tokens", 128000,
    ),
    (
        "SGLang", 400,
        {
            "object": "error", "type": "BadRequestError", "code": 400,
            "message": "The input (9000 tokens) is longer than the model's context length (8192 tokens).",
        },
        "tokens", 8192,
    ),
    (
        "llama.cpp, without a number", 500,
        {"error": {"code": 500, "message": "Context size has been exceeded.", "type": "server_error"}},
        "tokens", None,
    ),
    (
        "OpenAI, newer", 400,
        _openai(
            "Input tokens exceed the configured limit of 272000 tokens. Your messages resulted in 300114 tokens. "
            "Please reduce the length of the messages.",
            "context_length_exceeded",
        ),
        "tokens", 272000,
    ),
    (
        "OpenAI, without a number", 400,
        _openai("Your input exceeds the context window of this model. Please adjust your input and try again."),
        "tokens", None,
    ),
    (
        "OpenAI, by the minute", 429,
        _openai(
            "Request too large for gpt-4.1 in organization org-x on tokens per min (TPM): Limit 30000, "
            "Requested 48213. "
            "The input or output tokens must be reduced in order to run successfully.",
            "rate_limit_exceeded", "tokens",
        ),
        "tokens", 30000,
    ),
    ("OpenAI, images", 400, _openai("Too many images in request. Maximum is 500."), "media", None),
    (
        "Azure", 400,
        _openai(
            "This model's maximum context length is 8192 tokens, however you requested 9000 tokens (8000 in "
            "your prompt; "
            "1000 for the completion). Please reduce your prompt; or completion length.",
            "context_length_exceeded",
        ),
        "tokens", 8192,
    ),
    ("Anthropic", 400, _anthropic("prompt is too long: 208310 tokens > 200000 maximum"), "tokens", 200000),
    (
        "Anthropic, with the answer", 400,
        _anthropic(
            "input length and `max_tokens` exceed context limit: 190000 + 32000 > 200000, decrease input length or "
            "`max_tokens` and try again"
        ),
        "tokens", 200000,
    ),
    (
        "Anthropic, bytes", 413,
        _anthropic("Request exceeds the maximum allowed number of bytes.", "request_too_large"),
        "bytes", None,
    ),
    (
        "Anthropic, an image", 400,
        _anthropic(
            "messages.2.content.1.image.source.base64: image exceeds 5 MB maximum: 5316852 bytes > 5242880 bytes"
        ),
        "media", None,
    ),
    (
        "Anthropic, many images", 400,
        _anthropic("messages.0.content.3: At least one of the image dimensions exceed max allowed size: 8000 pixels"),
        "media", None,
    ),
    ("Anthropic, much media", 400, _anthropic("Too much media: 0 document pages + 101 images > 100"), "media", None),
    (
        "llama.cpp", 400,
        {
            "error": {
                "code": 400,
                "message": "request (5461 tokens) exceeds the available context size (4096 tokens), try increasing it",
                "type": "exceed_context_size_error",
                "n_prompt_tokens": 5461,
                "n_ctx": 4096,
            }
        },
        "tokens", 4096,
    ),
    (
        "llama.cpp, older", 500,
        {
            "error": {
                "code": 500,
                "message": "the request exceeds the available context size. try increasing the context size or enable "
                "context shift",
                "type": "server_error",
            }
        },
        "tokens", None,
    ),
    (
        "vLLM", 400,
        {
            "object": "error",
            "message": "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens "
            "(4500 in "
            "the messages, 500 in the completion). Please reduce the length of the messages or completion.",
            "type": "BadRequestError", "param": None, "code": 400,
        },
        "tokens", 4096,
    ),
    (
        "vLLM, the decoder", 400,
        {
            "object": "error",
            "message": "The decoder prompt (length 5000) is longer than the maximum model length of 4096. Make "
            "sure that "
            "`max_model_len` is no smaller than the number of text tokens.",
            "type": "BadRequestError", "param": None, "code": 400,
        },
        "tokens", 4096,
    ),
    (
        "vLLM, the answer", 400,
        {
            "error": {
                "message": "'max_tokens' or 'max_completion_tokens' is too large: 32000. This model's maximum context "
                "length is 40960 tokens and your request has 20000 input tokens (32000 > 40960 - 20000).",
                "type": "BadRequestError", "param": "max_tokens", "code": 400,
            }
        },
        "tokens", 40960,
    ),
    (
        "vLLM, images", 400,
        {"error": {"message": "At most 1 image(s) may be provided in one prompt.", "type": "BadRequest", "code": 400}},
        "media", None,
    ),
    (
        "Ollama", 400,
        _openai("prompt too long; exceeded max context length by 123 tokens"), "tokens", None,
    ),
    ("Ollama, older", 500, {"error": "input length exceeds maximum context length"}, "tokens", None),
    (
        "LM Studio", 400,
        {
            "error": "Trying to keep the first 5000 tokens when context the overflows. However, the model is "
            "loaded with "
            "context length of only 4096 tokens, which is not enough. Try to load the model with a larger "
            "context length"
        },
        "tokens", 4096,
    ),
    (
        "OpenRouter", 400,
        {
            "error": {
                "message": "This endpoint's maximum context length is 32768 tokens. However, you requested about 40213 "
                "tokens (39213 of text input, 1000 in the output). Please reduce the length of either one, or use the "
                "\"middle-out\" transform to compress your prompt automatically.",
                "code": 400,
                "metadata": {"provider_name": None},
            }
        },
        "tokens", 32768,
    ),
    (
        "Gemini", 400,
        [
            {
                "error": {
                    "code": 400,
                    "message": "The input token count (1200000) exceeds the maximum number of tokens allowed "
                    "(1048576).",
                    "status": "INVALID_ARGUMENT",
                }
            }
        ],
        "tokens", 1048576,
    ),
    (
        "Gemini, bytes", 400,
        [
            {
                "error": {
                    "code": 400,
                    "message": "Request payload size exceeds the limit: 20971520 bytes.",
                    "status": "INVALID_ARGUMENT",
                }
            }
        ],
        "bytes", None,
    ),
    (
        "Mistral", 400,
        {
            "object": "error",
            "message": "Prompt contains 40213 tokens and 0 draft tokens, too large for model with 32768 maximum "
            "context "
            "length",
            "type": "invalid_request_message_order", "param": None, "code": "3051",
        },
        "tokens", 32768,
    ),
    (
        "Groq", 400,
        _openai("Please reduce the length of the messages or completion.", "context_length_exceeded"), "tokens", None,
    ),
    (
        "Groq, by the minute", 413,
        _openai(
            "Request too large for model `llama-3.3-70b` in organization `org_x` service tier `on_demand` on "
            "tokens per "
            "minute (TPM): Limit 6000, Requested 9123, please reduce your message size and try again.",
            "rate_limit_exceeded", "tokens",
        ),
        "tokens", 6000,
    ),
    (
        "DeepSeek", 400,
        _openai(
            "This model's maximum context length is 65536 tokens. However, you requested 70213 tokens (62021 in the "
            "messages, 8192 in the completion). Please reduce the length of the messages or completion."
        ),
        "tokens", 65536,
    ),
    ("Bedrock", 400, {"message": "Input is too long for requested model."}, "tokens", None),
    (
        "Bedrock, bytes", 400,
        {"message": "messages: too many total text bytes: 30000000 > 25000000"}, "bytes", None,
    ),
    (
        "xAI", 400,
        {"code": "400", "error": "This model's maximum prompt length is 131072 but the request contains 537812 "
        "tokens."},
        "tokens", 131072,
    ),
    (
        "TGI", 422,
        {
            "error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4097. Given: 5000 `inputs` "
            "tokens and 100 `max_new_tokens`",
            "error_type": "validation",
        },
        "tokens", 4097,
    ),
    (
        "Moonshot", 400,
        _openai("Invalid request: Your request exceeded model token limit: 131072"), "tokens", 131072,
    ),
    (
        "Qwen", 400,
        _openai("<400> InternalError.Algo.InvalidParameter: Range of input length should be [1, 30720]"),
        "tokens", 30720,
    ),
    ("MiniMax", 400, _openai("invalid params, context window exceeds limit (2013)"), "tokens", None),
    ("Z.ai", 400, {"error": {"code": "1261", "message": "Prompt exceeds max length"}}, "tokens", None),
    (
        "GitHub", 400,
        _openai("prompt token count of 130213 exceeds the limit of 128000", "model_max_prompt_tokens_exceeded"),
        "tokens", 128000,
    ),
    ("Fireworks", 400, _openai("The prompt is too long: 9000, model maximum context length: 8192"), "tokens", None),
    ("nginx", 413, "<html><head><title>413 Request Entity Too Large</title></head></html>", "bytes", None),
    ("Express", 413, {"error": "PayloadTooLargeError: request entity too large"}, "bytes", None),
    ("a proxy without words", 413, "", "bytes", None),
)  # fmt: skip

# Images that a model cannot be shown, or that a service cannot read.
NO_IMAGES: Final[tuple[tuple[str, int, Any], ...]] = (
    (
        "OpenAI", 400,
        _openai("You uploaded an unsupported image. Please make sure your image has of one the following formats: "
                "['png', 'jpeg', 'gif', 'webp'].", "invalid_image_format"),
    ),
    ("OpenAI, data", 400, _openai("The image data you provided does not represent a valid image.", "invalid_image")),
    ("Anthropic", 400, _anthropic("messages.0.content.1.image.source.base64: Could not process image")),
    (
        "Anthropic, type", 400,
        _anthropic("messages.1.content.0.image.source.base64.data: The image was specified using the image/jpeg media "
                   "type, but the image appears to be a image/png image"),
    ),
    ("Gemini", 400, {"error": {"code": 400, "message": "Unable to process input image.", "status": "INVALID"}}),
    ("Gemini, type", 400, _openai("Unsupported MIME type: image/svg+xml")),
    (
        "llama.cpp", 500,
        {"error": {"code": 500, "type": "server_error", "message": "image input is not supported - hint: if this is "
                   "unexpected, you may need to provide the mmproj"}},
    ),
    ("vLLM", 400, _openai("At the moment qwen3 is not a multimodal model")),
    ("vLLM, data", 400, _openai("cannot identify image file <_io.BytesIO object at 0x7f>")),
    ("Ollama", 500, {"error": "this model is missing data required for image input"}),
    ("OpenRouter", 404, {"error": {"message": "No endpoints found that support image input", "code": 404}}),
    (
        "DeepSeek", 422,
        _openai("Failed to deserialize the JSON body into the target type: messages[1]: unknown variant `image_url`, "
                "expected `text` at line 1 column 90"),
    ),
    (
        "Groq", 400,
        _openai("'messages.1' : for 'role:user' the following must be satisfied[('messages.1.content' : value must be "
                "a string)]"),
    ),
)  # fmt: skip

# What sounds alike and is none.
OTHERS: Final[tuple[tuple[int, Any], ...]] = (
    (400, _openai("max_tokens is too large: 100000. This model supports at most 16384 completion tokens.")),
    (429, _openai("Rate limit reached for gpt-4.1 on tokens per min (TPM): Limit 30000, Used 29000, Requested 2000.")),
    (429, _openai("Request too large for m-1 on tokens per min (TPM)", "rate_limit_exceeded")),
    (429, _anthropic("This request would exceed your organization's rate limit of 40,000 input tokens per minute")),
    (401, _openai("Incorrect API key provided: this is a long message about the context of your prompt")),
    (400, _openai("Invalid 'tools': array too long. Expected an array with maximum length 128, but got 200 instead.")),
    (400, _openai("Invalid schema for function 'files__read': context is not of type object")),
    (503, _openai("The model is overloaded, please try again")),
    (400, _openai("temperature: maximum is 2")),
)
