"""The rooms of the gateway, the arrows allowed between them, the sizes they are held to."""

import ast
import io
import re
import shutil
import statistics
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LONGEST_FUNCTION_LINES = 40

# What the sans-I/O rooms stay away from: everything that waits, tells the time, rolls dice or talks
# to somebody. Rooms that read wire text use msgspec and binascii, which refuse what json lets pass.
_IO = frozenset(
    {
        *("aiohttp", "asyncio", "azure", "http", "logging", "multiprocessing", "os"),
        *("prometheus_client", "pydantic", "selectors", "socket", "ssl", "structlog"),
        *("subprocess", "threading", "typer", "urllib", "urllib3", "uvloop", "websockets"),
    }
)
_CLOCK = frozenset({"datetime", "time"})
_DICE = frozenset({"random", "secrets", "uuid"})
_WIRE = frozenset({"base64", "binascii", "json", "msgspec"})
_SOCKETS = frozenset(
    {"aiohttp", "asyncio", "selectors", "socket", "ssl", "threading", "websockets"}
)
_PURE = _IO | _CLOCK | _DICE | _WIRE


@dataclass(frozen=True, slots=True)
class Room:
    """What one room may import from the gateway, and what it must not import from outside."""

    may_import: frozenset[str]
    must_not_import: frozenset[str] = frozenset()


def _room(may_import: str, must_not_import: frozenset[str] = frozenset()) -> Room:
    return Room(frozenset(may_import.split()), must_not_import)


# The line to the model, and both far ends of the simulator, for the commands that use them.
_MODEL = "realtime realtime.connection realtime.inbox realtime.protocol"
_STAND_INS = "simulator.* simulator.caller simulator.server"

