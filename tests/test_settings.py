"""Settings are read once, from three places, and every problem is told in one go."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as tuned
from hypothesis import strategies as st

from gateway.errors import SettingsError
from gateway.events import ALAW_8K, HANG_UP, PCM_24K, ULAW_8K, SessionOptions, TurnDetection
from gateway.settings import (
    Agent,
    Settings,
    agent_table,
    load_settings,
    roles_table,
    settings_table,
)
from gateway.web.proxies import source_of

EXAMPLE = Path(__file__).parent.parent / "deploy" / "gateway.example.toml"
OPENAI = {"OPENAI_API_KEY": "sk-canary-openai"}
AZURE = {
    "AZURE_OPENAI_ENDPOINT": "https://res.openai.azure.com",
    "AZURE_OPENAI_DEPLOYMENT_NAME": "gpt-realtime",
}
TWILIO = {"TWILIO_AUTH_TOKEN": "canary-twilio", "GATEWAY_PUBLIC_URL": "https://voice.example.com"}


def problems(environ: dict[str, str], config: Path | None = None, **overrides: Any) -> list[str]:
    """The problems that these settings have; at least one."""
    with pytest.raises(SettingsError) as caught:
        load_settings(environ, config, overrides)
    return list(caught.value.problems)


def toml(folder: Path, text: str) -> Path:
    """A file of settings."""
    path = folder / "gateway.toml"
    path.write_text(text)
    return path


# ------------------------------------------------------------- defaults and layers


def test_defaults_need_one_key_only() -> None:
    """With an OpenAI key alone everything has a working default."""
    settings = load_settings(OPENAI)
    assert (settings.host, settings.port) == ("0.0.0.0", 8080)  # noqa: S104 - only compared
    assert (settings.ops_host, settings.ops_port) == ("127.0.0.1", 9464)
    assert settings.max_calls == 100
    assert settings.mark_interval_ms == 100
    assert settings.log_transcripts is False
    assert settings.insecure is False
    assert list(settings.agents) == ["default"]
    assert settings.agents["default"].greeting
    assert settings.warnings == ()


def test_stronger_layer_wins(tmp_path: Path) -> None:
    """An override beats the environment, which beats the file; None overrides nothing."""
    path = toml(tmp_path, "port = 1\nmax_calls = 2\nops_port = 3\n")
    environ = OPENAI | {"GATEWAY_PORT": "11", "GATEWAY_MAX_CALLS": "12"}
    settings = load_settings(environ, path, {"port": 21, "ops_port": None})
    assert (settings.port, settings.max_calls, settings.ops_port) == (21, 12, 3)


def test_file_named_by_the_environment(tmp_path: Path) -> None:
    """GATEWAY_CONFIG names the file, and an argument names a better one."""
    weak = toml(tmp_path, "port = 1")
    strong = tmp_path / "other.toml"
    strong.write_text("port = 2")
    environ = OPENAI | {"GATEWAY_CONFIG": str(weak)}
    assert load_settings(environ).port == 1
    assert load_settings(environ, strong).port == 2


def test_empty_variable_is_unset() -> None:
    """Compose files hand on variables that nobody set as empty ones."""
    environ = OPENAI | {"GATEWAY_PORT": "", "AZURE_OPENAI_ENDPOINT": " ", "TWILIO_AUTH_TOKEN": ""}
    settings = load_settings(environ)
    assert settings.port == 8080
    assert not settings.uses_azure
    assert settings.twilio_auth_tokens == ()


def test_environ_is_what_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of the process is not read behind the caller's back."""
    monkeypatch.setenv("GATEWAY_PORT", "1")
    monkeypatch.setenv("port", "2")
    assert load_settings(OPENAI).port == 8080


# ------------------------------------------------------------- problems


