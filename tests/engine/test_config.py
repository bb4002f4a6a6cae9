"""greenroom.toml: defaults, every mistake at once with its place, and nothing but ConfigError for hostile text."""

from __future__ import annotations

import random

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import config
from engine.config import Config, ConfigError, parse
from engine.limits import Limits
from engine.prices import Price

FULL = """
listen = "[::1]:9000"
default_model = "local"
insecure = false
allowed_hosts = ["Agents.example", "[::1]"]
allowed_origins = ["https://agents.example:8443"]
durability = "normal"
log_level = "debug"
[models.local]
provider = "openai"
base_url = "http://127.0.0.1:11434/v1"
model = "qwen3"
api_key_env = "OPENAI_API_KEY"
context_window = 32768
[models.other]
provider = "openai"
base_url = "https://models.example"
model = "big/model:1"
api_key_file = "/run/secrets/key"
[toolsets.files]
kind = "builtin"
tools = ["search_files"]
call_timeout = "60s"
[permissions]
allow = ["files.*"]
ask = ["shell", "git.git_commit"]
deny = ["shell(command=rm *)"]
headless = "deny"
[limits]
run_log_bytes = "2MiB"
terminal_retention = "15 min"
terminal_retained_max = 7
slow_client_timeout = 2.5
[tls]
cert_file = "/etc/cert.pem"
key_file = "/etc/key.pem"
"""


FILE_TOOLS = ("read_file", "search_files", "list_directory", "write_file", "edit_file", "read_output")


def mistakes(text: str, **overrides: object) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        parse(text, **overrides)
    return dict(caught.value.fields)


def test_no_file_gives_the_demo_model_and_the_file_tools() -> None:
    config = parse("")
    assert config == Config()
    assert (config.default_model, str(config.listen), config.durability) == ("demo", "127.0.0.1:8765", "full")
    assert config.models["demo"].provider == "demo"
    assert config.toolsets["files"].tools == FILE_TOOLS
    assert config.toolsets["web"].tools == ("fetch",)
    assert config.limits == Limits()
    assert config.tls is None and not config.insecure


def test_every_setting_of_a_full_file() -> None:
    config = parse(FULL)
    assert (config.listen.host, config.listen.port) == ("::1", 9000)
    assert list(config.models) == ["local", "other", "demo"]
    local = config.models["local"]
    assert (local.base_url, local.model, local.context_window) == ("http://127.0.0.1:11434/v1", "qwen3", 32768)
    assert config.models["other"].api_key_file == "/run/secrets/key"
    assert config.toolsets["files"].tools == ("search_files",)
    assert config.toolsets["files"].call_timeout == 60.0
    assert config.limits == attrs.evolve(
        Limits(),
        run_log_bytes=2 * 1024 * 1024,
        terminal_retention=900.0,
        terminal_retained_max=7,
        slow_client_timeout=2.5,
    )
    assert config.allowed_hosts == ("agents.example", "[::1]")
    assert config.tls is not None and config.tls.key_file == "/etc/key.pem"
    assert (config.durability, config.log_level) == ("normal", "debug")


def test_a_config_cannot_be_changed() -> None:
    config = parse(FULL)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        config.insecure = True  # type: ignore[misc]
    with pytest.raises(TypeError):
        config.models["x"] = config.models["local"]  # type: ignore[index]


