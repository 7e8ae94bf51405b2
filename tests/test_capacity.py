"""A certificate is read whole or refused with a reason, and is compared with this machine."""

import json
from pathlib import Path

import pytest

from gateway import __version__
from gateway.capacity import cpu_model, read_certificate
from gateway.errors import SettingsError
from gateway.settings import Settings, load_settings

GOOD = {
    "version": 1,
    "calls_per_core": 430,
    "machine": {"cpu_model": cpu_model(), "cores": 2},
    "gateway": __version__,
    "measured_at": "2026-11-21T12:00:00+00:00",
}


def _write(folder: Path, **changes: object) -> str:
    path = folder / "certificate.json"
    path.write_text(json.dumps(GOOD | changes))
    return str(path)


def _settings(path: str, **changes: str) -> Settings:
    return load_settings({"OPENAI_API_KEY": "k", "GATEWAY_CERTIFICATE": path} | changes)


def _doubts(settings: Settings) -> list[str]:
    return [text for text in settings.warnings if "GATEWAY_CERTIFICATE" in text]


def test_a_certificate_says_what_was_measured(tmp_path: Path) -> None:
    """Unknown keys are for people: who measured may note what it likes."""
    found = read_certificate(_write(tmp_path, note="quiet machine"))

    assert (found.calls_per_core, found.gateway) == (430, __version__)
    assert found.cpu == cpu_model()
    assert read_certificate(_write(tmp_path, machine={"cpu": "Z80"})).cpu == "Z80"
    assert read_certificate(_write(tmp_path, machine={"cpu": {"model": 1}})).cpu == ""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not a capacity certificate"),
        ("{", "not a capacity certificate"),
        ("[]", "not a capacity certificate"),
        ('{"version": 1}', "not a capacity certificate"),
        (json.dumps(GOOD | {"calls_per_core": "many"}), "not a capacity certificate"),
        (json.dumps(GOOD | {"calls_per_core": 0}), "carries no call"),
        (json.dumps(GOOD | {"calls_per_core": -5}), "carries no call"),
        (json.dumps(GOOD | {"version": 2}), "unknown version"),
        ("\xff", "not a capacity certificate"),
    ],
)
def test_a_certificate_that_cannot_be_used_is_a_settings_error(
    tmp_path: Path, text: str, words: str
) -> None:
    """One line, with the way to get a good one."""
    path = tmp_path / "certificate.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(SettingsError) as caught:
        _settings(str(path))
    (line,) = caught.value.problems

    assert line.startswith("GATEWAY_CERTIFICATE: ")
    assert words in line
    assert "gateway bench --certificate" in line


def test_a_missing_certificate_is_a_settings_error(tmp_path: Path) -> None:
    """A limit must not fall back in silence."""
    with pytest.raises(SettingsError, match="GATEWAY_CERTIFICATE: cannot be read: No such file"):
        _settings(str(tmp_path / "nowhere.json"))


@pytest.mark.parametrize(
    ("core", "share", "workers", "limit"),
    [
        (430, "0.7", "1", 301),
        (430, "0.7", "2", 602),
        (433.5, "0.7", "1", 303),
        (10, "0.7", "1", 7),
        (1, "0.05", "1", 1),
        (100, "1", "3", 300),
    ],
)
def test_the_limit_is_a_share_of_what_was_measured(
    tmp_path: Path, core: float, share: str, workers: str, limit: int
) -> None:
    """Calls a core times share times workers, rounded down, never none at all."""
    path = _write(tmp_path, calls_per_core=core)
    settings = _settings(path, GATEWAY_CAPACITY_SHARE=share, GATEWAY_WORKERS=workers)

    assert settings.call_limit == limit
    assert "GATEWAY_CERTIFICATE" in settings.call_limit_reason
    assert Settings(**settings.for_worker()).call_limit == limit


def test_a_limit_that_was_set_comes_first(tmp_path: Path) -> None:
    """As does the default, where nothing was measured."""
    settings = _settings(_write(tmp_path, gateway="9.9.9"), GATEWAY_MAX_CALLS="5")
    usual = load_settings({"OPENAI_API_KEY": "k"})

    assert (settings.call_limit, settings.call_limit_reason) == (5, "GATEWAY_MAX_CALLS is set")
    assert _doubts(settings) == []
    assert usual.call_limit == 100
    assert "default" in usual.call_limit_reason


def test_a_figure_of_another_machine_or_version_is_doubted(tmp_path: Path) -> None:
    """It is used, with a warning; a certificate that names no processor is not suspected."""
    assert _doubts(_settings(_write(tmp_path))) == []
    assert _doubts(_settings(_write(tmp_path, machine={}))) == []
    (processor,) = _doubts(_settings(_write(tmp_path, machine={"cpu_model": "Z80"})))
    (version,) = _doubts(_settings(_write(tmp_path, gateway="99.0.1")))

    assert "processor" in processor
    assert "version" in version


def test_the_processor_is_read_from_linux(tmp_path: Path) -> None:
    """The first model name; elsewhere the architecture."""
    path = tmp_path / "cpuinfo"
    path.write_text("processor\t: 0\nmodel name\t: Fast CPU @ 3 GHz \nmodel name\t: other\n")

    assert cpu_model(str(path)) == "Fast CPU @ 3 GHz"
    assert cpu_model(str(tmp_path / "nowhere")) != ""