@pytest.mark.parametrize(
    ("variable", "value", "accepted"),
    [
        ("GATEWAY_PORT", "abc", "0 to 65535"),
        ("GATEWAY_PORT", "65536", "0 to 65535"),
        ("GATEWAY_PORT", "80.5", "0 to 65535"),
        ("GATEWAY_OPS_PORT", "-1", "0 to 65535"),
        ("GATEWAY_MAX_CALLS", "0", "1 to 10000"),
        ("GATEWAY_WORKERS", "0", "1 to 64"),
        ("GATEWAY_WORKERS", "65", "1 to 64"),
        ("GATEWAY_CAPACITY_SHARE", "0", "0.05 to 1"),
        ("GATEWAY_CAPACITY_SHARE", "1.1", "0.05 to 1"),
        ("GATEWAY_TOKEN_KEY", "x" * 31, "at least 32 characters"),
        ("GATEWAY_MAX_CALLS", "9" * 50, "1 to 10000"),
        ("GATEWAY_DRAIN_S", "-1", "0 to 86400"),
        ("GATEWAY_DRAIN_S", "nan", "0 to 86400"),
        ("GATEWAY_DRAIN_S", "inf", "0 to 86400"),
        ("GATEWAY_SEND_TIMEOUT_S", "0", "0.1 to 60"),
        ("GATEWAY_MARK_INTERVAL_MS", "19", "20 to 100"),
        ("GATEWAY_MARK_INTERVAL_MS", "101", "20 to 100"),
        ("GATEWAY_INSECURE", "perhaps", "yes or no"),
        ("GATEWAY_LOG_LEVEL", "loud", "debug, info, warning, error"),
        ("GATEWAY_LOG_FORMAT", "xml", "auto, json, console"),
        ("GATEWAY_PUBLIC_URL", "voice.example.com", "https://"),
        ("GATEWAY_PUBLIC_URL", "https://", "https://"),
        ("GATEWAY_PUBLIC_URL", "https://voice.example.com/?a=1", "https://"),
        ("GATEWAY_PUBLIC_URL", "http://voice.example.com", "https://"),
        ("GATEWAY_TWILIO_API_URL", "http://api.example.com", "https://"),
        ("AZURE_OPENAI_ENDPOINT", "res.openai.azure.com", "https://"),
        ("AZURE_OPENAI_ENDPOINT", "http://res.openai.azure.com", "https://"),
        ("AZURE_OPENAI_ENDPOINT", "https://[::1", "https://"),
        ("AZURE_OPENAI_ENDPOINT", "https://res:99999", "https://"),
        ("AZURE_OPENAI_ENDPOINT", "ftp://res.openai.azure.com", "https://"),
        ("OPENAI_BASE_URL", "https://user:pw@example.com/v1", "https://"),
        ("OPENAI_API_VERSION", "v1", "2025-04-01-preview"),
        ("TWILIO_AUTH_TOKEN", "one,two,three", "two separated by a comma"),
        ("TWILIO_AUTH_TOKEN", " , ", "two separated by a comma"),
    ],
)
def test_bad_value(variable: str, value: str, accepted: str) -> None:
    """A bad value gives one line: the variable, what is wrong, what is accepted (P57)."""
    environ = OPENAI | {"AZURE_OPENAI_DEPLOYMENT_NAME": "x", variable: value}
    [problem] = problems(environ)
    assert problem.startswith(f"{variable}: ")
    assert accepted in problem


def test_missing_model() -> None:
    """Without any way to the model the line names both ways to set one (P56)."""
    [problem] = problems({})
    assert problem.startswith("AZURE_OPENAI_ENDPOINT: not set")
    assert "OPENAI_API_KEY" in problem


def test_missing_deployment() -> None:
    """An Azure endpoint without a deployment names the variable that is missing (P56)."""
    [problem] = problems({"AZURE_OPENAI_ENDPOINT": "https://res.openai.azure.com"} | OPENAI)
    assert problem.startswith("AZURE_OPENAI_DEPLOYMENT_NAME: not set")


@pytest.mark.parametrize("given_one", ["GATEWAY_ASTERISK_USERNAME", "GATEWAY_ASTERISK_PASSWORD"])
def test_half_a_login(given_one: str) -> None:
    """Asterisk's user name and password come together; the missing one is named."""
    [problem] = problems(OPENAI | {given_one: "asterisk"})
    assert problem.startswith("GATEWAY_ASTERISK_")
    assert not problem.startswith(given_one)