def test_all_mistakes_are_reported_at_once_with_their_places() -> None:
    found = mistakes("""
        listen = "0.0.0.0:8765"
        defalt_model = "x"
        default_model = "locl"
        insecure = "no"
        [models.local]
        provider = "openai"
        modle = "x"
        context_window = 12
        [toolsets.git]
        kind = "mcp"
        [toolsets.files]
        kind = "builtin"
        tools = ["read_fil"]
        command = "x"
        [permissions]
        deny = ["rm("]
        [limits]
        run_log_byte = 1
        mailbox_messages = 0
    """)
    assert set(found) == {
        "listen", "defalt_model", "default_model", "insecure", "models.local.modle", "models.local.context_window",
        "models.local.base_url", "models.local.model", "toolsets.git.command", "toolsets.files.tools[0]",
        "toolsets.files.command", "permissions.deny[0]", "limits.run_log_byte", "limits.mailbox_messages",
    }  # fmt: skip
    assert found["models.local.base_url"] == "is missing"
    assert "did you mean default_model?" in found["defalt_model"]
    assert "did you mean model?" in found["models.local.modle"]
    assert "did you mean run_log_bytes?" in found["limits.run_log_byte"]
    assert "did you mean local?" in found["default_model"]
    assert "did you mean read_file?" in found["toolsets.files.tools[0]"]
    assert "expected a boolean" in found["insecure"]


def test_the_text_of_the_error_has_a_line_for_each_mistake() -> None:
    with pytest.raises(ConfigError) as caught:
        parse("log_level = 'loud'\ndurability = 1\n")
    lines = str(caught.value).splitlines()
    assert lines == [
        "durability: expected one of full, normal",
        "log_level: expected one of debug, info, warning, error",
    ]


def test_a_syntax_error_names_its_line() -> None:
    assert "line 3" in mistakes('listen = "x:1"\n\nmodels = = 1\n')[""]


@pytest.mark.parametrize("name", ["api_key", "API_KEY", "token", "password"])
def test_a_key_in_the_file_is_refused_with_advice_and_not_repeated(name: str) -> None:
    text = f'[models.m]\nprovider = "openai"\nbase_url = "http://h"\nmodel = "q"\n{name} = "sk-very-secret"\n'
    found = mistakes(text)
    assert "api_key_env" in found[f"models.m.{name}"]
    assert "sk-very-secret" not in str(found)


def test_a_key_instead_of_the_name_of_its_variable_is_refused_and_not_repeated() -> None:
    text = '[models.m]\nprovider = "openai"\nbase_url = "http://h"\nmodel = "q"\napi_key_env = "sk-very-secret"\n'
    found = mistakes(text)
    assert "name of an environment variable" in found["models.m.api_key_env"]
    assert "sk-very-secret" not in str(found)


# ------------------------------------------------------------------ addresses
@pytest.mark.parametrize(
    ("listen", "host", "port"),
    [
        ("127.0.0.1:0", "127.0.0.1", 0),
        ("127.8.9.10:65535", "127.8.9.10", 65535),
        ("localhost:1", "localhost", 1),
        ("[::1]:8765", "::1", 8765),
    ],
)
def test_loopback_addresses(listen: str, host: str, port: int) -> None:
    parsed = parse(f'listen = "{listen}"').listen
    assert (parsed.host, parsed.port, parsed.loopback, str(parsed)) == (host, port, True, listen)


def test_a_unix_socket() -> None:
    parsed = parse('listen = "unix:/run/greenroom.sock"').listen
    assert (parsed.unix_path, parsed.loopback, str(parsed)) == (
        "/run/greenroom.sock", True, "unix:/run/greenroom.sock",
    )  # fmt: skip


@pytest.mark.parametrize(
    "listen",
    ["", "8765", ":8765", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:-1", "127.0.0.1:٣", "::1:80",
     "[::1]", "[::g]:80", "http://127.0.0.1:80", "a b:80", "unix:", "unix:relative", "unix:/" + "x" * 107],
)  # fmt: skip
def test_malformed_addresses(listen: str) -> None:
    assert set(mistakes(f'listen = "{listen}"')) == {"listen"}


@pytest.mark.parametrize("listen", ["0.0.0.0:1", "[::]:1", "192.168.1.2:1", "agents.example:1", "[::ffff:1.2.3.4]:1"])
def test_an_address_that_others_reach_needs_tls_or_insecure(listen: str) -> None:
    text = f'listen = "{listen}"\n'
    assert "insecure" in mistakes(text)["listen"]
    assert parse(text + "insecure = true").insecure
    assert parse(text + '[tls]\ncert_file = "c"\nkey_file = "k"').tls is not None


