"""Every bound of greenroom: its name, default, unit and reason, in one place.

`Limits` is what the program passes around; a user sets any field by its name under `[limits]` in
greenroom.toml, as a number or as text with a unit ("1MiB", "300s"). A bound of 0 is refused: nothing here may
be switched off. The reason of each is data (field metadata), because the configuration reference is made from it.
"""

from __future__ import annotations

from typing import Final, Literal

import attrs

Unit = Literal["bytes", "seconds", "count", "characters"]

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB


def _bound(default: float, unit: Unit, reason: str) -> int:
    return attrs.field(default=int(default), metadata={"unit": unit, "reason": reason})


def _seconds(default: float, reason: str) -> float:
    return attrs.field(default=float(default), metadata={"unit": "seconds", "reason": reason})


@attrs.frozen(slots=True, kw_only=True)
class Limits:
    """All bounds with their defaults. Byte counts are of encoded data, times are seconds."""

    # --- actors
    mailbox_messages: int = _bound(64, "count", "a burst of one busy connection fits; beyond it the sender waits")
    ask_timeout: float = _seconds(30, "an actor that does not answer in this time is a defect or a dead disk")

    # --- runs and their replay logs
    run_log_entries: int = _bound(4096, "count", "a minute of a fast model: a dropped client resumes without a gap")
    run_log_bytes: int = _bound(MIB, "bytes", "encoded events of one run kept for late watchers")
    all_logs_bytes: int = _bound(64 * MIB, "bytes", "all replay logs together; terminal ones go first")
    ended_logs_bytes: int = _bound(4 * MIB, "bytes", "replay logs of ended runs together: late clients are few")
    event_bytes: int = _bound(64 * KIB, "bytes", "one event; longer strings are cut with a handle, deltas are split")
    delta_bytes: int = _bound(32 * KIB, "bytes", "one delta; a provider's larger piece leaves as several")
    answer_bytes: int = _bound(8 * MIB, "bytes", "text and reasoning of one turn; beyond it the turn finishes `length`")
    tool_input_bytes: int = _bound(MIB, "bytes", "the input of one tool call")
    tool_calls_per_turn: int = _bound(64, "count", "a model that asks for more is not asking for work")
    parallel_tool_calls: int = _bound(8, "count", "tool calls of one turn that run at the same time")
    repeated_calls: int = _bound(5, "count", "turns in a row with the same call and result: then it is refused")
    turns_per_run: int = _bound(100, "count", "beyond it the run fails with `max_turns`")
    run_timeout: float = _seconds(3600, "one run, waiting for a person not counted")
    terminal_retention: float = _seconds(300, "a late client can replay the end of a run for this long")
    terminal_retained_max: int = _bound(256, "count", "ended runs kept in memory, oldest end dropped first")
    active_runs_max: int = _bound(256, "count", "active runs in the process")
    message_characters: int = _bound(16_000, "characters", "one queued user message")
    queued_messages_max: int = _bound(10, "count", "user messages that wait in one session")

    approval_timeout: float = _seconds(86_400, "a question to a person expires: told apart from a denial")
    headless_grace: float = _seconds(5, "a client that reconnects has this long to attach before nobody can be asked")

    # --- transcript and store
    window_messages: int = _bound(1000, "count", "messages of the tail that a step reads from the store")
    protected_tokens: int = _bound(40_000, "count", "estimated tokens of the newest tool output that stay in a window")
    summary_bytes: int = _bound(32 * KIB, "bytes", "one summary of a conversation; what a model says beyond it is cut")
    prune_tokens: int = _bound(20_000, "count", "as many more of them have grown old before old ones are cleared")
    row_cache_bytes: int = _bound(
        16 * MIB, "bytes", "decoded messages of all windows: of some 25 long sessions at work; read again beyond it"
    )
    passivate_after: float = _seconds(600, "a session without run or watcher leaves memory")
    idle_sessions_max: int = _bound(256, "count", "sessions in memory; of more the longest idle leave, none with a run")
    request_cache_bytes: int = _bound(
        16 * MIB, "bytes", "messages as they stand in requests, of some 40 windows; encoded again beyond it"
    )
    render_cache_bytes: int = _bound(
        2 * MIB, "bytes", "lines of finished messages that a terminal client keeps, of some 150; made again beyond it"
    )
    chunk_bytes: int = _bound(4 * KIB, "bytes", "streamed text is committed at the latest when this much waits")
    chunk_delay: float = _seconds(0.25, "streamed text is committed at the latest after this time")
    unsaved_bytes: int = _bound(256 * KIB, "bytes", "streamed text that waits for the disk before the run waits too")
    inline_media_bytes: int = _bound(
        64 * KIB, "bytes", "media up to this size stay in the transcript, beyond it outside"
    )
    media_bytes: int = _bound(10 * MIB, "bytes", "one file of a message or of a tool's result: no service takes more")
    window_media_bytes: int = _bound(16 * MIB, "bytes", "media that one model call shows, the newest; others are named")
    disk_queue: int = _bound(1024, "count", "operations that wait for the writer thread before producers wait")
    log_soft_bytes: int = _bound(16 * MIB, "bytes", "the store's log file; above it a commit waits shortly for readers")
    log_hard_bytes: int = _bound(48 * MIB, "bytes", "likewise, waiting up to 2 s: 64 MiB is what it may come to")
    seq_block: int = _bound(16_384, "count", "sequence numbers reserved durably at a time: none repeats")

    # --- tools
    tool_result_bytes: int = _bound(50 * KIB, "bytes", "tool output that the model sees, head and tail kept")
    tool_result_lines: int = _bound(2000, "count", "lines of tool output that the model sees")
    tool_memory_bytes: int = _bound(64 * KIB, "bytes", "of any one string of a tool that is in memory while it arrives")
    spool_file_bytes: int = _bound(256 * MIB, "bytes", "one whole output of a tool on the disk; its rest is not kept")
    spool_bytes: int = _bound(2 * GIB, "bytes", "all outputs of tools on the disk that no transcript refers to yet")
    mcp_line_bytes: int = _bound(MIB, "bytes", "one message of a tool server, its long strings not counted")
    mcp_line_strings: int = _bound(1024, "count", "long strings of one message of a tool server")
    mcp_answer_bytes: int = _bound(GIB, "bytes", "one answer of a tool server: four times what is kept of it")
    mcp_unasked_bytes: int = _bound(16 * MIB, "bytes", "one message of a tool server that begins as no answer does")
    mcp_line_values: int = _bound(65_536, "count", "values in one message of a tool server: read in 90 ms at the worst")
    mcp_line_depth: int = _bound(128, "count", "nesting of one message of a tool server: parsers allow about 200")
    mcp_waiting_bytes: int = _bound(8 * MIB, "bytes", "requests that a tool server has not begun to take: 8 inputs")
    mcp_messages: int = _bound(1000, "count", "messages of a tool server in a second: some 200 µs each; others wait")
    mcp_tools: int = _bound(128, "count", "tools of one server: models' services take as many in a request")
    mcp_tools_bytes: int = _bound(512 * KIB, "bytes", "schemas and descriptions of them: in each request to a model")
    mcp_schema_bytes: int = _bound(32 * KIB, "bytes", "one tool's schema; one with many fields has some KiB")
    mcp_description_characters: int = _bound(4096, "characters", "one tool's description; what is more is cut")
    mcp_offers: int = _bound(128, "count", "prompts of one server that are listed, and as many resources")
    mcp_pages: int = _bound(32, "count", "pages of one list of a tool server: one without an end is not followed")
    fetch_bytes: int = _bound(2 * MIB, "bytes", "one page that is fetched; pages of text are far smaller")
    fetch_timeout: float = _seconds(30, "one fetch, with its redirects")
    fetches_max: int = _bound(4, "count", "fetches at the same time: each holds a page while it is read")
    tool_call_timeout: float = _seconds(120, "one tool call; waiting for a person does not count")
    tool_questions: int = _bound(16, "count", "questions to a person in one tool call; a tool that asks more is stuck")
    tool_question_bytes: int = _bound(16 * KIB, "bytes", "one of these: what a person reads, and the answer's form")
    processes_max: int = _bound(32, "count", "tool servers and shells at once: each is a program with its own memory")
    shell_timeout: float = _seconds(120, "one shell command for which no other time is asked")
    shell_timeout_max: float = _seconds(600, "longest time that may be asked for a shell command; jobs have none")
    shell_jobs: int = _bound(8, "count", "background commands of one session, those that ended and were kept included")
    preview_bytes: int = _bound(
        64 * KIB, "bytes", "live output of one tool call in a second; what is more is not shown"
    )
    toolset_start_timeout: float = _seconds(30, "start of a toolset")
    toolset_first_wait: float = _seconds(
        10, "a model's request waits so long for tools never read before: servers start in a few seconds, or not at all"
    )
    toolset_stop_timeout: float = _seconds(10, "a toolset has this long to close before it is left to its guard")
    toolset_idle: float = _seconds(600, "a tool server that nobody has used for this long is stopped")
    toolset_restarts: int = _bound(5, "count", "attempts to start a toolset that broke before it is failed")
    toolset_backoff_first: float = _seconds(1, "wait before the first of these attempts, doubled with each")
    toolset_backoff_max: float = _seconds(32, "longest wait between two of these attempts")
    file_tool_bytes: int = _bound(10 * MIB, "bytes", "largest file that a content search opens")
    search_matches: int = _bound(1000, "count", "matches that one search returns before it stops and says so")
    search_files_max: int = _bound(100_000, "count", "files that one search visits before it stops and says so")

    # --- model calls
    connect_timeout: float = _seconds(10, "connection to a model's service")
    progress_timeout: float = _seconds(60, "silence of a model's stream")
    call_timeout: float = _seconds(900, "one model call, with all of its attempts and the waits between them")
    provider_event_bytes: int = _bound(4 * MIB, "bytes", "one event of a provider's stream; beyond it `provider_error`")
    model_attempts: int = _bound(4, "count", "attempts of one model call")
    retry_delay_first: float = _seconds(1, "least wait before a model call is repeated; it doubles each time")
    retry_delay_max: float = _seconds(30, "longest wait that is our choice before a model call is repeated")
    retry_after_max: float = _seconds(60, "longest wait that a model's service may ask for, so that a run ends")

    # --- gateway
    connections_max: int = _bound(1024, "count", "sockets at the port, HTTP and WebSocket together")
    watches_per_connection: int = _bound(256, "count", "watches of one connection")
    requests_in_flight: int = _bound(32, "count", "requests of one connection at work; beyond it reading pauses")
    message_bytes: int = _bound(MIB, "bytes", "one inbound WebSocket message; beyond it close 1009")
    frame_bytes: int = _bound(256 * KIB, "bytes", "one outbound frame; a connection has at most one in flight")
    markdown_bytes: int = _bound(64 * KIB, "bytes", "Markdown of one request for HTML: 60 ms of work, a ms at a time")
    string_bytes: int = _bound(32 * KIB, "bytes", "one string in a result or push; beyond it a head and a handle")
    malformed_in_a_row: int = _bound(10, "count", "malformed messages in a row before close 1008")
    slow_client_timeout: float = _seconds(15, "a socket that takes nothing for this long is aborted")
    ping_interval: float = _seconds(20, "WebSocket pings from the daemon")
    silence_timeout: float = _seconds(60, "a peer that sends nothing, not even a pong, is dropped")
    http_head_bytes: int = _bound(16 * KIB, "bytes", "request line and headers of an HTTP request")
    handshake_timeout: float = _seconds(10, "a socket has this long to send its request, TLS included")

    # --- daemon
    memory_soft: int = _bound(512 * MIB, "bytes", "resident memory; above it caches and logs of ended runs are dropped")
    memory_hard: int = _bound(GIB, "bytes", "resident memory; above it new runs are refused with `overloaded`")
    governor_interval: float = _seconds(1, "between two looks at the resident memory: 20 µs each")
    drain_timeout: float = _seconds(30, "active runs have this long to end at SIGTERM")
    cancel_grace: float = _seconds(5, "what is cancelled has this long to leave a valid history")


# What the bounds are of: each heading with the name of the first one below it.
GROUPS: Final = (
    ("mailbox_messages", "Actors"),
    ("run_log_entries", "Runs and their replay logs"),
    ("window_messages", "Transcripts and the store"),
    ("tool_result_bytes", "Tools"),
    ("connect_timeout", "Model calls"),
    ("connections_max", "The port"),
    ("memory_soft", "The daemon"),
)

DEFAULT: Final = Limits()