# The module (below `gateway.`) or, with ".*", every module of a package that has no row of its own.
# A package's own name means its __init__. This table is the design: an arrow that is not here needs
# a reason in the change that adds it.
ROOMS = {
    "": _room("", _PURE),
    "__main__": _room("cli"),
    "errors": _room("", _PURE),
    "events": _room("", _PURE - {"msgspec"}),  # structs, no wire
    "states": _room("errors events", _PURE),
    "audio": _room("", _PURE - {"os"}),  # tells numpy's BLAS to keep to one thread
    "audio.*": _room("errors audio audio.*", _PURE),
    "playout": _room("events", _PURE),
    "conversation": _room("events", _PURE),
    "uplink": _room("events audio.*", _PURE),
    "downlink": _room("events audio.* playout", _PURE),
    "answers": _room("events", _PURE),
    "desk": _room("events", _PURE),
    "waiting": _room("events", _PURE),
    "checkup": _room("events desk audio.*", _PURE),
    "voice": _room("events desk conversation downlink playout audio.*", _PURE),
    "session": _room("events desk states conversation", _PURE),
    "turns": _room("events desk states answers voice waiting", _PURE),
    "call": _room(
        "events errors checkup desk states session turns uplink voice waiting playout audio.*",
        _PURE,
    ),
    "providers": _room("events errors", _PURE),
    "providers.table": _room("errors events providers providers.*", _IO),
    "providers.wire": _room("events", _IO | _CLOCK | _DICE),
    "providers.*": _room(
        "events errors providers providers.wire", (_IO - {"urllib"}) | _CLOCK | _DICE
    ),
    "realtime": _room("events errors", _IO - {"asyncio"}),
    "realtime.protocol": _room("events errors realtime", _IO | _CLOCK | _DICE),
    "realtime.inbox": _room("realtime", _IO - {"asyncio"}),
    "realtime.auth": _room("errors settings realtime"),
    "realtime.connection": _room("errors frames settings realtime realtime.auth"),
    "bridge": _room("call events errors providers realtime", _IO - {"asyncio"} | _WIRE),
    "frames": _room("", (_PURE - {"websockets", "secrets"})),  # its mask, and what it masks with
    "links": _room("errors frames realtime", _IO - {"aiohttp", "asyncio"} | _CLOCK | _DICE | _WIRE),
    "breaker": _room(
        "errors realtime", (_IO - {"asyncio"}) | _CLOCK | (_DICE - {"random"}) | _WIRE
    ),
    "admission": _room("events errors", _IO | _CLOCK),  # tokens: drawn and read here
    "prices": _room("events", _IO | _DICE | {"time"}),
    "capacity": _room("", _IO | _CLOCK | _DICE),
    "roles": _room("", _PURE),
    "settings": _room("capacity events errors prices roles", _IO - {"pydantic", "urllib"}),
    "garbage": _room("", _PURE),
    "tls": _room("errors settings", _IO - {"ssl"}),
    "metrics": _room("audio.* events errors", _IO - {"prometheus_client"}),
    "logs": _room("events errors", _IO - {"logging", "structlog", "urllib"}),
    "traces": _room("events errors", _IO - {"os", "threading"}),  # the SDK is of the extra `otel`
    "simulator": _room("events errors", _IO),
    "simulator.*": _room("events errors audio.* simulator simulator.*", _SOCKETS | _CLOCK),
    "simulator.caller": _room("events errors audio.* simulator simulator.*"),
    "simulator.server": _room("events errors audio.* simulator simulator.*"),
    # `gateway bench`: what decides and counts is kept from sockets and clocks, what moves is not.
    "bench": _room("", _PURE),
    "bench.*": _room("errors bench.*", _PURE),  # tally, wheel, ramp, figures, findings, report
    "bench.framing": _room("frames", _IO | _CLOCK | _DICE),
    "bench.tones": _room("audio.* events", _IO | _CLOCK | (_DICE - {"random"})),  # seeded noise
    "bench.script": _room("audio.* events simulator.* bench.framing", _IO | _CLOCK | _DICE),
    "bench.caller": _room("bench.* bench.framing bench.script bench.tones", _PURE),
    "bench.model": _room(
        "events simulator.* bench.caller bench.framing bench.script bench.tones",
        _IO | _CLOCK | _DICE,
    ),
    "bench.encryption": _room("", (_IO - {"ssl"}) | _DICE | _WIRE),
    "bench.load": _room(
        "bench.* bench.caller bench.encryption bench.framing bench.model bench.tones",
        _DICE | _WIRE,
    ),
    "bench.process": _room("", (_IO - {"os"}) | _DICE | _WIRE),
    "bench.machine": _room("", (_IO - {"os"}) | _CLOCK | _DICE | _WIRE),
    "bench.subject": _room("errors bench.encryption bench.process", _CLOCK | _DICE | _WIRE),
    "bench.run": _room(
        "bench.* bench.caller bench.encryption bench.load bench.process bench.subject bench.tones",
        _CLOCK | _DICE | _WIRE,
    ),
    "bench.command": _room("errors terminal bench.* bench.machine bench.process bench.run"),
    "tape": _room("", _PURE),
    "tape.record": _room(
        "bridge errors events realtime tape tape.masking",
        (_IO - {"os", "threading", "urllib"}) | _DICE,
    ),
    "tape.masking": _room("logs", (_IO - {"urllib"}) | _CLOCK | _DICE),
    "tape.hush": _room("tape.masking", _IO | _CLOCK | _DICE),
    "tape.pack": _room("", (_IO - {"os"}) | _CLOCK | _DICE | _WIRE),
    "tape.shelf": _room("tape.pack", (_IO - {"os", "subprocess", "threading"}) | _DICE | _WIRE),
    "tape.sounds": _room("", _IO | _CLOCK | _DICE),
    "tape.reading": _room("errors realtime tape tape.sounds", (_IO | _CLOCK | _DICE)),
    "tape.passes": _room("errors tape.reading", _PURE - {"msgspec"}),  # structs, no wire
    "tape.stage": _room(
        "errors realtime tape.passes", (_IO - {"asyncio"}) | _CLOCK | _DICE | _WIRE
    ),
    "tape.replay": _room(
        "audio.* bridge call errors events providers providers.table realtime.protocol shipped"
        " realtime tape.passes tape.reading tape.sounds tape.stage",
        (_IO - {"asyncio", "urllib"}) | _CLOCK | _DICE,
    ),
    "tape.compare": _room("tape.passes tape.reading tape.replay", (_PURE - {"msgspec"})),
    "tape.judge": _room(
        "errors tape tape.compare tape.masking tape.reading tape.replay", _IO | _DICE | _WIRE
    ),
    "tape.command": _room("errors tape.compare tape.judge terminal", _IO | _DICE | _WIRE),
    "tape.taped": _room("events tape.judge tape.story", _IO | _CLOCK | _DICE),
    "tape.plugin": _room("errors tape tape.judge tape.taped", _IO | _CLOCK | _DICE | _WIRE),
    "tape.shrink": _room("errors tape.compare tape.reading", _IO | _CLOCK | _DICE),
    "tape.renew": _room(
        "bridge errors events realtime tape tape.masking tape.reading tape.record tape.replay",
        (_IO - {"os"}) | _DICE,
    ),
    "tape.renewing": _room(
        "errors tape.command tape.judge tape.renew tape.shelf terminal",
        _IO | _CLOCK | _DICE | _WIRE,
    ),
    "tape.shrinking": _room(
        "errors tape.judge tape.renew tape.shrink terminal",
        (_IO - {"os", "subprocess"}) | _CLOCK | _DICE | _WIRE,
    ),
    "tape.wire": _room(
        "errors events providers providers.table realtime.protocol tape.reading",
        (_IO - {"urllib"}) | _CLOCK | _DICE,
    ),
    "tape.ear": _room("", _PURE),
    "tape.accounts": _room("call errors events playout tape.reading tape.replay", _PURE),
    "tape.story": _room("conversation events tape.accounts tape.ear tape.reading tape.wire", _PURE),
    "tape.tracks": _room("audio.* events tape.ear tape.reading tape.wire", _PURE),
    "tape.listen": _room("tape.story tape.tracks", _PURE),
    "tape.show": _room("tape.reading tape.story", _PURE),
    "tape.report": _room("tape.listen tape.show tape.story", _PURE - {"base64", "msgspec"}),
    "shipped": _room("", _PURE),
    "terminal": _room("", (_IO - {"os"}) | _CLOCK | _DICE),
    "check": _room(f"audio.* errors events settings terminal tls {_MODEL}", _IO - {"asyncio"}),
    "say": _room(f"audio.* errors events settings terminal {_MODEL}", _IO - {"asyncio"}),
    "dialout": _room(f"audio.* errors terminal {_STAND_INS}", _IO - {"asyncio", "urllib"}),
    "demo": _room(f"app audio.* errors events settings shipped terminal {_STAND_INS}", _WIRE),
    "whatif": _room(
        "app errors events prices settings simulator.* simulator.caller tape.judge tape.story"
        " tape.tracks terminal",
        _WIRE,
    ),
    "web": _room("roles", _IO - {"aiohttp"} | _CLOCK | _DICE | _WIRE),
    "web.gate": _room("roles web", _IO | _CLOCK | _WIRE),  # numbers of logins are drawn here
    "web.proxies": _room("", _PURE - {"aiohttp"}),
    "web.softphone": _room("errors events settings web", _IO - {"aiohttp"} | _CLOCK | _DICE),
    "web.pages": _room("logs roles web web.gate", _IO - {"aiohttp", "structlog", "urllib"} | _DICE),
    "web.shelf": _room("errors", _PURE),
    "web.reports": _room(
        "errors", (_IO - {"asyncio", "os", "subprocess", "threading"}) | _CLOCK | _DICE | _WIRE
    ),
    "web.roster": _room("events logs", _PURE - {"msgspec"}),  # structs, no wire
    "web.tap": _room("events providers", _PURE),
    "web.console": _room(
        "events web web.reports web.roster web.shelf web.tap",
        (_IO - {"aiohttp", "asyncio", "structlog"}) | _DICE,
    ),
    "web.directory": _room(
        "", _PURE - {"msgspec"}
    ),  # rows as they came, not read but for their ids
    "web.inside": _room("roles web", _IO - {"aiohttp"} | _CLOCK | _DICE),
    "web.relay": _room(
        "errors web web.inside", (_IO - {"aiohttp", "asyncio"}) | _CLOCK | _DICE | _WIRE
    ),
    "web.overview": _room(
        "events web web.console web.directory web.relay web.roster",
        (_IO - {"aiohttp", "asyncio", "structlog"}) | _CLOCK | _DICE,
    ),
    "web.building": _room(
        "errors metrics settings store tape.report web.console web.reports web.shelf",
        (_IO - {"asyncio", "structlog"}) | _DICE | _WIRE,
    ),
    "store": _room("errors web.shelf", (_IO - {"asyncio", "os", "threading"}) | _CLOCK | _DICE),
    "channel": _room("", _IO - {"asyncio", "socket"} | _CLOCK | _DICE | _WIRE),
    "frontdesk": _room("admission errors", _IO - {"asyncio"} | _CLOCK | _DICE),
    "listener": _room("", _IO - {"asyncio", "socket", "ssl"} | _CLOCK | _DICE | _WIRE),
    "tally": _room("", _IO - {"os", "prometheus_client"} | _CLOCK | _DICE),
    "usher": _room(
        "admission breaker bridge call errors events links logs metrics prices providers realtime"
        " realtime.auth realtime.protocol settings tape.hush tape.record traces voice web.console"
        " web.tap",
        _IO - {"aiohttp", "asyncio", "prometheus_client", "structlog"},
    ),
    "app": _room("*"),
    "worker": _room("app channel errors frontdesk garbage listener settings tally"),
    "workers": _room(
        "app channel errors frontdesk listener metrics prices settings tally tls usher web "
        "web.building web.overview web.softphone worker"
    ),
    "cli": _room("*"),
}


