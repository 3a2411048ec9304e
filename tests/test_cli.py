"""The commands as one: listed, light to ask for help, and with the exit codes that were agreed."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import flowerseg
from flowerseg.cli import COMMANDS, main
from flowerseg.cli.options import Command, stderr_console
from flowerseg.errors import FlowersegError

NAMES = ["train", "export", "verify", "bench", "predict", "doctor", "demo"]
HEAVY = ["torch", "torchvision", "onnx", "onnxruntime", "tensorrt", "tensorrt_rtx", "openvino"]
ROOT = Path(__file__).parents[1]


def _command(name: str) -> click.Command:
    command = main.get_command(click.Context(main), name)  # type: ignore[attr-defined]  # a group
    assert command is not None
    return command


def test_group_lists_every_command_with_what_it_does() -> None:
    result = CliRunner().invoke(main, ["--help"])
    assert result.exit_code == 0
    listed = result.output.partition("Commands:\n")[2].splitlines()
    assert [line.split()[0] for line in listed] == NAMES
    assert all(len(line.split()) > 3 for line in listed)


def test_help_of_every_command_imports_no_runtime() -> None:
    program = f"""
import json, sys
from flowerseg.cli import main
found = {{}}
for name in {NAMES!r}:
    try:
        main([name, "--help"], prog_name="flowerseg")
    except SystemExit as ended:
        loaded = sorted(set({HEAVY!r}) & set(sys.modules))
        found[name] = [ended.code, loaded]
print(json.dumps(found))
"""
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert shown.returncode == 0, shown.stderr
    assert json.loads(shown.stdout.splitlines()[-1]) == {name: [0, []] for name in NAMES}
    assert shown.stdout.count("Usage: flowerseg ") == len(NAMES)


def test_every_command_has_a_script_of_its_own() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    expected = {f"flowerseg-{name}": f"{COMMANDS[name][0]}:{name}" for name in NAMES}
    assert scripts == {"flowerseg": "flowerseg.cli:main"} | expected


@pytest.mark.parametrize("name", NAMES)
def test_every_command_prints_json_on_request_and_shows_no_traceback(name: str) -> None:
    command = _command(name)
    assert "--json" in {option for p in command.params for option in p.opts}
    assert isinstance(command, Command)


def test_summary_in_the_list_fits_the_commands_own_help() -> None:
    for name in NAMES:
        assert COMMANDS[name][1].endswith(".")
        assert (_command(name).help or "").strip()


@pytest.mark.parametrize("name", ["train", "export", "verify", "bench", "predict"])
def test_missing_arguments_are_exit_2(name: str) -> None:
    result = CliRunner().invoke(main, [name])
    assert result.exit_code == 2
    assert "Missing" in result.stderr or "--data and --out are needed" in result.stderr


@pytest.mark.parametrize("arguments", [["segment"], ["--nonsense"], ["train", "--nonsense"]])
def test_unknown_command_and_option_are_exit_2(arguments: list[str]) -> None:
    assert CliRunner().invoke(main, arguments).exit_code == 2


def test_error_that_a_user_can_mend_is_exit_1_in_one_line() -> None:
    @click.command(cls=Command)
    def failing() -> None:
        raise FlowersegError("a.jpg: broken. Copy it again.")

    result = CliRunner().invoke(failing)
    assert result.exit_code == 1
    assert result.stderr == "Error: a.jpg: broken. Copy it again.\n"
    assert result.stdout == ""


def test_note_is_printed_in_one_line_and_brackets_are_no_markup(
    capsys: pytest.CaptureFixture[str],
) -> None:
    line = f"/photos/[bold]/{'long name ' * 20}small.engine"
    stderr_console().print(line)
    assert capsys.readouterr().err == f"{line}\n"


def test_error_of_ours_keeps_its_traceback() -> None:
    @click.command(cls=Command)
    def buggy() -> None:
        raise KeyError("ours")

    assert isinstance(CliRunner().invoke(buggy).exception, KeyError)


def test_module_runs_as_the_command_does() -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "flowerseg", "--version"], capture_output=True, text=True
    )
    assert shown.returncode == 0
    assert flowerseg.__version__ in shown.stdout


def test_package_is_light_to_import() -> None:
    heavy = [*HEAVY, "numpy", "cv2", "click"]
    program = f"import sys, flowerseg; print(sorted(set({heavy!r}) & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert shown.stdout == "[]\n"


def test_public_names_are_there() -> None:
    from flowerseg.segmenter import Segmenter

    assert flowerseg.Segmenter is Segmenter
    assert sorted(flowerseg.__all__) == ["Segmenter", "__version__"]
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        flowerseg.Nonsense  # noqa: B018  # the access is what is tested