def test_overrides_replace_settings_and_are_checked_like_them() -> None:
    assert parse('listen = "127.0.0.1:1"', listen="127.0.0.1:0").listen.port == 0
    assert "listen" in mistakes("", listen="0.0.0.0:1")
    assert parse("", listen="0.0.0.0:1", insecure=True).listen.host == "0.0.0.0"
    assert "listen" in mistakes("", listen=7)


# ------------------------------------------------------------------ models, toolsets, permissions
MODEL = '[models.m]\nprovider = "openai"\nbase_url = "http://h"\nmodel = "q"\n'


def test_the_first_model_of_the_file_is_the_default() -> None:
    assert parse(MODEL + MODEL.replace("models.m", "models.a")).default_model == "m"
    assert parse('default_model = "demo"\n' + MODEL).default_model == "demo"


def test_a_model_of_anthropic_needs_no_url() -> None:
    model = parse('[models.m]\nprovider = "anthropic"\nmodel = "q"').models["m"]
    assert (model.base_url, model.max_output_tokens) == (None, 32_000)
    text = '[models.m]\nprovider = "anthropic"\n'
    assert mistakes(text) == {"models.m.model": "is missing"}
    model = parse(text + 'model = "q"\nbase_url = "https://h"\nmax_output_tokens = 8192').models["m"]
    assert (model.base_url, model.max_output_tokens) == ("https://h", 8192)
    assert set(mistakes(text + 'model = "q"\nmax_output_tokens = 0')) == {"models.m.max_output_tokens"}
    assert set(mistakes(text + 'model = "q"\napi_key_env = "A"\napi_key_file = "b"')) == {"models.m.api_key_file"}


def test_only_anthropic_bounds_an_answer() -> None:
    assert set(mistakes(MODEL + "max_output_tokens = 8192")) == {"models.m.max_output_tokens"}
    demo = '[models.d]\nprovider = "demo"\nmax_output_tokens = 8192'
    assert set(mistakes(demo)) == {"models.d.max_output_tokens"}


def test_when_a_conversation_is_summarised_and_by_whom() -> None:
    model = parse(MODEL).models["m"]
    assert (model.compact_at, model.compact_model, model.context_window) == (0.8, None, 131_072)
    for part in ("0", "0.1", "0.75", "1", "1.0"):
        assert parse(MODEL + f"compact_at = {part}").models["m"].compact_at == float(part)
    for wrong in ("0.09", "-0.5", "1.01", "80", "nan", "inf", "true", '"0.8"'):
        assert set(mistakes(MODEL + f"compact_at = {wrong}")) == {"models.m.compact_at"}, wrong
    assert parse(MODEL + 'compact_model = "demo"').models["m"].compact_model == "demo"
    both = MODEL + 'compact_model = "small"\n[models.small]\nprovider = "demo"'
    assert parse(both).models["m"].compact_model == "small"
    found = mistakes(MODEL + 'compact_model = "smal"\n[models.small]\nprovider = "demo"')
    assert found == {"models.m.compact_model": "no such model: did you mean small?"}


def test_a_provider_that_there_is_not() -> None:
    assert set(mistakes('[models.m]\nprovider = "other"')) == {"models.m.provider"}
    assert set(mistakes('[models.m]\nprovider = ["openai"]')) == {"models.m.provider"}


def test_demo_stays_the_demo() -> None:
    assert set(mistakes(MODEL.replace("models.m", "models.demo"))) == {"models.demo"}
    assert set(mistakes('[models.d]\nprovider = "demo"\nbase_url = "http://h"')) == {"models.d.base_url"}


def test_two_places_for_one_key() -> None:
    assert set(mistakes(MODEL + 'api_key_env = "A"\napi_key_file = "b"')) == {"models.m.api_key_file"}