@pytest.mark.parametrize(
    "given_one",
    [
        "GATEWAY_CONSOLE_VIEW_TOKEN",
        "GATEWAY_CONSOLE_LISTEN_TOKEN",
        "GATEWAY_SOFTPHONE",
        "GATEWAY_CONSOLE_TOKEN",
    ],
)
def test_pages_have_a_login_of_some_length(given_one: str) -> None:
    """What needs the console's token says so; a short one is none."""
    short = given_one == "GATEWAY_CONSOLE_TOKEN"
    [problem] = problems(OPENAI | {given_one: "1" if short else "1" * 32} | _softphone(given_one))
    assert problem.startswith(f"{given_one}: ")
    assert ("at least 32 characters" if short else "GATEWAY_CONSOLE_TOKEN is not") in problem


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("GATEWAY_CONSOLE_TOKEN", "GATEWAY_CONSOLE_VIEW_TOKEN"),
        ("GATEWAY_CONSOLE_TOKEN", "GATEWAY_CONSOLE_LISTEN_TOKEN"),
        ("GATEWAY_CONSOLE_VIEW_TOKEN", "GATEWAY_CONSOLE_LISTEN_TOKEN"),
    ],
)
def test_two_roles_are_two_tokens(first: str, second: str) -> None:
    """One token for both would make a listener of every viewer."""
    same = {"GATEWAY_CONSOLE_TOKEN": "c" * 32} | {first: "d" * 32, second: "d" * 32}
    [problem] = problems(OPENAI | same)
    assert problem == f"{second}: the same as {first}; accepted: another text"


def _softphone(given_one: str) -> dict[str, str]:
    return {given_one: "1"} if given_one == "GATEWAY_SOFTPHONE" else {}


def test_each_token_of_the_pages_has_its_role() -> None:
    """Without the first there is none."""
    environ = OPENAI | {"GATEWAY_CONSOLE_TOKEN": "c" * 32}
    assert load_settings(OPENAI).console_tokens == {}
    # Who had a token before there were viewers may do what they could: look and act.
    assert load_settings(environ).console_tokens == {"operator": "c" * 32}
    more = {"GATEWAY_CONSOLE_VIEW_TOKEN": "v" * 32, "GATEWAY_CONSOLE_LISTEN_TOKEN": "l" * 32}
    tokens = {"viewer": "v" * 32, "operator": "c" * 32, "listener": "l" * 32}
    assert load_settings(environ | more).console_tokens == tokens
    assert {role: variable for role, variable, _ in roles_table()} == {
        "viewer": "GATEWAY_CONSOLE_VIEW_TOKEN",
        "operator": "GATEWAY_CONSOLE_TOKEN",
        "listener": "GATEWAY_CONSOLE_LISTEN_TOKEN",
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("proxy.example", "accepted: addresses, or networks"),
        ("10.0.0.1/8", "accepted: addresses, or networks"),
        ("127.0.0.1; 10.0.0.1", "accepted: addresses, or networks"),
        ("0.0.0.0/0", "trusts everybody"),
        ("10.0.0.1, ::/0", "trusts everybody"),
        ("::ffff:0.0.0.0/96", "trusts everybody"),
        ("::ffff:10.0.0.1/104", "accepted: addresses, or networks"),
    ],
)
def test_proxies_that_cannot_be_trusted(text: str, words: str) -> None:
    """Names, networks that are none, and the whole world."""
    [problem] = problems(OPENAI | {"GATEWAY_TRUSTED_PROXIES": text})
    assert problem.startswith(f"GATEWAY_TRUSTED_PROXIES: {words}")


def test_proxies_are_addresses_and_networks() -> None:
    """None, one, or some of both kinds."""
    some = {"GATEWAY_TRUSTED_PROXIES": "127.0.0.1, 10.1.0.0/16,fd00::/8"}
    assert load_settings(OPENAI).trusted_networks == ()
    networks = load_settings(OPENAI | some).trusted_networks
    assert list(map(str, networks)) == ["127.0.0.1/32", "10.1.0.0/16", "fd00::/8"]


def test_a_proxy_may_be_written_as_a_listener_for_both_kinds_sees_it() -> None:
    """An IPv4 address within an IPv6 one is that address, and so are networks of them."""
    written = "::ffff:10.0.0.1, ::ffff:10.1.0.0/112, ::ffff:c000:201,::/90"
    networks = load_settings(OPENAI | {"GATEWAY_TRUSTED_PROXIES": written}).trusted_networks
    told = list(map(str, networks))
    assert told == ["10.0.0.1/32", "10.1.0.0/16", "192.0.2.1/32", "::/90"]
    for peer in ("10.0.0.1", "::ffff:10.0.0.1", "192.0.2.1"):
        assert source_of(peer, ["203.0.113.9"], networks) == "203.0.113.9"


