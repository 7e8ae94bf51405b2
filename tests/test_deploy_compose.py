"""The container image and the demonstration stack, as far as they can be checked without Docker."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.settings import load_settings

ROOT = Path(__file__).parents[1]
_DOCKERFILE = (ROOT / "deploy/Dockerfile").read_text("utf-8")
# At least a minor version, never what a tag happens to mean today.
_PINNED = re.compile(r"[a-z/]+:v?\d+\.\d+[-.\w]*")


def _compose() -> dict[str, Any]:
    loaded = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
    assert isinstance(loaded, dict)
    return loaded


def _services() -> dict[str, dict[str, Any]]:
    services = _compose()["services"]
    assert isinstance(services, dict)
    return services


def _mounts(service: dict[str, Any]) -> list[list[str]]:
    """Source, target and mode of each folder mounted."""
    return [volume.split(":") for volume in service.get("volumes", [])]


def _instructions(name: str) -> list[str]:
    """What the Dockerfile says to one instruction, continued lines joined."""
    joined = _DOCKERFILE.replace("\\\n", " ")
    return re.findall(rf"^\s*{name}\s+(.+)$", joined, re.MULTILINE)


def _compose_commands() -> list[list[str]]:
    """Every compose there is here: Debian 12's own (1.29) and the docker plugin (2)."""
    commands = []
    if shutil.which("docker-compose"):
        commands.append(["docker-compose"])
    plugin = ["docker", "compose"]
    if (
        shutil.which("docker")
        and not subprocess.run([*plugin, "version"], check=False, capture_output=True).returncode
    ):
        commands.append(plugin)
    return commands


def test_compose_accepts_the_file() -> None:
    """docker-compose reads the file without a complaint, the old one as well as the new one."""
    commands = _compose_commands()
    if not commands:
        reason = "there is no docker-compose: apt-get install docker-compose"
        if "docker-compose" in os.environ.get("GATEWAY_TESTS_REQUIRE", "").split(","):
            pytest.fail(reason)
        pytest.skip(reason)

    for command in commands:
        checked = subprocess.run(
            [*command, "--file", str(ROOT / "docker-compose.yml"), "config", "--quiet"],
            check=False,
            capture_output=True,
            text=True,
            cwd=ROOT,
        )

        assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", ""), command


def test_the_stack_is_complete() -> None:
    """Gateway, model, metrics and dashboard come up together."""
    assert set(_services()) == {"gateway", "simulator", "prometheus", "grafana"}


def test_every_mounted_folder_exists() -> None:
    """Docker would make an empty folder of a misspelt one; each is there, and read only."""
    mounts = [mount for service in _services().values() for mount in _mounts(service)]

    assert mounts
    assert [mount for mount in mounts if not (ROOT / mount[0]).is_dir()] == []
    assert {mount[2] for mount in mounts} == {"ro"}


def test_foreign_images_are_pinned() -> None:
    """What is not built here has a version, so that tomorrow's start is today's."""
    images = [service["image"] for service in _services().values() if "build" not in service]
    bases = [line.partition(" AS ")[0] for line in _instructions("FROM")]

    assert len(images) == 2
    assert len(bases) == 2
    assert [image for image in images + bases if not _PINNED.fullmatch(image)] == []


def test_no_port_is_open_to_the_network() -> None:
    """The stack is insecure on purpose, so only this machine reaches it."""
    ports = [port for service in _services().values() for port in service.get("ports", [])]

    assert len(ports) == 4
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []


def test_the_gateway_starts_with_these_settings() -> None:
    """The environment in the file is one that ``gateway serve`` takes, talking to the simulator."""
    services = _services()
    environment = services["gateway"]["environment"]

    load_settings(environment)

    command = services["simulator"]["command"]
    port = command[command.index("--port") + 1]
    assert environment["AZURE_OPENAI_ENDPOINT"] == f"http://simulator:{port}"
    assert environment["GATEWAY_INSECURE"] == "1"


def test_the_dashboards_are_where_grafana_looks() -> None:
    """Each provider of dashboards names a folder that is mounted, and the first page exists."""
    grafana = _services()["grafana"]
    targets = {target: ROOT / source for source, target, _ in _mounts(grafana)}
    home = Path(grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    provisioning = targets["/etc/grafana/provisioning"] / "dashboards"
    providers = [
        provider
        for file in sorted(provisioning.glob("*.yml"))
        for provider in yaml.safe_load(file.read_text("utf-8"))["providers"]
    ]

    assert (targets[str(home.parent)] / home.name).is_file()
    assert providers
    assert [p for p in providers if p["options"]["path"] not in targets] == []


def test_the_dashboards_find_the_runbook() -> None:
    """What the dashboards link to lies among the files that Grafana serves."""
    targets = {target: ROOT / source for source, target, _ in _mounts(_services()["grafana"])}
    for dashboard in sorted((ROOT / "deploy/grafana/dashboards").glob("*.json")):
        variables = json.loads(dashboard.read_text("utf-8"))["templating"]["list"]
        (runbook,) = [each["query"] for each in variables if each["name"] == "runbook"]
        folder, name = f"/usr/share/grafana{runbook}".rsplit("/", 1)
        assert (targets[folder] / name).is_file()


def test_prometheus_has_the_rules_that_its_configuration_names() -> None:
    """It finds its configuration where it looks by default, and the rules beside it."""
    mounts = {target: source for source, target, _ in _mounts(_services()["prometheus"])}
    folder = ROOT / mounts["/etc/prometheus"]
    config = yaml.safe_load((folder / "prometheus.yml").read_text("utf-8"))

    assert config["rule_files"]
    assert [name for name in config["rule_files"] if not (folder / name).is_file()] == []
    (job,) = config["scrape_configs"]
    (target,) = job["static_configs"][0]["targets"]
    assert target.partition(":")[0] in _services()


def test_the_image_does_not_run_as_root() -> None:
    """The last word on the user is a number above zero, which Kubernetes can check."""
    users = _instructions("USER")

    assert re.fullmatch(r"[1-9]\d*(:[1-9]\d*)?", users[-1])


def test_the_image_installs_what_is_locked() -> None:
    """Every pip install in the image takes hashed versions, or the gateway alone."""
    installs = [line for line in _instructions("RUN") if "pip install" in line]

    assert len(installs) == 2
    assert "--require-hashes --requirement requirements.lock" in installs[0]
    assert "--no-deps --no-build-isolation ." in installs[1]


def test_the_image_serves_and_says_so() -> None:
    """Both listeners are open, health is asked of /livez, and ``gateway`` is the command."""
    assert _instructions("EXPOSE") == ["8080 9464"]
    assert _instructions("ENTRYPOINT") == ['["gateway"]']
    assert _instructions("CMD")[-1] == '["serve", "--host", "0.0.0.0", "--ops-host", "0.0.0.0"]'
    assert "/livez" in _instructions("HEALTHCHECK")[0]


def test_the_build_gets_every_file_it_copies() -> None:
    """.dockerignore lets in what the Dockerfile copies, and keeps everything else out."""
    ignore = (ROOT / ".dockerignore").read_text("utf-8").split()
    copied = {
        source
        for line in _instructions("COPY")
        if not line.startswith("--from")
        for source in line.split()[:-1]
    }

    assert "*" in ignore
    assert copied == {line[1:] for line in ignore if line.startswith("!")}
    assert [name for name in copied if not (ROOT / name).exists()] == []
