"""Every bound of greenroom: its name, default, unit and reason, in one place.

`Limits` is what the program passes around; a user sets any field by its name under `[limits]` in
greenroom.toml, as a number or as text with a unit ("1MiB", "300s"). A bound of 0 is refused: nothing here may
be switched off. What each bounds and why it is what it is are data (field metadata), because the configuration
reference is made from them.
"""

from __future__ import annotations

from typing import Final, Literal

import attrs

Unit = Literal["bytes", "seconds", "count", "characters"]

KIB: Final = 1024
MIB: Final = 1024 * KIB
GIB: Final = 1024 * MIB


def _bound(default: float, unit: Unit, says: str, reason: str) -> int:
    return attrs.field(default=int(default), metadata={"unit": unit, "says": says, "reason": reason})


def _seconds(default: float, says: str, reason: str) -> float:
    return attrs.field(default=float(default), metadata={"unit": "seconds", "says": says, "reason": reason})


@attrs.frozen(slots=True, kw_only=True)
class Limits:
    """All bounds with their defaults. Byte counts are of encoded data, times are seconds."""

    # fmt: off
    # --- actors
    mailbox_messages: int = _bound(64, "count", "messages that wait for one actor; beyond it their senders wait",
        "a burst of one busy connection fits")
    ask_timeout: float = _seconds(30, "an answer of one actor to another",
        "one that takes longer is a defect or a dead disk")

    # --- runs and their replay logs
    run_log_entries: int = _bound(4096, "count", "events of one run that are kept for late watchers",
        "a minute of a fast model: a dropped client resumes without a gap")
    run_log_bytes: int = _bound(MIB, "bytes", "the same in encoded bytes; who comes later gets a snapshot",
        "a long answer fits")
    all_logs_bytes: int = _bound(64 * MIB, "bytes", "the logs of all runs together; those of ended ones go first",
        "an eighth of memory_soft, which leaves room for all else")
    ended_logs_bytes: int = _bound(4 * MIB, "bytes", "the logs of ended runs together",
        "late clients are few, and what they miss they get from the store")
    event_bytes: int = _bound(64 * KIB, "bytes", "one event; longer strings are cut with a handle, deltas are split",
        "a quarter of a frame, so that several fit one")
    delta_bytes: int = _bound(32 * KIB, "bytes", "one delta; a provider's larger piece leaves as several",
        "what a client shows at once, and never cut like other strings")
    answer_bytes: int = _bound(8 * MIB, "bytes", "text and reasoning of one turn; beyond it the turn finishes `length`",
        "many times what models write in one answer: more is one that repeats itself")
    tool_input_bytes: int = _bound(MIB, "bytes", "the input of one tool call",
        "a large file to be written; models write far less in one call")
    tool_calls_per_turn: int = _bound(64, "count", "tool calls of one turn",
        "a model that asks for more is not asking for work")
    parallel_tool_calls: int = _bound(8, "count", "tool calls of one turn that run at the same time; the others wait",
        "they share a disk, a network and processes_max")
    repeated_calls: int = _bound(5, "count", "turns in a row with the same call and result; then the call is refused",
        "twice may be patience, five times is a loop that costs money")
    turns_per_run: int = _bound(100, "count", "turns of one run; beyond it the run fails with `max_turns`",
        "long work takes some dozens, and each turn costs money")
    run_timeout: float = _seconds(3600, "one run, waiting for a person not counted",
        "what goes on for longer has lost its way, or nobody remembers it")
    terminal_retention: float = _seconds(300,
        "how long an ended run can be replayed from memory; then the store has it",
        "a client that was away is back within minutes")
    terminal_retained_max: int = _bound(256, "count", "ended runs kept in memory; the oldest end is dropped first",
        "as many as may be active, so that a burst that ends at once is kept")
    active_runs_max: int = _bound(256, "count", "active runs in the process",
        "some 14 MiB of memory, and more at once than services let one account have")
    message_characters: int = _bound(16_000, "characters", "one queued user message",
        "some pages of text; what is longer is sent when its session is free")
    queued_messages_max: int = _bound(10, "count", "user messages that wait in one session",
        "more would be answered long after they were meant")

    approval_timeout: float = _seconds(86_400, "a question to a person; expired is told apart from denied",
        "who is asked in the evening answers in the morning")
    headless_grace: float = _seconds(5, "before nobody counts as there to be asked",
        "a client that reconnects is back within seconds")

    # --- transcript and store
    window_messages: int = _bound(1000, "count", "messages of the tail that a step reads from the store",
        "more than fit any model's window with their text")
    protected_tokens: int = _bound(40_000, "count", "estimated tokens of the newest tool output that stay in a window",
        "what the model is at work on; older results it has drawn its conclusions from")
    summary_bytes: int = _bound(32 * KIB, "bytes", "one summary of a conversation; what a model says beyond it is cut",
        "a small part of any window, or nothing would be won by it")
    prune_tokens: int = _bound(20_000, "count", "as many more of them have grown old before old ones are cleared",
        "each clearing changes the begin of requests, and costs the service's prompt cache")
    row_cache_bytes: int = _bound(16 * MIB, "bytes", "decoded messages of all windows; read again beyond it",
        "some 25 long sessions at work")
    passivate_after: float = _seconds(600, "how long a session without run or watcher stays in memory",
        "a person who thinks is faster, and one that is not in memory is back within milliseconds")
    idle_sessions_max: int = _bound(256, "count", "sessions in memory; of more the longest idle leave, none with a run",
        "as many as may be at work")
    request_cache_bytes: int = _bound(16 * MIB, "bytes", "messages as they stand in requests; encoded again beyond it",
        "some 40 windows")
    render_cache_bytes: int = _bound(2 * MIB, "bytes",
        "lines of finished messages that a terminal client keeps; made again beyond it",
        "some 150 messages, many screens")
    chunk_bytes: int = _bound(4 * KIB, "bytes", "streamed text that waits at the most before it is committed",
        "a page of the database; a row for each token would make it four times as large")
    chunk_delay: float = _seconds(0.25, "how long streamed text waits at the most before it is committed",
        "what a crash may lose of an answer, for four commits a second")
    unsaved_bytes: int = _bound(256 * KIB, "bytes", "streamed text that waits for the disk before its run waits too",
        "seconds of a fast model, while a disk is busy")
    inline_media_bytes: int = _bound(64 * KIB, "bytes", "media that stay in the transcript; larger ones lie beside it",
        "up to it a row is read faster than a file")
    media_bytes: int = _bound(10 * MIB, "bytes", "one file of a message or of a tool's result", "no service takes more")
    window_media_bytes: int = _bound(16 * MIB, "bytes", "media that one model call shows, the newest; others are named",
        "22 MB in base64; large services take requests of 32")
    disk_queue: int = _bound(1024, "count", "operations that wait for the writer thread before who makes them waits",
        "four of each active run")
    log_soft_bytes: int = _bound(16 * MIB, "bytes", "the store's log file; above it a commit waits shortly for readers",
        "four times what is folded at once: readers of some seconds are not noticed")
    log_hard_bytes: int = _bound(48 * MIB, "bytes", "the same; above it a commit waits up to 2 s",
        "64 MiB is what it may come to")
    seq_block: int = _bound(16_384, "count", "sequence numbers reserved durably at a time",
        "none repeats after a crash, for a write each 16,384 events")

    # --- tools
    tool_result_bytes: int = _bound(50 * KIB, "bytes", "tool output that the model sees, head and tail kept",
        "some 15,000 tokens: a few such results fit any window")
    tool_result_lines: int = _bound(2000, "count", "lines of tool output that the model sees",
        "more are looked through, not read: it asks for parts")
    tool_memory_bytes: int = _bound(64 * KIB, "bytes",
        "of any one string of a tool that is in memory while it arrives; the rest goes to the disk",
        "a pipe's own size: an answer of 100 MB costs no more than a small one")
    spool_file_bytes: int = _bound(256 * MIB, "bytes", "one whole output of a tool on the disk; its rest is not kept",
        "a day's log of a busy program")
    spool_bytes: int = _bound(2 * GIB, "bytes", "all outputs of tools on the disk that no transcript refers to yet",
        "eight of the largest at the same time")
    mcp_line_bytes: int = _bound(MIB, "bytes", "one message of a tool server, its long strings not counted",
        "what is left of one is names and numbers")
    mcp_line_strings: int = _bound(1024, "count", "long strings of one message of a tool server",
        "each may be a file on the disk while it arrives")
    mcp_answer_bytes: int = _bound(GIB, "bytes", "one answer of a tool server", "four times what is kept of it")
    mcp_unasked_bytes: int = _bound(16 * MIB, "bytes", "one message of a tool server that begins as no answer does",
        "what a server says by itself is short: notices, questions, logs")
    mcp_line_values: int = _bound(65_536, "count", "values in one message of a tool server",
        "read in 90 ms at the worst")
    mcp_line_depth: int = _bound(128, "count", "nesting of one message of a tool server", "parsers allow about 200")
    mcp_waiting_bytes: int = _bound(8 * MIB, "bytes", "requests that a tool server has not begun to take",
        "8 inputs of the largest")
    mcp_messages: int = _bound(1000, "count", "messages of a tool server in a second; others wait",
        "some 200 µs each: a fifth of the loop's time")
    mcp_tools: int = _bound(128, "count", "tools of one server", "models' services take as many in a request")
    mcp_tools_bytes: int = _bound(512 * KIB, "bytes", "schemas and descriptions of one server's tools",
        "they stand in each request to a model")
    mcp_schema_bytes: int = _bound(32 * KIB, "bytes", "one tool's schema", "one with many fields has some KiB")
    mcp_description_characters: int = _bound(4096, "characters", "one tool's description; what is more is cut",
        "a page of text: more is a manual, and stands in each request")
    mcp_offers: int = _bound(128, "count", "prompts of one server that are listed, and as many resources",
        "more than a person looks through")
    mcp_pages: int = _bound(32, "count", "pages of one list of a tool server", "one without an end is not followed")
    fetch_bytes: int = _bound(2 * MIB, "bytes", "one page that is fetched", "pages of text are far smaller")
    fetch_timeout: float = _seconds(30, "one fetch, with its redirects", "a server that needs longer has no answer")
    fetches_max: int = _bound(4, "count", "fetches at the same time", "each holds a page while it is read")
    tool_call_timeout: float = _seconds(120, "one tool call; waiting for a person does not count",
        "what takes longer is background work, for which there are jobs")
    tool_questions: int = _bound(16, "count", "questions to a person in one tool call",
        "a tool that asks more is stuck")
    tool_question_bytes: int = _bound(16 * KIB, "bytes", "one of these: what a person reads, and the answer's form",
        "a page of text with a form of many fields")
    processes_max: int = _bound(32, "count", "tool servers and shells at once", "each is a program with its own memory")
    shell_timeout: float = _seconds(120, "one shell command for which no other time is asked",
        "a build or a test run of ordinary size")
    shell_timeout_max: float = _seconds(600, "the longest time that may be asked for a shell command",
        "what takes longer is a job, which has no bound of time")
    shell_jobs: int = _bound(8, "count", "background commands of one session, those that ended and were kept included",
        "a server, a watcher and some builds; each is a program with its own memory")
    preview_bytes: int = _bound(64 * KIB, "bytes",
        "live output of one tool call in a second; what is more is not shown",
        "nobody reads more, and the whole is kept anyway")
    toolset_start_timeout: float = _seconds(30, "start of a toolset",
        "programs that fetch themselves first (uvx, npx) need some of it")
    toolset_first_wait: float = _seconds(10, "how long a model's request waits for tools never read before",
        "servers start in a few seconds, or not at all")
    toolset_stop_timeout: float = _seconds(10, "how long a toolset has to close before it is left to its guard",
        "programs that save something do it within 5 s")
    toolset_idle: float = _seconds(600, "how long a tool server that nobody uses is kept",
        "the next turn of a person who thinks finds it still there")
    toolset_restarts: int = _bound(5, "count", "attempts to start a toolset that broke before it is failed",
        "half a minute of waits: what does not start by then needs a person")
    toolset_backoff_first: float = _seconds(1, "the wait before the first of these attempts, doubled with each",
        "a program that crashed by chance is back at once")
    toolset_backoff_max: float = _seconds(32, "the longest wait between two of these attempts",
        "one that is down for longer is not asked all the time")
    file_tool_bytes: int = _bound(10 * MIB, "bytes", "the largest file that a content search opens",
        "text that people write is far smaller")
    search_matches: int = _bound(1000, "count", "matches that one search returns before it stops and says so",
        "a model narrows its search down rather than read more")
    search_files_max: int = _bound(100_000, "count", "files that one search visits before it stops and says so",
        "a large project; more is a whole disk")

    # --- model calls
    connect_timeout: float = _seconds(10, "connection to a model's service",
        "one that is there accepts within a second, also from afar")
    progress_timeout: float = _seconds(60, "silence of a model's stream",
        "services send something while a model thinks; without any the connection is dead")
    call_timeout: float = _seconds(900, "one model call, with all of its attempts and the waits between them",
        "the longest answers take some minutes")
    provider_event_bytes: int = _bound(4 * MIB, "bytes", "one event of a provider's stream; beyond it `provider_error`",
        "four of the largest tool inputs in one piece")
    model_attempts: int = _bound(4, "count", "attempts of one model call",
        "a service that is down for longer than three repetitions is told to a person")
    retry_delay_first: float = _seconds(1, "the least wait before a model call is repeated; it doubles each time",
        "a service that has just refused needs a moment")
    retry_delay_max: float = _seconds(30, "the longest wait that is our choice before a model call is repeated",
        "somebody waits for the answer")
    retry_after_max: float = _seconds(60, "the longest wait that a model's service may ask for",
        "a run has to end, and says why")

    # --- gateway
    connections_max: int = _bound(1024, "count", "sockets at the port, HTTP and WebSocket together",
        "some 40 MiB of memory")
    watches_per_connection: int = _bound(256, "count", "watches of one connection",
        "one of each run that may be active")
    requests_in_flight: int = _bound(32, "count", "requests of one connection at work; beyond it reading pauses",
        "a client that shows a whole page at once")
    message_bytes: int = _bound(MIB, "bytes", "one inbound WebSocket message; beyond it close 1009",
        "a long message with a small file in it; large ones are named by their path")
    frame_bytes: int = _bound(256 * KIB, "bytes", "one outbound frame; a connection has at most one in flight",
        "what a slow client costs, times the number of connections")
    markdown_bytes: int = _bound(64 * KIB, "bytes", "Markdown of one request for HTML",
        "60 ms of work, a millisecond at a time")
    string_bytes: int = _bound(32 * KIB, "bytes", "one string in a result or push; beyond it a head and a handle",
        "an eighth of a frame, so that a page of messages fits one")
    malformed_in_a_row: int = _bound(10, "count", "malformed messages in a row before close 1008",
        "a mistake of a client's author is told; a stranger goes")
    slow_client_timeout: float = _seconds(15, "how long a socket may take nothing before it is aborted",
        "longer than a wireless network is away; its client comes back without loss")
    ping_interval: float = _seconds(20, "between two WebSocket pings from the daemon",
        "below the idle time after which proxies cut a connection, mostly 60 s")
    silence_timeout: float = _seconds(60, "how long a peer may send nothing, not even a pong, before it is dropped",
        "three pings: one that is lost is not yet the end")
    http_head_bytes: int = _bound(16 * KIB, "bytes", "request line and headers of an HTTP request",
        "browsers send a few KiB, cookies of other programs included")
    handshake_timeout: float = _seconds(10, "how long a socket has to send its request, TLS included",
        "a slow network does it in a second or two; who says nothing holds a socket")

    # --- daemon
    memory_soft: int = _bound(512 * MIB, "bytes", "resident memory; above it caches and logs of ended runs are dropped",
        "ten times what an idle daemon has, and half of memory_hard")
    memory_hard: int = _bound(GIB, "bytes", "resident memory; above it new runs are refused with `overloaded`",
        "what a small machine can spare, before the kernel chooses what to kill")
    governor_interval: float = _seconds(1, "between two looks at the resident memory",
        "20 µs each, and no burst doubles the memory in a second")
    drain_timeout: float = _seconds(30, "how long active runs have to end at SIGTERM",
        "most turns end by then; supervisors mostly wait 90 s")
    cancel_grace: float = _seconds(5, "how long what is cancelled has to leave a valid history",
        "some commits, on a disk that is busy")
    # fmt: on


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