@pytest.mark.parametrize(
    "url",
    [
        "h",
        "ftp://h",
        "http://",
        "http://user:pass@h",
        "http://h?x=1",
        "http://h#x",
        "http://h:99999",
        "http://h:0",
        "http://h h",
    ],
)
def test_malformed_urls(url: str) -> None:
    assert set(mistakes(MODEL.replace("http://h", url))) == {"models.m.base_url"}


def test_toolsets_that_this_version_does_not_have() -> None:
    assert set(mistakes('[toolsets.no]\nkind = "builtin"')) == {"toolsets.no"}
    assert parse("[toolsets]").toolsets == {}


def test_a_denied_tool_is_not_given() -> None:
    assert parse('[permissions]\ndeny = ["files.read_file"]').toolsets["files"].tools == FILE_TOOLS[1:]
    assert parse('[permissions]\ndeny = ["files"]').toolsets["files"].tools == ()
    assert parse('[permissions]\ndeny = ["files.read_f*"]').toolsets["files"].tools == FILE_TOOLS[1:]
    assert parse('[permissions]\ndeny = ["files.read"]').toolsets["files"].tools == FILE_TOOLS
    assert parse('[permissions]\ndeny = ["files.read_file(path=*.env)"]').toolsets["files"].tools == FILE_TOOLS


def test_tools_are_those_listed_or_all() -> None:
    listed = '[toolsets.files]\nkind = "builtin"\ntools = ["write_file", "edit_file", "read_file"]'
    assert parse(listed).toolsets["files"].tools == ("write_file", "edit_file", "read_file")
    assert parse('[toolsets.files]\nkind = "builtin"').toolsets["files"].tools == FILE_TOOLS


def test_networks_that_may_be_fetched_from() -> None:
    web = '[toolsets.web]\nkind = "builtin"\nallow_networks = ["127.0.0.1", "10.0.0.0/8", "fd00::/8"]'
    assert parse(web).toolsets["web"].allow_networks == ("127.0.0.1", "10.0.0.0/8", "fd00::/8")
    for wrong in ("10.0.0.1/8", "a.org", "*", ""):
        assert mistakes(f'[toolsets.web]\nkind = "builtin"\nallow_networks = ["{wrong}"]') == {
            "toolsets.web.allow_networks[0]": "expected an address or a network, such as 127.0.0.1 or 10.0.0.0/8"
        }
    other = mistakes('[toolsets.files]\nkind = "builtin"\nallow_networks = []')
    assert other == {"toolsets.files.allow_networks": "is for the toolset web only"}


def test_rules_with_patterns_leave_the_tool_for_other_calls() -> None:
    config = parse('[permissions]\nask = ["shell", "files"]\ndeny = ["files.read_file(path=/etc/*)"]')
    assert (config.permissions.ask, config.toolsets["files"].tools) == (
        ("shell", "files"),
        Config().toolsets["files"].tools,
    )


def test_what_is_no_rule_is_told_with_what_was_expected() -> None:
    found = mistakes("""
        [permissions]
        allow = ["files", "shell(command=a,b)", 5]
        ask = ["shell("]
        deny = ["rm x"]
        headless = "x"
    """)
    assert found == {
        "permissions.allow[1]": r"expected argument=pattern in the parentheses; a comma in a pattern is written \,",
        "permissions.allow[2]": "expected a string, not an integer",
        "permissions.ask[0]": "expected a rule such as files.*, shell or shell(command=rm *), "
        "with a parenthesis at its end",
        "permissions.deny[0]": "expected a rule such as files.*, shell or shell(command=rm *)",
        "permissions.headless": "expected one of deny, allow",
    }


