"""What the README says is what the code does: tables, commands, settings, links."""

import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from gateway.cli import cli
from gateway.conversation import TURNS_KEPT
from gateway.demo import run_demo
from gateway.desk import CallOptions
from gateway.events import RESULTS, SessionOptions
from gateway.settings import Settings, load_settings, settings_table
from gateway.states import LIFECYCLE, TURN, diagram
from tests.readme_tables import DRAWN, MEASURED, README, ROOT, blocks, renewed, table
from tests.sip.pbx import Extension

TEXT = README.read_text("utf-8")
PAGES = (README, ROOT / "deploy/README.md", ROOT / "tests/sip/README.md")
_OURS = ("gateway/", "tests/", "deploy/", ".ci/")
_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_CODE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
_INDENTED = re.compile(r"^ {4}(.+)$", re.MULTILINE)
_LINK = re.compile(r"\]\(([^)\s]+)\)")


def section(title: str) -> str:
    """The part of the README under one heading, up to the next of its kind."""
    found = re.search(
        rf"^(#+) {re.escape(title)}\n(.*?)(?=^\1 |\Z)", TEXT, re.DOTALL | re.MULTILINE
    )
    assert found, title
    return found[2]


def fenced(text: str, *languages: str) -> list[str]:
    """The blocks of code in these languages."""
    return [found[2] for found in _FENCE.finditer(text) if found[1] in languages]


def shell_lines(text: str) -> list[list[str]]:
    """The words of each shell line, continued lines joined, comments left out."""
    joined = "\n".join(fenced(text, "sh")).replace("\\\n", " ")
    return [words for line in joined.splitlines() if (words := shlex.split(line, comments=True))]


def typed(text: str) -> list[list[str]]:
    """The words of everything to type that a page shows, in blocks as well as within sentences."""
    prose = _FENCE.sub("", text)
    shown = [*_CODE.findall(prose), *_INDENTED.findall(prose)]
    return [*shell_lines(text), *(code.split() for code in shown)]


def exported(text: str) -> dict[str, str]:
    """The variables that the shell lines of a text set."""
    lines = [words for words in shell_lines(text) if words[0] == "export"]
    return dict(word.partition("=")[::2] for words in lines for word in words[1:])


