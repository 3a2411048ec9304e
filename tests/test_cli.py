"""The commands as one: listed, light to ask for help, and with the exit codes that were agreed."""

import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

import flowerseg
from flowerseg.cli import COMMANDS, main
from flowerseg.cli.options import Command, stderr_console
from flowerseg.cli.terminal import PlainConsole, description_column
from flowerseg.errors import DataError, FlowersegError
from flowerseg.printable import printable

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


HOSTILE = "a[/][red]\x1b[31m:rose:\n\u202e" + os.fsdecode(b"\xe9") + "[link=x]"
SHOWN = "a[/][red]\\x1b[31m:rose:\\n\\u202e\\xe9[link=x]"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (DataError(f"{HOSTILE}: broken."), 1),
        (click.UsageError(f"{HOSTILE}: broken."), 2),
        (click.ClickException(f"{HOSTILE}: broken."), 1),
        (click.FileError(HOSTILE, "broken."), 1),
    ],
)
def test_names_in_errors_cannot_steer_the_terminal(error: Exception, code: int) -> None:
    @click.command(cls=Command)
    def failing() -> None:
        raise error

    result = CliRunner().invoke(failing)
    assert result.exit_code == code
    assert SHOWN.replace("\\xe9", "") in result.stderr.replace("\\xe9", "").replace("�", "")
    assert not set(result.stderr) & {"\x1b", "\u202e"}


def test_arguments_of_wrong_usage_cannot_steer_the_terminal() -> None:
    for arguments in (["a\x1b[2Jb"], ["--a\x1b[2Jb"], ["doctor", "a\x1b[2Jb"]):
        result = CliRunner().invoke(main, arguments)
        assert result.exit_code == 2
        assert "\\x1b[2Jb" in result.stderr
        assert "\x1b" not in result.stderr


def test_lines_of_an_error_are_printed_as_lines() -> None:
    @click.command(cls=Command)
    def failing() -> None:
        raise FlowersegError("2 photos cannot be used.", f"  {HOSTILE}", "  b.jpg")

    result = CliRunner().invoke(failing)
    assert result.stderr == f"Error: 2 photos cannot be used.\n  {SHOWN}\n  b.jpg\n"


def test_notes_tables_and_bars_show_names_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    name = HOSTILE.replace("\n", "")
    console = PlainConsole(stderr=True, width=200)
    table = Table(title=name)
    table.add_column(name)
    table.add_row(name)
    console.print(name, Text(name), table)
    with Progress(description_column(), console=console) as progress:
        progress.add_task(printable(name))
    shown = capsys.readouterr().err
    assert shown.count(SHOWN.replace("\\n", "")) == 6
    assert not set(shown) & {"\x1b", "\u202e"}


def test_results_that_the_terminal_cannot_encode_are_no_traceback() -> None:
    program = "from flowerseg.cli import main; main(['doctor', '→ 花'])"
    for encoding in ("ascii", "latin-1"):
        shown = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            env=os.environ | {"PYTHONIOENCODING": encoding},
        )
        assert shown.returncode == 2
        assert b"Traceback" not in shown.stderr