@pytest.mark.parametrize("url", ["calls.db", "mysql://host/db", "postgresql://[bad/db"])
def test_databases_that_are_none(url: str) -> None:
    """It says what would be accepted, and repeats no URL: there may be a password in it."""
    [problem] = problems(OPENAI | {"GATEWAY_DATABASE_URL": url})
    accepted = "a URL that begins with sqlite:// or postgresql://"
    assert problem == f"GATEWAY_DATABASE_URL: accepted: {accepted}"


def test_the_password_of_the_database_is_a_secret() -> None:
    """As part of the URL, alone, and as it is without its escapes."""
    url = "postgresql://gateway:p%40ss-w0rd@host/calls"
    secrets = load_settings(OPENAI | {"GATEWAY_DATABASE_URL": url}).secret_values
    assert {url, "p%40ss-w0rd", "p@ss-w0rd"} <= set(secrets)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({}, "GATEWAY_CONSOLE_TOKEN is not"),
        ({"GATEWAY_CONSOLE_TOKEN": "c" * 32}, "GATEWAY_CONSOLE_LISTEN_TOKEN is not"),
    ],
)
def test_listening_in_needs_its_token(more: dict[str, str], words: str) -> None:
    """And the console's: without that there are no pages."""
    [problem] = problems(OPENAI | {"GATEWAY_LISTEN_IN": "1"} | more)
    assert problem.startswith("GATEWAY_LISTEN_IN: ")
    assert words in problem


def test_every_problem_at_once(tmp_path: Path) -> None:
    """Variables, file, overrides and rules over several settings are reported together."""
    path = toml(
        tmp_path,
        'max_calls = "many"\nprot = 1\ntwilio_auth_token = ""\n'
        "[agents.a]\nspeed = 9\nturn_detection = { treshold = 0.4 }\n",
    )
    found = problems({"GATEWAY_DRAIN_S": "x", "GATEWAY_MAXCALLS": "1"}, path, ops_port=-1)
    names = {problem.split(": ")[0] for problem in found}
    assert names == {
        "GATEWAY_MAXCALLS",
        "max_calls in gateway.toml",
        "prot",
        "twilio_auth_token in gateway.toml",
        "agents.a.speed",
        "agents.a.turn_detection.treshold",
        "GATEWAY_DRAIN_S",
        "--ops-port",
        "AZURE_OPENAI_ENDPOINT",
    }


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("GATEWAY_MAXCALLS", "GATEWAY_MAX_CALLS"),
        ("GATEWAY_LOGLEVEL", "GATEWAY_LOG_LEVEL"),
        ("GATEWAY_PUBLC_URL", "GATEWAY_PUBLIC_URL"),
    ],
)
def test_unknown_variable(typed: str, meant: str) -> None:
    """A mistyped variable of ours is a problem, with a guess what was meant."""
    assert problems(OPENAI | {typed: "1"}) == [f"{typed}: unknown setting; did you mean {meant}?"]


def test_variables_of_others_are_let_be() -> None:
    """Variables without our prefix, and those that steer our tests, are nobody's mistake."""
    environ = OPENAI | {"PATH": "/bin", "GATEWAY_TESTS_REQUIRE": "promtool", "AGENTS": "{}"}
    assert load_settings(environ).port == 8080