# ------------------------------------------------------------------ limits
@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("run_log_bytes", "1", 1),
        ("run_log_bytes", '"1B"', 1),
        ("run_log_bytes", '"1 KB"', 1000),
        ("run_log_bytes", '"1KiB"', 1024),
        ("run_log_bytes", '"1.5MiB"', 1_572_864),
        ("run_log_bytes", '"2gib"', 2_147_483_648),
        ("run_log_bytes", "1024.0", 1024),
        ("ask_timeout", "1", 1.0),
        ("ask_timeout", "0.25", 0.25),
        ("ask_timeout", '"250ms"', 0.25),
        ("ask_timeout", '"15 min"', 900.0),
        ("ask_timeout", '"2h"', 7200.0),
        ("mailbox_messages", "1", 1),
    ],
)
def test_quantities(name: str, text: str, value: float) -> None:
    found = getattr(parse(f"[limits]\n{name} = {text}").limits, name)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize("value", ["0", "-1", "0.0", "nan", "inf", "-inf", "true", "[]", '""', '"x"', '"1"', '"1 week"',
                                   '"-1s"', '"1e9s"', "9" * 30, "1979-05-27", '"1s "', '"٣s"'])  # fmt: skip
@pytest.mark.parametrize("name", ["run_log_bytes", "ask_timeout", "mailbox_messages"])
def test_what_is_no_quantity(name: str, value: str) -> None:
    assert set(mistakes(f"[limits]\n{name} = {value}")) == {f"limits.{name}"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("run_log_bytes", '"1s"'),
        ("ask_timeout", '"1MiB"'),
        ("mailbox_messages", '"1s"'),
        ("mailbox_messages", "1.5"),
        ("message_characters", '"1KiB"'),
    ],
)
def test_a_unit_has_to_be_of_its_limit(name: str, value: str) -> None:
    assert set(mistakes(f"[limits]\n{name} = {value}")) == {f"limits.{name}"}


def test_every_limit_can_be_set_by_its_name_and_none_switched_off() -> None:
    for field in attrs.fields(Limits):
        assert parse(f"[limits]\n{field.name} = {field.default}").limits == Limits()
        assert f"limits.{field.name}" in mistakes(f"[limits]\n{field.name} = 0")


def test_limits_that_clients_rely_on_are_fixed() -> None:
    for name in ("frame_bytes", "string_bytes", "event_bytes"):
        assert "fixed" in mistakes(f"[limits]\n{name} = 1024")[f"limits.{name}"]


def test_limits_that_contradict_each_other() -> None:
    assert set(mistakes("[limits]\nsilence_timeout = 5")) == {"limits.silence_timeout"}
    assert set(mistakes('[limits]\nmemory_soft = "2GiB"')) == {"limits.memory_soft"}
    assert parse('[limits]\nmemory_soft = "1GiB"').limits.memory_soft == parse("").limits.memory_hard
    assert set(mistakes('[limits]\ndelta_bytes = "33KiB"')) == {"limits.delta_bytes"}