def anchors(text: str) -> set[str]:
    """The places of a page that a link can point to, spelt as GitHub spells them."""
    headings = re.findall(r"^#+ (.+)$", _FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def links() -> Iterator[tuple[Path, str]]:
    """Every link of every page, with the page it is on."""
    for page in PAGES:
        for found in _LINK.finditer(page.read_text("utf-8")):
            yield page, found[1]


# ------------------------------------------------------------- what comes from the code


@pytest.mark.parametrize("name", DRAWN)
def test_each_drawn_block_is_what_the_code_says(name: str) -> None:
    """Diagram, commands, layout, settings and metrics are those of the code, whole and in order."""
    assert blocks(TEXT)[name] == DRAWN[name](), "run: python -m tests.readme_tables"


def test_every_block_can_be_renewed() -> None:
    """No block stands in the README for which there is no command, and none is missing."""
    assert set(blocks(TEXT)) == {*DRAWN, *MEASURED}


def test_renewing_touches_the_named_block_only() -> None:
    """New contents go between their own markers; the rest of the page stays as it is."""
    page = "a\n<!-- begin x -->\nold\n<!-- end x -->\nb\n<!-- begin y -->\nkept\n<!-- end y -->\n"

    assert renewed(page, {"x": "new\n"}) == page.replace("old", "new")


def test_a_bar_in_a_cell_does_not_end_the_cell() -> None:
    """A table's cell may hold any text."""
    assert table(("a",), [("x|y",)]) == "| a |\n| --- |\n| x\\|y |\n"


def test_the_diagram_has_every_state_and_every_step_that_leads_elsewhere() -> None:
    """Nothing of the two tables is lost on the way to the picture but steps that stay in place."""
    drawn = re.findall(r"(\w+) --> (\w+): (.+)", diagram())
    arrows = {(one, name, other) for one, other, names in drawn for name in names.split(", ")}

    tables = [*LIFECYCLE.items(), *TURN.items()]
    assert arrows == {
        (str(state), name, str(target))
        for state, steps in tables
        for name, target in steps.items()
        if target is not state
    }


def test_the_diagram_can_be_printed() -> None:
    """``python -m gateway.states`` prints the very picture."""
    done = subprocess.run(
        [sys.executable, "-m", "gateway.states"], check=True, capture_output=True, text=True
    )

    assert done.stdout == diagram()


def test_the_demo_prints_such_lines() -> None:
    """Each figure in the pasted output of the demo is still one that the demo prints."""
    source = Path(run_demo.__code__.co_filename).read_text("utf-8")
    measured = blocks(TEXT)["demo"].partition("Measured in this call:\n")[2].partition("\n\n")[0]
    labels = [line.strip().partition("  ")[0] for line in measured.splitlines()]

    assert len(labels) > 5
    assert [label for label in labels if f'"{label}"' not in source] == []


def test_the_demo_went_well() -> None:
    """The pasted call ended as it should, and both sides came through."""
    demo = blocks(TEXT)["demo"]

    assert "call over: success, caller_hangup" in demo
    assert len(re.findall(r"(\d+) of \1 seconds above 0\.99", demo)) == 2


def test_the_sound_figures_are_complete() -> None:
    """The table of the resampler has a row for each pair of rates."""
    ratios = re.findall(r"^\| (\d+ -> \d+) \|", blocks(TEXT)["audio"], re.MULTILINE)

    assert len(set(ratios)) == len(ratios) == 12


# ------------------------------------------------------------- what people type


def test_every_make_target_exists() -> None:
    """Whatever follows ``make`` is a target of the Makefile."""
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    everything = [words for page in PAGES for words in typed(page.read_text("utf-8"))]
    named = {words[1] for words in everything if words[0] == "make" and words[1:]}

    assert named >= {"demo", "test", "check"}
    assert named - targets == set()


def gateway_lines() -> list[list[str]]:
    """What is typed behind ``gateway`` on all pages."""
    everything = [words for page in PAGES for words in typed(page.read_text("utf-8"))]
    return [words[1:] for words in everything if words[0] == "gateway" and words[1:]]


@pytest.mark.parametrize("words", gateway_lines(), ids=" ".join)
def test_every_gateway_line_can_be_typed(words: list[str]) -> None:
    """Each line parses: sub-command, options and their values are known."""
    group = typer.main.get_command(cli)
    assert isinstance(group, typer.core.TyperGroup)
    name, *arguments = words
    if name == "COMMAND":
        name, arguments = "serve", []
    # Within a sentence a command may be named without what it needs.
    is_named_only = not arguments

    context = group.commands[name].make_context(name, arguments, resilient_parsing=is_named_only)

    assert context.info_name == name


def test_every_file_in_a_gateway_line_exists() -> None:
    """Examples name files that are there."""
    named = {word for words in gateway_lines() for word in words if word.startswith(_OURS)}

    assert named
    assert {path for path in named if not (ROOT / path).is_file()} == set()


@pytest.mark.parametrize(
    "title", [f"From the demo to a real {peer}" for peer in ("Twilio number", "Asterisk")]
)
def test_the_way_to_a_real_call_is_ten_lines(title: str) -> None:
    """From the demo to a real telephone is ten lines to type, comments included."""
    lines = [line for block in fenced(section(title), "sh", "ini") for line in block.splitlines()]

    assert 0 < len([line for line in lines if line.strip()]) <= 10


# ------------------------------------------------------------- settings


_MODELS = section("The model").split("**OpenAI.**")
_KEYLESS, _WITH_KEY = _MODELS[0].split("**Azure OpenAI, with a key.**")


@pytest.mark.parametrize(
    ("text", "uses_azure", "credential"),
    [(_KEYLESS, True, "entra"), (_WITH_KEY, True, "key"), (_MODELS[1], False, "key")],
    ids=["keyless", "azure key", "openai"],
)
def test_the_ways_to_the_model_are_what_they_say(
    text: str,
    uses_azure: bool,  # noqa: FBT001 - a row of a table
    credential: str,
) -> None:
    """The variables of each way select that service and that credential."""
    settings = load_settings(exported(text))

    assert (settings.uses_azure, settings.credential) == (uses_azure, credential)
    assert settings.dialect == "ga"


def test_twilio_can_be_served_with_the_lines_shown() -> None:
    """The variables of the ten lines are all that ``gateway serve`` asks for."""
    settings = load_settings(exported(section("From the demo to a real Twilio number")))

    assert settings.problems_for_serving() == []
    assert settings.twilio_auth_tokens
    assert settings.credential == "entra"


def test_asterisk_can_be_served_with_the_lines_shown() -> None:
    """Both sides know one password, and the dial line is the one that real calls test."""
    part = section("From the demo to a real Asterisk")
    client = dict(line.split("=", 1) for line in fenced(part, "ini")[0].splitlines()[1:])
    settings = load_settings(exported(_KEYLESS) | exported(part))

    assert settings.problems_for_serving() == []
    assert settings.asterisk_password is not None
    assert client["username"] == settings.asterisk_username
    assert client["password"] == settings.asterisk_password.get_secret_value()
    assert client["uri"].endswith("/asterisk/media")
    assert fenced(part, "ini")[1].strip() == Extension("100", "slin24").dialplan()


def test_every_variable_named_exists() -> None:
    """No sentence speaks of a variable of ours that is not in the table."""
    known = {row.name for row in settings_table()} | {"GATEWAY_CONFIG"}
    named = {
        name
        for page in PAGES[:2]
        for name in re.findall(r"GATEWAY_[A-Z_]+\b(?!\*)", page.read_text("utf-8"))
    }

    assert named - known - {"GATEWAY_"} == set()


def test_the_file_has_the_names_the_readme_says() -> None:
    """A variable's key in the file is its name in lower case without our prefix."""
    keys = {row.name.lower().removeprefix("gateway_") for row in settings_table()}

    assert keys == set(Settings.model_fields) - {"agents"}


def test_the_example_agent_can_be_loaded(tmp_path: Path) -> None:
    """The table shown in the README is a file the gateway takes."""
    (block,) = fenced(section("Settings"), "toml")
    file = tmp_path / "gateway.toml"
    file.write_text(block, "utf-8")

    settings = load_settings(exported(_KEYLESS), file)

    assert list(tomllib.loads(block)["agents"]) == ["bookings"]
    assert settings.agent_for("+15551234567").name == "bookings"


# ------------------------------------------------------------- promises


def test_every_end_of_a_call_is_explained() -> None:
    """Each reason stands in the table beside who is to blame, or among those not used yet."""
    part = section("What a caller hears when things fail")
    pairs = {reason: result for result, reason in re.findall(r"`(\w+)`, `(\w+)` \|\n", part)}
    unused = set(_CODE.findall(part.partition("The closed set of reasons")[2]))

    assert pairs == {reason: result for reason, result in RESULTS.items() if reason not in unused}
    assert set(pairs) | unused == set(RESULTS)


def test_the_times_a_caller_waits_are_those_of_a_call() -> None:
    """The seconds in the table of failures are the defaults of every call."""
    part = section("What a caller hears when things fail")
    options = CallOptions(provider="p", agent="a", session=SessionOptions(), lead_ms=0)

    assert f"longer than {options.answer_s:g} s" in part
    assert f"No answer for {options.give_up_s:g} s" in part
    assert f"No new session within {options.reconnect_budget_s:g} s" in part


def test_the_words_kept_are_counted_right() -> None:
    """What the README says about memory is what the memory holds."""
    assert f"the last {TURNS_KEPT} turns" in section("What is kept and what is not")


# ------------------------------------------------------------- links


def test_every_link_leads_somewhere() -> None:
    """Each relative link is a file or folder of the project, each anchor a heading of its page."""
    broken = []
    for page, link in links():
        if re.match(r"https?:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or not target.is_relative_to(ROOT):
            broken.append(f"{page.name}: {link}")
        elif anchor and anchor not in anchors(target.read_text("utf-8")):
            broken.append(f"{page.name}: {link}: no such heading")

    assert len(list(links())) > 50
    assert broken == []


def test_every_file_named_exists() -> None:
    """A path in the text that looks like one of ours is one of ours."""
    named = {code for code in _CODE.findall(TEXT) if code.startswith(_OURS)}

    missing = {path for path in named if not (ROOT / path).exists() and "NAME" not in path}
    assert missing == set()


def test_the_first_lines_say_what_it_is() -> None:
    """The page opens with its name and two sentences."""
    title, _, rest = TEXT.partition("\n\n")
    opening = rest.partition("\n\n")[0].replace("\n", " ")

    assert title == "# Voice gateway"
    assert len(re.findall(r"\.(?: |$)", opening)) == 2