def test_kubernetes_service_links() -> None:
    """A service called gateway fills our names with its address; the line says how to stop it."""
    found = problems(
        OPENAI | {"GATEWAY_PORT": "tcp://10.0.0.1:80", "GATEWAY_PORT_80_TCP_ADDR": "10.0.0.1"}
    )
    assert len(found) == 2
    assert all("enableServiceLinks: false" in problem for problem in found)


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("[agents.a]\nnumbers = ['1']\nvoise = 'x'", "agents.a.voise: unknown setting"),
        ("[agents.a]\nnumbers = ['1']\nname = 'b'", "agents: name is not a setting"),
        ("[agents.a]", "agents.a.numbers: empty"),
        ("[agents.a]\nnumbers = ['+ ']", "agents.a.numbers: one of the numbers is empty"),
        ("[agents.'A b']\nnumbers = ['1']", "agents.A b.name: not of the accepted form"),
        (
            "[agents.a]\nnumbers = ['+1 5']\n[agents.b]\nnumbers = ['15']",
            "agents.b.numbers: one is also in agents.a.numbers",
        ),
        ("[agents.default]\nspeed = 0.2", "agents.default.speed: too small"),
        ("[agents.default]\ntemperature = 1.3", "agents.default.temperature: too large"),
        ("[agents.default]\ntemperature = nan", "agents.default.temperature: "),
        ("[agents.default]\nallow_barge_in = 'so so'", "agents.default.allow_barge_in: neither"),
        ("[agents.default]\nturn_detection = 4", "agents.default.turn_detection: not a table"),
        (
            "[agents.default.turn_detection]\nidle_timeout_ms = 4999",
            "agents.default.turn_detection.idle_timeout_ms: too small",
        ),
        (
            "[agents.default.turn_detection]\nkind = 'none'\nidle_timeout_ms = 5000",
            "agents.default.turn_detection: idle_timeout_ms needs",
        ),
        (
            "[agents.default.transcription]\nlanguage = 'en'",
            "agents.default.transcription: language needs model",
        ),
        (
            "[agents.default.transcription]\nmodel = 'x'\nlanguage = 'english'",
            "agents.default.transcription.language: not of the accepted form",
        ),
        ("agents = 3", "agents: not a table"),
        ("GATEWAY_PORT = 1", "GATEWAY_PORT: unknown setting in gateway.toml; did you mean port?"),
        ("host = ''", "host in gateway.toml: too short"),
        ("x = 'canary", "GATEWAY_CONFIG: "),
        ("x = " + "[" * 5000, "GATEWAY_CONFIG: "),
    ],
)
def test_bad_file(tmp_path: Path, text: str, start: str) -> None:
    """A bad file gives one line that names the key by its path in the file."""
    [problem] = problems(OPENAI, toml(tmp_path, text))
    assert problem.startswith(start)


def test_unreadable_file(tmp_path: Path) -> None:
    """A file that is missing, a folder, no text or too large is one line, not a traceback."""
    binary, large = tmp_path / "binary", tmp_path / "large"
    binary.write_bytes(b"\xff\xfe")
    large.write_text("#" * (1024 * 1024 + 1))
    for path in (tmp_path / "missing.toml", tmp_path, binary, large):
        [problem] = problems(OPENAI, path)
        assert problem.startswith(f"GATEWAY_CONFIG: {path}")


@tuned(max_examples=50)
@given(st.dictionaries(st.sampled_from([row.name for row in settings_table()]), st.text()))
def test_values_are_never_echoed(values: dict[str, str]) -> None:
    """Any values whatever either load or give problems; no problem repeats a value (P57)."""
    canaries = {name: f"canary{value}" for name, value in values.items()}
    try:
        load_settings(canaries)
    except SettingsError as error:
        assert "canary" not in str(error)  # noqa: PT017 - loading is fine too


# ------------------------------------------------------------- serving


def test_serving_needs_a_secret() -> None:
    """No provider's secret: no calls, unless insecurity is asked for aloud (P58)."""
    [problem] = load_settings(OPENAI).problems_for_serving()
    assert problem.startswith("TWILIO_AUTH_TOKEN: not set")
    assert "GATEWAY_ASTERISK_PASSWORD" in problem
    assert "GATEWAY_INSECURE" in problem
    insecure = load_settings(OPENAI | {"GATEWAY_INSECURE": "1"})
    assert insecure.problems_for_serving() == []
    assert any("GATEWAY_INSECURE" in warning for warning in insecure.warnings)


def test_serving_with_one_provider() -> None:
    """Twilio with its public URL is enough, and so is Asterisk with its login."""
    asterisk = {"GATEWAY_ASTERISK_USERNAME": "pbx", "GATEWAY_ASTERISK_PASSWORD": "canary"}
    assert load_settings(OPENAI | TWILIO).problems_for_serving() == []
    assert load_settings(OPENAI | asterisk).problems_for_serving() == []


def test_twilio_needs_its_public_url() -> None:
    """Signatures cover the public URL, so Twilio cannot be served without it."""
    settings = load_settings(OPENAI | {"TWILIO_AUTH_TOKEN": "canary"})
    [problem] = settings.problems_for_serving()
    assert problem.startswith("GATEWAY_PUBLIC_URL: not set")


def test_serving_checks_ports_and_sounds(tmp_path: Path) -> None:
    """Two listeners on one port and a sound file that is not there are told before serving."""
    environ = {"GATEWAY_PORT": "9464", "GATEWAY_APOLOGY_FILE": str(tmp_path / "no.wav")}
    found = load_settings(OPENAI | TWILIO | environ).problems_for_serving()
    assert [line.split(":")[0] for line in found] == ["GATEWAY_OPS_PORT", "GATEWAY_APOLOGY_FILE"]


