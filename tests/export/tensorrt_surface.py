"""What TensorRT's Python bindings offer: their classes, members and signatures, without a GPU.

    python -m tests.export.tensorrt_surface tensorrt_cu13_bindings-11.4.0.106-*.whl

writes `tensorrt-surface/tensorrt-11.4.0.106.json`; wheels of TensorRT-RTX are read too. The
bindings are imported against empty stand-ins for TensorRT's libraries, gigabytes that only a call
needs: importing registers the classes, and pybind11 writes each signature into its docstring.
Names are kept, sentences are not.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, Literal

GOLDENS = Path(__file__).with_name("tensorrt-surface")
MODULE = "module"  # the module itself, listed beside its classes
UNKNOWN = "?"  # TensorRT's, of a class that the signature does not name alone, as in list[Dims]
ANY = "*"  # arguments that the signature does not list

# What the bindings want before they can be imported: TensorRT 10.12 to 11.4, RTX 1.4 to 1.7.
_LIBRARIES = (
    "nvinfer",
    "nvinfer_plugin",
    "nvonnxparser",
    "tensorrt_rtx",
    "tensorrt_onnxparser_rtx",
)
_SYMBOLS = (
    "createInferBuilder_INTERNAL",
    "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL",
    "getBuilderPluginRegistry",
    "getNvOnnxParserVersion",
    "getPluginRegistry",
    "initLibNvInferPlugins",
)
_READ = """
import importlib, sys
from tests.export.tensorrt_surface import surface_of
sys.stdout.write(surface_of(importlib.import_module(sys.argv[1])).to_json())
"""


@dataclass(frozen=True)
class Form:
    """One way to use a name: `(flags=) -> INetworkDefinition`, `-> BuilderFlag`, `class Builder`.

    An argument with a default ends with `=`. `gives` is empty where the value is not TensorRT's.
    """

    kind: Literal["call", "value", "class"]
    gives: str = ""
    takes: tuple[str, ...] = ()

    def accepts(self, positional: int, keywords: set[str]) -> bool:
        """Whether a call with so many positional arguments and these keywords can be bound."""
        if ANY in self.takes:
            return True
        names = [name.rstrip("=") for name in self.takes]
        needed = {name for name in self.takes[positional:] if not name.endswith("=")}
        return positional <= len(names) and needed <= keywords <= set(names[positional:])

    def to_text(self) -> str:
        arrow = f"-> {self.gives}" if self.gives else ""
        if self.kind == "class":
            return f"class {self.gives}"
        return f"({', '.join(self.takes)}) {arrow}".strip() if self.kind == "call" else arrow

    @classmethod
    def from_text(cls, text: str) -> "Form":
        if text.startswith("class "):
            return cls("class", text.removeprefix("class "))
        before, _, gives = text.partition("-> ")
        takes = tuple(re.findall(r"[^(), ]+", before))
        return cls("call" if before else "value", gives, takes)


Members = dict[str, list[Form]]


@dataclass(frozen=True)
class ClassSurface:
    """A class: the names of its bases, and what it adds to them."""

    bases: list[str]
    members: Members


@dataclass(frozen=True)
class Surface:
    """One version of one module."""

    module: str
    version: str
    classes: dict[str, ClassSurface]

    @property
    def name(self) -> str:
        return f"{self.module}-{self.version}"

    def member(self, owner: str, name: str) -> list[Form] | None:
        """How `name` of the class `owner` is used, None where it has no such member."""
        if owner == UNKNOWN:
            return self._anywhere(name)
        found = self.classes[owner]
        if name in found.members:
            return found.members[name]
        inherited = (self.member(base, name) for base in found.bases)
        return next((forms for forms in inherited if forms is not None), None)

    def _anywhere(self, name: str) -> list[Form] | None:
        found = [c.members[name] for c in self.classes.values() if name in c.members]
        return [form for forms in found for form in forms] if found else None

    def to_json(self) -> str:
        """One class to a line, so that versions can be compared line by line."""
        lines = []
        for name, found in sorted(self.classes.items()):
            members = {n: [f.to_text() for f in forms] for n, forms in found.members.items()}
            lines.append(f"{json.dumps(name)}: {json.dumps([found.bases, members])}")
        head = f'"module": {json.dumps(self.module)}, "version": {json.dumps(self.version)}'
        return f'{{{head}, "classes": {{\n' + ",\n".join(lines) + "\n}}\n"

    @classmethod
    def from_json(cls, text: str) -> "Surface":
        tree = json.loads(text)
        classes = {
            name: ClassSurface(bases, {n: [*map(Form.from_text, f)] for n, f in members.items()})
            for name, (bases, members) in tree["classes"].items()
        }
        return cls(tree["module"], tree["version"], classes)


def surface_of(module: ModuleType) -> Surface:
    """Read an imported module: TensorRT's, TensorRT-RTX's, or bindings without their libraries."""
    home = module.Builder.__module__  # where the shared object keeps them, and its signatures say
    name = module.__name__.removesuffix("_bindings")
    read = {MODULE: ClassSurface([], _members(module, home))}
    classes = [v for v in vars(module).values() if isinstance(v, type) and v.__module__ == home]
    while classes:
        found = classes.pop()
        if found.__qualname__ in read:
            continue
        bases = [b.__qualname__ for b in found.__bases__ if b.__module__ == home]
        read[found.__qualname__] = ClassSurface(bases, _members(found, home))
        classes += [v for v in vars(found).values() if isinstance(v, type)]
    return Surface(name, module.__version__, read)


def read_wheel(wheel: Path) -> Surface:
    """Import a wheel's bindings in a process of their own, and read them there.

    Needs a C compiler, and the Python that the wheel is for.
    """
    name, version = wheel.name.split("-")[:2]
    bindings = re.sub(r"_cu\d+", "", name)
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
        _write_stand_ins(Path(folder), version.partition(".")[0])
        root = Path(__file__).parents[2]
        environment = os.environ | {
            "LD_LIBRARY_PATH": folder,
            "PYTHONPATH": os.pathsep.join([folder, str(root)]),
        }
        command = [sys.executable, "-c", _READ, bindings]
        done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE)
    return Surface.from_json(done.stdout.decode())


def main(wheels: list[str]) -> None:
    """Write a golden for each wheel."""
    for wheel in wheels:
        surface = read_wheel(Path(wheel))
        golden = GOLDENS / f"{surface.name}.json"
        golden.write_text(surface.to_json(), encoding="utf-8")
        print(f"{golden}: {len(surface.classes)} classes")


def _write_stand_ins(folder: Path, major: str) -> None:
    source = folder / "stand_in.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in _SYMBOLS))
    for library in _LIBRARIES:
        target = folder / f"lib{library}.so.{major}"
        subprocess.run(["cc", "-shared", "-fPIC", "-o", target, source], check=True)


def _members(owner: Any, home: str) -> Members:
    public = {n: v for n, v in vars(owner).items() if not n.startswith("_") or n == "__init__"}
    members = {
        name: list(dict.fromkeys(_forms(value, home)))
        for name, value in sorted(public.items())
        if not isinstance(value, ModuleType)
    }
    if not members.get("__init__", True):  # Python's own, of a class that only TensorRT makes
        del members["__init__"]
    return members


def _forms(value: Any, home: str) -> Iterator[Form]:
    if isinstance(value, type):
        yield Form("class", value.__qualname__)
    elif isinstance(value, FunctionType):  # added in Python around the shared object
        yield Form("call", "", (ANY,))
    elif isinstance(value, property):
        for _, gives in _signatures(value.fget.__doc__, home):
            yield Form("value", gives)
    elif callable(value):
        for takes, gives in _signatures(value.__doc__, home):
            yield Form("call", gives, takes)
    else:
        yield Form("value", _class_in(f"{type(value).__module__}.{type(value).__qualname__}", home))


def _signatures(docstring: str | None, home: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """Arguments and result of each overload, as pybind11 writes them into a docstring."""
    lines = (docstring or "").splitlines()
    overloads = [line for line in lines if re.match(r"\d+\. \w+\(", line)]
    for line in overloads if "Overloaded function." in lines else lines[:1]:
        signature = re.search(r"\((.*)\)(?: -> (.*))?$", line)
        if signature:
            arguments, result = signature.groups()
            yield tuple(_argument_names(arguments)), _class_in(result or "", home)


def _argument_names(arguments: str) -> Iterator[str]:
    for argument in _split_at_commas(arguments):
        name, _, annotation = argument.partition(":")
        if name.startswith("*"):
            yield ANY
        elif name not in ("self", ""):
            yield f"{name}=" if " = " in annotation else name


def _split_at_commas(text: str) -> Iterator[str]:
    """Split where no bracket is open: annotations and defaults have commas of their own."""
    depth, start = 0, 0
    for place, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            yield text[start:place].strip()
            start = place + 1
    yield text[start:].strip()


def _class_in(annotation: str, home: str) -> str:
    """TensorRT's class in an annotation, empty where there is none."""
    bare = re.sub(r"^(?:typing\.)?Optional\[(.*)\]$", r"\1", annotation).removesuffix(" | None")
    inside = re.fullmatch(rf"{re.escape(home)}\.([\w.]+)", bare)
    if inside:
        return inside[1]
    # A class registered after the signature was written appears by its C++ name.
    return UNKNOWN if home in bare or "::" in bare else ""


if __name__ == "__main__":
    main(sys.argv[1:])