def _modules() -> dict[str, Path]:
    """Every module of the package, by its name below ``gateway`` ("" is the package itself)."""
    modules = {}
    for path in sorted((ROOT / "gateway").rglob("*.py")):
        parts = path.relative_to(ROOT / "gateway").with_suffix("").parts
        modules[".".join(part for part in parts if part != "__init__")] = path
    return modules


def _test_files() -> list[Path]:
    return sorted((ROOT / "tests").rglob("*.py"))


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def _row(module: str) -> str | None:
    """The row of the table a module falls under: its own, else its package's."""
    package = f"{module.rpartition('.')[0]}.*"
    return next((row for row in (module, package) if row in ROOMS), None)


def _imports(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and dotted name of everything imported anywhere in a file; a member counts as a name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def _target(name: str, modules: frozenset[str]) -> str:
    """The module of ours that importing ``gateway.NAME`` reaches."""
    below = name.removeprefix("gateway").removeprefix(".")
    return below if below in modules else below.rpartition(".")[0]


def _is_allowed(room: Room, target: str) -> bool:
    # The package itself holds nothing but its version.
    return bool(room.may_import & {"*", _row(target) or target, target}) or not target


def _wrong_arrows(module: str, tree: ast.Module, modules: frozenset[str]) -> Iterator[str]:
    row = _row(module)
    if row is None:
        yield f"gateway.{module}: is in no row of ROOMS"
        return
    for line, name in _imports(tree):
        top = name.partition(".")[0]
        if not top:
            yield f"gateway.{module}:{line}: relative import of {name}"
        elif top == "gateway":
            target = _target(name, modules)
            if target != module and not _is_allowed(ROOMS[row], target):
                yield f"gateway.{module}:{line}: must not import gateway.{target}"
        elif top in ROOMS[row].must_not_import:
            yield f"gateway.{module}:{line}: must not import {top}"


def _functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def _is_docstring(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


_NO_CODE = {
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT,
    tokenize.ENDMARKER,
}  # fmt: skip


def _code_lines(source: str) -> set[int]:
    """The numbers of the lines that hold more than a comment or nothing."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in _NO_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    return lines


def _lengths(source: str) -> Iterator[tuple[int, int, str]]:
    """Code lines, first line and name of each function, ``def`` included, docstring not."""
    code = _code_lines(source)
    for function in _functions(ast.parse(source)):
        own = set(range(function.lineno, (function.end_lineno or 0) + 1))
        first = function.body[0]
        if _is_docstring(first):
            own -= set(range(first.lineno, (first.end_lineno or 0) + 1))
        yield len(own & code), function.lineno, function.name


def _has_code(tree: ast.Module) -> bool:
    """Whether a function of the file does anything: a declaration has at most a docstring."""
    return any(
        not all(_is_docstring(node) or _is_ellipsis(node) for node in function.body)
        for function in _functions(tree)
    )


def _is_ellipsis(node: ast.stmt) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and node.value.value is ...
    )


def _own_test(path: Path) -> Path:
    """The test file that belongs to a module: gateway/a/b.py has tests/a/test_b.py."""
    folder = path.parent.relative_to(ROOT / "gateway")
    return ROOT / "tests" / folder / f"test_{path.stem.strip('_')}.py"


def _where(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_every_import_is_an_arrow_of_the_table() -> None:
    """No module imports a room, a library or a clock that its row does not give it."""
    modules = _modules()
    names = frozenset(modules)

    wrong = [
        arrow for name, path in modules.items() for arrow in _wrong_arrows(name, _tree(path), names)
    ]

    assert not wrong, "\n".join(wrong)


def test_no_module_is_imported_by_a_name_made_at_run_time() -> None:
    """The table sees every import, because none hides behind import_module."""
    hidden = [
        f"{_where(path)}:{node.lineno}"
        for path in _modules().values()
        for node in ast.walk(_tree(path))
        if (isinstance(node, ast.Name) and node.id in {"__import__", "import_module"})
        or (isinstance(node, ast.Attribute) and node.attr == "import_module")
    ]

    assert not hidden, "\n".join(hidden)


def test_no_function_is_too_long() -> None:
    """Every function of package and tests fits on a screen."""
    package = {
        _where(path): list(_lengths(path.read_text("utf-8"))) for path in _modules().values()
    }
    tests = {_where(path): list(_lengths(path.read_text("utf-8"))) for path in _test_files()}
    sizes = sorted(length for found in package.values() for length, _, _ in found)
    middle, p90 = statistics.median(sizes), sizes[len(sizes) * 9 // 10]

    long = [
        f"{path}:{line}: {name} has {length} code lines, more than {LONGEST_FUNCTION_LINES}"
        for path, found in (package | tests).items()
        for length, line, name in found
        if length > LONGEST_FUNCTION_LINES
    ]

    report = f"{len(sizes)} functions in the package: median {middle:g} code lines, p90 {p90}"
    assert not long, "\n".join([*long, report])


def test_nothing_is_global() -> None:
    """No function of package or tests changes a variable of its module."""
    found = [
        f"{_where(path)}:{node.lineno}"
        for path in [*_modules().values(), *_test_files()]
        for node in ast.walk(_tree(path))
        if isinstance(node, ast.Global)
    ]

    assert not found, "\n".join(found)


def test_every_module_has_its_own_test_file() -> None:
    """A module with code in it is tested by the file of its name, not by accident."""
    missing = [
        f"{_where(path)} has no {_where(_own_test(path))}"
        for path in _modules().values()
        if _has_code(_tree(path)) and not _own_test(path).exists()
    ]

    assert not missing, "\n".join(missing)


def test_every_test_says_what_it_proves() -> None:
    """Each test function has a docstring whose first line is a sentence."""
    silent = [
        f"{_where(path)}:{function.lineno}: {function.name}"
        for path in _test_files()
        for function in _functions(_tree(path))
        if function.name.startswith("test_")
        and not (ast.get_docstring(function) or "").partition("\n")[0].endswith(".")
    ]

    assert not silent, "\n".join(silent)


# Folders that exist on one machine only, and servers that a lock file or a script must not choose
# for the people who use them.
_PRIVATE = re.compile(
    r"(?:^|[^.\w])/(?:work|root|home|farm|Users)/"
    r"|pypi\.org|python[h]osted|index[-_]url|find[-_]links|npm[j]s|(?:deb|snapshot)\.debian"
)


def test_no_file_names_a_machine_or_a_package_index() -> None:
    """What is checked in works anywhere: no path of one machine, no index, no mirror."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout: nothing says which files belong to the project")
    listed = subprocess.run(
        ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split("\0")

    found = [
        f"{name}:{number}: {line.strip()[:100]}"
        for name in filter(None, listed)
        for number, line in _text_lines(ROOT / name)
        if _PRIVATE.search(line)
    ]

    assert not found, "\n".join(found)


def _text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines of a text file; nothing of a sound or picture, or of a file just deleted."""
    try:
        text = path.read_text("utf-8")
    except (UnicodeDecodeError, FileNotFoundError):
        return
    yield from enumerate(text.splitlines(), 1)


_KNOWN = frozenset(("", "app", "call", "errors", "events", "providers", "providers.twilio"))


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("call", "import asyncio"),
        ("call", "import json as j"),
        ("call", "def late():\n    from time import monotonic"),
        ("call", "from gateway.providers import twilio"),
        ("call", "import gateway.app"),
        ("events", "from gateway import errors"),
        ("providers.twilio", "from . import asterisk"),
        ("attic", "x = 1"),
    ],
)
def test_a_wrong_arrow_is_found(module: str, source: str) -> None:
    """The reader of imports sees aliases, members, late imports and rooms nobody planned."""
    assert list(_wrong_arrows(module, ast.parse(source), _KNOWN))


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("call", "from gateway.events import PlayAudio\nimport collections.abc"),
        ("call", "from gateway import __version__"),
        ("providers.twilio", "from gateway.providers import Provider\nimport msgspec"),
        ("app", "from gateway.providers.twilio import TwilioDoor\nimport asyncio"),
    ],
)
def test_a_right_arrow_is_let_pass(module: str, source: str) -> None:
    """The reader of imports does not cry wolf."""
    assert not list(_wrong_arrows(module, ast.parse(source), _KNOWN))


def test_length_counts_code_only() -> None:
    """Docstrings, comments and empty lines cost a function nothing; a split line its parts."""
    source = 'def f(\n    x,\n):\n    """Say.\n\n    More.\n    """\n\n    # why\n    return x\n'

    assert list(_lengths(source)) == [(4, 1, "f")]


def test_the_tables_name_real_libraries() -> None:
    """A misspelt ban would ban nothing: each is of the standard library or can be installed."""
    ours = {"aiohttp", "azure", "prometheus_client", "pydantic", "structlog", "typer"}
    ours |= {"msgspec", "urllib3", "uvloop", "websockets"}

    assert _PURE - sys.stdlib_module_names == ours