def test_serving_makes_and_tries_the_folder_for_tapes(tmp_path: Path) -> None:
    """It is made where it is missing; what is no folder is told before a call is lost on it."""
    usual = OPENAI | TWILIO | {"GATEWAY_TAPE_DIR": str(tmp_path / "calls" / "tapes")}
    assert load_settings(usual).problems_for_serving() == []
    assert list((tmp_path / "calls" / "tapes").iterdir()) == []
    (tmp_path / "file").write_text("")
    for folder in ("file", "file/below"):
        environ = usual | {"GATEWAY_TAPE_DIR": str(tmp_path / folder)}
        [problem] = load_settings(environ).problems_for_serving()
        assert problem.startswith("GATEWAY_TAPE_DIR: "), problem
        assert problem.endswith("accepted: a folder that can be written to, or made")


def test_any_port_twice_is_fine() -> None:
    """Port 0 means any free one, for both listeners."""
    environ = OPENAI | TWILIO | {"GATEWAY_PORT": "0", "GATEWAY_OPS_PORT": "0"}
    assert load_settings(environ).problems_for_serving() == []


# ------------------------------------------------------------- the model


@pytest.mark.parametrize("host", ["127.0.0.1:9000", "localhost:9000", "[::1]:9000", "127.8.8.8"])
def test_plain_http_on_this_machine(host: str) -> None:
    """Stand-ins on loopback addresses may be spoken to in plain text."""
    environ = AZURE | {"AZURE_OPENAI_ENDPOINT": f"http://{host}"}
    assert load_settings(environ).azure_openai_endpoint == f"http://{host}"


def test_plain_http_when_insecure() -> None:
    """Containers speak plain text to a simulator next door when insecurity is asked for."""
    environ = AZURE | {"AZURE_OPENAI_ENDPOINT": "http://simulator:8090", "GATEWAY_INSECURE": "1"}
    assert load_settings(environ).uses_azure


@pytest.mark.parametrize(
    ("environ", "dialect", "credential", "reason"),
    [
        (OPENAI, "ga", "key", "OPENAI_API_KEY"),
        (AZURE, "ga", "entra", "keyless"),
        (AZURE | {"AZURE_OPENAI_API_KEY": "k"}, "ga", "key", "AZURE_OPENAI_API_KEY is set"),
        (AZURE | {"OPENAI_API_VERSION": "2025-04-01-preview"}, "preview", "entra", "keyless"),
        (AZURE | OPENAI, "ga", "entra", "keyless"),
        (OPENAI | {"OPENAI_API_VERSION": "2024-10-01-preview"}, "ga", "key", "OPENAI_API_KEY"),
    ],
)
def test_dialect_and_credential(
    environ: dict[str, str], dialect: str, credential: str, reason: str
) -> None:
    """Azure wins, a version means preview, no key means keyless; the reason says why."""
    settings = load_settings(environ)
    assert (settings.dialect, settings.credential) == (dialect, credential)
    assert reason in settings.credential_reason


@pytest.mark.parametrize(
    ("environ", "word"),
    [
        (AZURE | {"AZURE_OPENAI_API_KEY": "k"}, "keyless"),
        (AZURE | OPENAI, "OPENAI_API_KEY is not used"),
        (OPENAI | {"AZURE_OPENAI_API_KEY": "k"}, "AZURE_OPENAI_API_KEY is not used"),
        (OPENAI | {"OPENAI_API_VERSION": "2024-10-01-preview"}, "OPENAI_API_VERSION is not used"),
        (AZURE | {"OPENAI_API_VERSION": "2025-04-01-preview"}, "deprecated"),
    ],
)
def test_doubtful_settings_warn(environ: dict[str, str], word: str) -> None:
    """What is allowed but probably not meant gives one warning."""
    [warning] = load_settings(environ).warnings
    assert word in warning


def test_token_scope() -> None:
    """The scope follows the dialect, unless it is set."""
    preview = AZURE | {"OPENAI_API_VERSION": "2025-04-01-preview"}
    assert load_settings(AZURE).token_scope == "https://ai.azure.com/.default"
    assert load_settings(preview).token_scope == "https://cognitiveservices.azure.com/.default"
    assert load_settings(AZURE | {"GATEWAY_ENTRA_SCOPE": "api://x"}).token_scope == "api://x"


# ------------------------------------------------------------- secrets


