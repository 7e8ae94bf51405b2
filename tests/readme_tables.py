"""Write the parts of the README that come from the code, each between its two markers.

``python -m tests.readme_tables`` renews what the tests compare: the diagram, the commands, the
layout, the settings, the roles, the metrics. ``python -m tests.readme_tables demo audio`` measures
on this machine and pastes what was printed; it takes about a minute.
"""

import ast
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import typer

from gateway.cli import cli
from gateway.metrics import metrics_table
from gateway.settings import SettingRow, agent_table, roles_table, settings_table
from gateway.states import diagram
from tests.test_architecture import ROOMS

ROOT: Final = Path(__file__).parents[1]
README: Final = ROOT / "README.md"
_BLOCK: Final = re.compile(r"<!-- begin (\w+) -->\n(.*?)<!-- end \1 -->", re.DOTALL)


def blocks(text: str) -> dict[str, str]:
    """What stands between each pair of markers."""
    return {found[1]: found[2] for found in _BLOCK.finditer(text)}


def renewed(text: str, contents: Mapping[str, str]) -> str:
    """The text with new contents between the markers of these names."""

    def put(found: re.Match[str]) -> str:
        content = contents.get(found[1], found[2])
        return f"<!-- begin {found[1]} -->\n{content}<!-- end {found[1]} -->"

    return _BLOCK.sub(put, text)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; a bar inside a cell is escaped."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(map(_cell, line))} |\n" for line in lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _code(text: str) -> str:
    return f"`{text}`" if text else ""


def _diagram() -> str:
    return f"```mermaid\n{diagram()}```\n"


def command_rows() -> list[tuple[str, str]]:
    """Each sub-command with the first sentence of its help."""
    group = typer.main.get_command(cli)
    assert isinstance(group, typer.core.TyperGroup)
    shown = [(name, each) for name, each in group.commands.items() if not each.hidden]
    return [(name, each.help or "") for name, each in shown]


def _commands() -> str:
    rows = [(_code(f"gateway {name}"), text) for name, text in command_rows()]
    return table(("Command", "What it does"), rows)


def _settings() -> str:
    return _setting_rows("Variable", settings_table())


def _agent() -> str:
    return _setting_rows("Key of `[agents.NAME]`", agent_table())


def _setting_rows(head: str, found: Iterable[SettingRow]) -> str:
    rows = ((_code(row.name), _code(row.default), row.description) for row in found)
    return table((head, "Default", "What it does"), rows)


def _roles() -> str:
    rows = ((_code(role), _code(variable), may) for role, variable, may in roles_table())
    return table(("Role", "Its token", "May"), rows)


def _metrics() -> str:
    rows = ((_code(row.name), row.kind, row.labels, row.description) for row in metrics_table())
    return table(("Metric", "Kind", "Labels", "What it says"), rows)


def _layout() -> str:
    rows = sorted(_rooms(), key=_place)
    return table(
        ("Room", "What it is"), [(f"[{name}](gateway/{name})", text) for name, text in rows]
    )


def _rooms() -> Iterator[tuple[str, str]]:
    """Every module at the top of the package and every package in it, with its first sentence."""
    folder = ROOT / "gateway"
    for path in folder.glob("*.py"):
        if not path.stem.startswith("__"):
            yield path.name, _sentence(path)
    for path in folder.glob("*/__init__.py"):
        yield f"{path.parent.name}/", _sentence(path)


def _sentence(path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    return text.partition("\n\n")[0].replace("\n", " ").replace("``", "`")


def _place(room: tuple[str, str]) -> tuple[int, str]:
    """The order of the table of arrows: from the words everybody uses to the front door."""
    name = room[0].removesuffix("/").removesuffix(".py")
    order = list(ROOMS)
    return (order.index(name) if name in order else len(order), name)


def _demo() -> str:
    with tempfile.TemporaryDirectory() as folder:
        return _printed(folder, "-m", "gateway", "demo", "--once")


def _audio() -> str:
    return _run(ROOT, "-m", "tests.benchmarks.print_audio_figures")


def _printed(folder: str | Path, *arguments: str) -> str:
    return f"```text\n{_run(folder, *arguments)}```\n"


def _run(folder: str | Path, *arguments: str) -> str:
    """What a command of ours prints where no terminal is; raises when it fails."""
    environ = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environ,
        check=True,
        capture_output=True,
        text=True,
        timeout=300,
    )
    return done.stdout


DRAWN: Final[Mapping[str, Callable[[], str]]] = {
    "diagram": _diagram,
    "commands": _commands,
    "layout": _layout,
    "settings": _settings,
    "agent": _agent,
    "roles": _roles,
    "metrics": _metrics,
}
MEASURED: Final[Mapping[str, Callable[[], str]]] = {"demo": _demo, "audio": _audio}


def main(names: Sequence[str]) -> None:
    """Renew the drawn blocks, and the measured ones that are named."""
    makers = {**DRAWN, **{name: MEASURED[name] for name in names}}
    contents = {name: make() for name, make in makers.items()}
    README.write_text(renewed(README.read_text("utf-8"), contents), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