# ------------------------------------------------------------------ hostile text
HOSTILE = [
    "a=" + "[" * 10_000,
    "a=" + "9" * 10_000,
    "a." * 5_000 + "a = 1",
    "[limits]\nask_timeout = 1979-05-27T07:32:00Z",
    "models = 1\ntoolsets = []\nlimits = ''\ntls = true\npermissions = 3",
    "models = { a = 1, b = [], '' = {} }",
    'toolsets = { "a.b" = { kind = "builtin" } }',
    '"\\u001b[31m" = 1',
    "x = 1\n" * 3,
    "[permissions]\ndeny = [1, {}, ['files']]\nask = 'files'",
    "#" * (1024 * 1024 + 1),
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_a_config_error(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert len(str(caught.value)) < 20_000
    assert "\x1b" not in str(caught.value)


def test_a_thousand_mistakes_are_cut_to_a_page() -> None:
    with pytest.raises(ConfigError) as caught:
        parse("\n".join(f"unknown_{i} = 1" for i in range(1000)))
    assert len(caught.value.fields) == config.MISTAKES_MAX


def test_mutated_files_raise_nothing_but_config_error() -> None:
    rng = random.Random(20260)
    pieces = [
        "=",
        "[",
        "]",
        '"',
        "\n",
        "{}",
        "[[models]]",
        "1e999",
        "nan",
        "inf",
        "\0",
        "\u202e",
        "models",
        "limits",
        ".",
        "-",
    ]
    good = 0
    for _ in range(1500):
        text = list(FULL)
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(len(text))
            text[at : at + rng.randrange(0, 12)] = rng.choice([rng.choice(pieces), "", "x"])
        try:
            parse("".join(text))
        except ConfigError as exc:
            assert exc.fields
        else:
            good += 1
    assert 0 < good < 1500  # both ways were taken


VALUES = st.recursive(
    st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["openai", "builtin", "files.*"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["provider", "kind", "tools", "base_url", "files", "demo", "deny", "ask", "ask_timeout", "a.b"]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)
NAMES = [field.name for field in attrs.fields(Config)]


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=4))
def test_any_values_are_a_config_or_a_config_error(values: dict[str, object]) -> None:
    try:
        assert isinstance(parse("", **values), Config)
    except ConfigError as exc:
        assert exc.fields and all(message for _, message in exc.fields)


def test_a_tool_server_is_a_program_or_a_service() -> None:
    def of(fields: str, name: str = "git") -> set[str]:
        return set(mistakes(f'[toolsets.{name}]\nkind = "mcp"\n{fields}'))

    assert of("") == {"toolsets.git.command"}
    assert of('command = "x"\nurl = "http://h"') == {"toolsets.git.url"}
    assert of('command = "x"\nheaders_env = { Authorization = "T" }') == {"toolsets.git.headers_env"}
    assert of('url = "http://h"\nargs = ["x"]\nenv = { A = "b" }') == {"toolsets.git.args", "toolsets.git.env"}
    assert of('command = "x"\nallow_networks = ["10.0.0.0/8"]') == {"toolsets.git.allow_networks"}
    assert of('command = "x"', "shell") == {"toolsets.shell"}
    assert of('command = "x"\nroots = ["/a", "b"]') == {"toolsets.git.roots[1]"}
    assert parse('[toolsets.git]\nkind = "mcp"\ncommand = "x"\nroots = []').toolsets["git"].roots == ()
    found = parse('[toolsets.git]\nkind = "mcp"\ncommand = "x"\nargs = ["y"]\ncall_timeout = "5 s"\nrestart = "never"')
    assert (found.toolsets["git"].args, found.toolsets["git"].call_timeout) == (("y",), 5.0)


# ------------------------------------------------------------------ prices and titles
PRICED = """
title_model = "small"
currency = "EUR"
[models.small]
provider = "openai"
base_url = "http://127.0.0.1:1"
model = "s"
[models.small.price]
input = 3
output = 15.25
cache_read = 0.3
per = "1K"
"""


def test_prices_a_currency_and_the_model_of_titles() -> None:
    found = parse(PRICED)
    assert found.models["small"].price == Price(input=3.0, output=15.25, cache_read=0.3, per="1K")
    assert (found.title_model, found.currency) == ("small", "EUR")
    nothing = parse("")
    assert (nothing.title_model, nothing.currency, nothing.models["demo"].price) == (None, "USD", None)
    assert parse("[models.demo]\nprovider = 'demo'\nprice = {input = 1, output = 2}").models["demo"].price is not None


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("title_model = 'demo'", "title_model"),
        ("title_model = 'smal'", "title_model"),
        ("title_model = ''", "title_model"),
        ("title_model = 'd'\n[models.d]\nprovider = 'demo'", "title_model"),
        ("currency = 'euro'", "currency"),
        (PRICED.replace("input = 3", "input = -3"), "models.small.price.input"),
        (PRICED.replace("input = 3", "inputs = 3"), "models.small.price.inputs"),
        (PRICED.replace("output = 15.25", ""), "models.small.price.output"),
        (PRICED.replace('"1K"', '"1G"'), "models.small.price.per"),
        (PRICED.replace("0.3", "nan"), "models.small.price.cache_read"),
    ],
)
def test_mistakes_of_prices_and_titles(text: str, place: str) -> None:
    assert place in mistakes(text)