def test_secrets_do_not_show() -> None:
    """Printing settings shows no secret, and the log knows each spelling of every one (P77)."""
    environ = OPENAI | AZURE | TWILIO
    environ |= {"TWILIO_AUTH_TOKEN": "canary-1, canary-2", "AZURE_OPENAI_API_KEY": "canary-3"}
    settings = load_settings(environ)
    assert settings.twilio_auth_tokens == ("canary-1", "canary-2")
    assert "canary" not in repr(settings) + str(settings) + settings.model_dump_json()
    assert {"canary-1", "canary-2", "canary-3", "sk-canary-openai"} <= set(settings.secret_values)


# ------------------------------------------------------------- agents


def test_agent_by_number(tmp_path: Path) -> None:
    """The dialled number picks the agent, however it is written; the rest goes to the default."""
    path = toml(tmp_path, "[agents.sales]\nnumbers = ['+1 (555) 123-4567', 'Sales']\n")
    settings = load_settings(OPENAI, path)
    for number in ("+15551234567", "1 555 123 4567", "sales"):
        assert settings.agent_for(number).name == "sales"
    for number in ("+1555123456", "", "anonymous"):
        assert settings.agent_for(number).name == "default"


def test_session_options_of_the_built_in_agent() -> None:
    """The built-in agent sets everything, with the voice its dialect knows."""
    agent = load_settings(OPENAI).agents["default"]
    assert agent.session_options("ga") == SessionOptions(
        instructions=agent.instructions, tools=(HANG_UP,)
    )
    assert agent.session_options("preview").voice == "alloy"


def test_session_options_of_a_configured_agent(tmp_path: Path) -> None:
    """Every key of an agent's table that the model must know reaches the session."""
    path = toml(
        tmp_path,
        """
        [agents.default]
        instructions = "Sing."
        voice = "cedar"
        temperature = 0.7
        speed = 1.2
        noise_reduction = "far_field"
        audio_format = "g711_ulaw"
        max_output_tokens = 100
        allow_barge_in = false
        can_hang_up = false
        turn_detection = { kind = "semantic_vad", eagerness = "low" }
        transcription = { model = "whisper-1", language = "de" }
        """,
    )
    assert load_settings(OPENAI, path).agents["default"].session_options("ga") == SessionOptions(
        instructions="Sing.",
        voice="cedar",
        temperature=0.7,
        speed=1.2,
        audio=ULAW_8K,
        turn_detection=TurnDetection("semantic_vad", eagerness="low", interrupt_response=False),
        transcription_model="whisper-1",
        transcription_language="de",
        noise_reduction="far_field",
        max_output_tokens=100,
    )


@pytest.mark.parametrize(
    ("word", "audio"), [("pcm16", PCM_24K), ("g711_ulaw", ULAW_8K), ("g711_alaw", ALAW_8K)]
)
def test_session_audio(tmp_path: Path, word: str, audio: object) -> None:
    """Each word for a format means the format the Realtime API calls so."""
    path = toml(tmp_path, f"[agents.default]\naudio_format = '{word}'")
    assert load_settings(OPENAI, path).agents["default"].session_options("ga").audio == audio


# ------------------------------------------------------------- tables for people


def test_settings_table_is_complete() -> None:
    """Each field has a row with its variable, a description and a reason for its default."""
    rows = settings_table()
    assert len(rows) == len(Settings.model_fields) - 1
    assert all(re.fullmatch(r"[A-Z][A-Z0-9_]+", row.name) for row in rows)
    assert all(re.search(r"[\w)]\. Why: \w.*\.$", row.description) for row in rows)
    assert ("GATEWAY_PORT", "8080") in {(row.name, row.default) for row in rows}


def test_agent_table_is_complete() -> None:
    """Each key of an agent has a row, those of inner tables with a dot; the name is no key."""
    names = [row.name for row in agent_table()]
    assert "turn_detection.silence_duration_ms" in names
    assert "transcription.language" in names
    assert "name" not in names
    assert len(names) == len(set(names))


def test_example_file_is_good() -> None:
    """The example loads, and shows every key of an agent with its true default."""
    settings = load_settings(OPENAI, EXAMPLE)
    assert settings.agent_for("+15551234567").name == "bookings"
    text = EXAMPLE.read_text()
    for row in agent_table():
        assert re.search(rf"^(# )?{row.name.rpartition('.')[2]} = ", text, re.MULTILINE), row.name


def test_example_defaults_are_true(tmp_path: Path) -> None:
    """Taking the comment signs off the example's defaults changes nothing else."""
    text = re.sub(r"^# (?=\w+ = )", "", EXAMPLE.read_text(), flags=re.MULTILINE)
    shown = load_settings(OPENAI, toml(tmp_path, text)).agents["default"].model_dump()
    plain = load_settings(OPENAI, EXAMPLE).agents["default"].model_dump()
    differences = {key for key in plain if shown[key] != plain[key]}
    assert differences == {"max_output_tokens", "tape_share", "turn_detection"}
    assert shown["turn_detection"] | {"idle_timeout_ms": None} == plain["turn_detection"]


# ------------------------------------------------------------- several processes


def test_a_token_key_is_the_same_wherever_it_is_set() -> None:
    """Gateways behind one webhook share it; it is a secret; without it each start draws its own."""
    key = "k" * 32
    one, two = (load_settings(OPENAI | {"GATEWAY_TOKEN_KEY": key}) for _ in range(2))
    other = load_settings(OPENAI | {"GATEWAY_TOKEN_KEY": "o" * 32})

    assert one.token_key_bytes == two.token_key_bytes
    assert one.token_key_bytes != other.token_key_bytes
    assert key in one.secret_values
    assert load_settings(OPENAI).token_key_bytes is None


def test_a_worker_gets_every_setting_as_it_was(tmp_path: Path) -> None:
    """Through a pipe as JSON: secrets, agents with inner tables, values that nobody set."""
    path = toml(
        tmp_path,
        'workers = 4\n[agents.sales]\nnumbers = ["+1555"]\n'
        "[agents.sales.turn_detection]\nsilence_duration_ms = 700\n",
    )
    settings = load_settings(AZURE | TWILIO | {"AZURE_OPENAI_API_KEY": "canary"}, path)
    again = Settings(**json.loads(json.dumps(settings.for_worker())))

    assert again == settings
    assert again.secret_values == settings.secret_values
    assert again.agent_for("1555").turn_detection.silence_duration_ms == 700


def test_prices_that_are_none_are_a_problem(tmp_path: Path) -> None:
    """A list that was named and cannot be used is said at once, with what is wrong about it."""
    (line,) = problems(AZURE | TWILIO | {"GATEWAY_PRICES": str(toml(tmp_path, "price = []"))})
    assert line.startswith("GATEWAY_PRICES")
    assert "length >= 1" in line


def test_the_name_of_the_model() -> None:
    """Azure's is the deployment's, which may be any; OpenAI's is the model's own."""
    azure = {
        "AZURE_OPENAI_ENDPOINT": "https://r.openai.azure.com",
        "AZURE_OPENAI_DEPLOYMENT_NAME": "mine",
        "GATEWAY_INSECURE": "1",
    }
    assert load_settings(azure).model_name == "mine"
    openai = {"OPENAI_API_KEY": "sk-x", "GATEWAY_INSECURE": "1"}
    assert load_settings(openai).model_name == "gpt-realtime"


def test_tapes_are_opt_in_for_each_agent() -> None:
    """The folder alone tapes nobody, and says so; the environment speaks for the default agent."""
    agents = {"sales": Agent(name="sales", tape_share=0.5, numbers=("1",)), "default": Agent()}
    settings = Settings(tape_dir="tapes", agents=agents, tape_share=1.0)
    none = Settings(tape_dir="tapes")

    assert set(settings.taped_agents) == {"sales", "default"}
    assert settings.tape_share_of(agents["sales"]) == 0.5
    assert Settings(tape_dir="tapes", agents=agents).taped_agents == ("sales",)
    assert Settings(tape_share=1.0).tape_share_of(Agent(tape_share=0.0)) == 0.0
    assert any("no agent is taped" in warning for warning in none.warnings)
    assert any("GATEWAY_TAPE_DIR is not set" in w for w in Settings(tape_share=1.0).warnings)


def test_which_calls_are_taped_follows_from_their_ids() -> None:
    """About as many as asked for; the same today, tomorrow and in another process."""
    settings = Settings(tape_dir="tapes", tape_share=0.25)
    agent = settings.agents["default"]
    taken = [number for number in range(4000) if settings.is_taped(agent, f"CA{number}")]

    assert 900 < len(taken) < 1100
    assert taken[:5] == [8, 12, 13, 15, 21]
    assert not Settings(tape_share=1.0).is_taped(agent, "CA1")
