"""Where source uses TensorRT: every attribute and call, held against one version's surface.

The source is walked as it would run with that version, with the class of each value in place of
the value. The name `trt`, and what `import_tensorrt` returns, is the module; what its classes and
methods give is in their signatures, and is carried through assignments, `self`, branches, and
calls of the file's own functions. Every public function, and every method, is an entry.

- A parameter annotated `Any` of which nothing is known is taken for TensorRT's: its attributes
  must exist in some class.
- `hasattr`, and `getattr` with a default, are guards: the version may lack the name. A name that
  is not written out, here or where the function is called, is a problem.
- Branches on `Kind.TENSORRT`, `Kind.TENSORRT_RTX` or `hasattr` go the version's way.

Not seen: what comes out of a container or of another file's function, guards by `try` or by
version number, the values of arguments, and what a name does: only that it is there.
"""

import ast
from collections import ChainMap
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

from tests.export.tensorrt_surface import MODULE, UNKNOWN, Form, Surface


@dataclass(frozen=True)
class Use:
    """One attribute or call; `problem` is empty where the version has it."""

    line: int
    name: str
    problem: str = ""
    is_guarded: bool = False


def uses(source: str, surface: Surface) -> list[Use]:
    """Every use of TensorRT in the source, in the order of its lines."""
    walk = _Walk(surface)
    walk.module(ast.parse(source))
    return sorted(walk.uses, key=lambda use: (use.line, use.name))


def problems(source: str, surface: Surface, known: Collection[str] = ()) -> list[str]:
    """What would fail with this version, one line each, but for the names that are `known` to."""
    found = [use for use in uses(source, surface) if use.problem and not use.is_guarded]
    return [f"line {u.line}: {u.name} {u.problem}" for u in found if u.name not in known]


@dataclass(eq=False)
class _Class:
    """A class of ours, with what its methods put into `self`."""

    node: ast.ClassDef
    names: "_Names"
    base: str  # of TensorRT's, else empty
    attributes: "dict[str, _Values]" = field(default_factory=dict)


@dataclass(eq=False)
class _Instance:
    made_of: _Class


@dataclass(eq=False)
class _Function:
    """A function of ours, a method with its `self`."""

    node: ast.FunctionDef
    names: "_Names"
    receiver: _Instance | None = None

    def parameters(self) -> list[ast.arg]:
        arguments = self.node.args
        positional = arguments.posonlyargs + arguments.args
        return positional[self.receiver is not None :] + arguments.kwonlyargs


_Value = Form | _Function | _Class | _Instance | str
_Values = list[_Value]
_Names = ChainMap[str, _Values]


class _Walk:
    """One walk through a file; `uses` is what it met."""

    def __init__(self, surface: Surface) -> None:
        self.uses: set[Use] = set()
        self._surface = surface
        self._running: list[ast.FunctionDef] = []
        self._called: set[str] = set()

    def module(self, tree: ast.Module) -> None:
        self._called = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        names: _Names = ChainMap({})
        self._block(tree.body, names)
        for values in list(names.values()):
            for value in values:
                if isinstance(value, _Class):
                    self._every_method(value)
                elif isinstance(value, _Function) and not value.node.name.startswith("_"):
                    self._run(value)

    # Statements. Each says whether it leaves the function.

    def _block(self, statements: Sequence[ast.stmt], names: _Names) -> bool:
        return any(self._statement(statement, names) for statement in statements)

    def _statement(self, node: ast.stmt, names: _Names) -> bool:
        match node:
            case ast.FunctionDef():
                names[node.name] = [_Function(node, names)]
            case ast.ClassDef():
                self._class(node, names)
            case ast.If():
                return self._if(node, names)
            case ast.Assign(targets=targets, value=value):
                for target in targets:
                    self._assign(target, self._value(value, names), names)
            case ast.AnnAssign(target=target, value=ast.expr() as value):
                self._assign(target, self._value(value, names), names)
            case ast.Return(value=ast.expr() as value):
                names["return"] = names.get("return", []) + self._value(value, names)
            case _:
                self._parts(node, names)
        return isinstance(node, ast.Return | ast.Raise)

    def _if(self, node: ast.If, names: _Names) -> bool:
        self._value(node.test, names)
        decided = self._decided(node.test, names)
        if decided is not None:
            return self._block(node.body if decided else node.orelse, names)
        before = dict(names.maps[0])
        leaves = self._block(node.body, names)
        after = dict(names.maps[0])
        names.maps[0].update(before)
        leaves &= self._block(node.orelse, names)
        for name, values in after.items():
            other = names.maps[0].get(name, [])
            names[name] = values + [value for value in other if value not in values]
        return leaves

    def _class(self, node: ast.ClassDef, names: _Names) -> None:
        bases = [base for expression in node.bases for base in self._value(expression, names)]
        base = next((form.gives for form in bases if isinstance(form, Form)), "")
        made = _Class(node, names, base)
        names[node.name] = [made]
        if base:
            self._check_overrides(made)
        if self._running:
            self._every_method(made)

    def _every_method(self, made: _Class) -> None:
        for node in sorted(_methods(made), key=lambda node: node.name != "__init__"):
            self._run(_Function(node, made.names, _Instance(made)))

    def _assign(self, target: ast.expr, values: _Values, names: _Names) -> None:
        match target:
            case ast.Name(id=name):
                names[name] = values
            case ast.Attribute(value=ast.Name(id="self"), attr=name) if "self" in names:
                for owner in names["self"]:
                    if isinstance(owner, _Instance):
                        owner.made_of.attributes.setdefault(name, []).extend(values)
            case _:
                self._value(target, names)

    def _parts(self, node: ast.AST, names: _Names) -> None:
        """What holds expressions and statements, in their order."""
        for child in ast.iter_child_nodes(node):
            match child:
                case ast.stmt():
                    self._statement(child, names)
                case ast.expr():
                    self._value(child, names)
                case ast.withitem(context_expr=context, optional_vars=ast.expr() as target):
                    self._assign(target, self._value(context, names), names)
                case _:
                    self._parts(child, names)

    # Expressions. Each is worth what it may be.

    def _value(self, node: ast.expr, names: _Names) -> _Values:
        match node:
            case ast.Name(id=name):
                return names.get(name) or ([Form("value", MODULE)] if name == "trt" else [])
            case ast.Constant(value=str(text)):
                return [text]
            case ast.Attribute(value=value, attr=name):
                return self._attribute(node, self._value(value, names), name)
            case ast.Call():
                return self._call(node, names)
            case ast.Lambda(args=arguments, body=body):
                returned = ast.copy_location(ast.Return(body), body)
                return [_Function(ast.FunctionDef("lambda", arguments, [returned], []), names)]
            case ast.IfExp(test=test, body=body, orelse=orelse):
                self._value(test, names)
                decided = self._decided(test, names)
                branches = {True: [body], False: [orelse], None: [body, orelse]}[decided]
                return [value for branch in branches for value in self._value(branch, names)]
            case ast.BoolOp():
                return [value for part in self._evaluated(node, names) for value in part]
            case ast.NamedExpr(target=target, value=value):
                names[target.id] = self._value(value, names)
                return names[target.id]
        self._parts(node, names)
        return []

    def _evaluated(self, node: ast.BoolOp, names: _Names) -> Iterator[_Values]:
        for value in node.values:
            yield self._value(value, names)
            if self._decided(value, names) is isinstance(node.op, ast.Or):
                return

    def _attribute(
        self, node: ast.expr, owners: _Values, name: str, is_guarded: bool = False
    ) -> _Values:
        """The members of that name; a use, where TensorRT's classes have to have it."""
        ours = [own for owner in owners if (own := _own_members(owner, name)) is not None]
        bases = [base for owner in owners if (base := _class_of(owner))]
        if ours or not bases:
            return [value for own in ours for value in own]
        theirs = [self._surface.member(base, name) for base in bases]
        if not name.startswith("__"):
            problem = "is missing" if all(forms is None for forms in theirs) else ""
            self.uses.add(Use(node.lineno, f"{bases[0]}.{name}", problem, is_guarded))
        return [form for forms in theirs for form in forms or []]

    def _call(self, node: ast.Call, names: _Names) -> _Values:
        given = [self._value(argument, names) for argument in node.args]
        named = {word.arg: self._value(word.value, names) for word in node.keywords}
        for value in [value for values in [*given, *named.values()] for value in values]:
            if isinstance(value, _Function):  # somebody else calls it
                self._run(value)
        match node.func:
            case ast.Name(id="import_tensorrt"):
                return [Form("value", MODULE)]
            case ast.Name(id="super"):
                return [Form("value", base) for own in names["self"] if (base := _class_of(own))]
            case ast.Name(id="getattr" | "hasattr" | "setattr" as how) if any(
                _class_of(value) for value in given[0]
            ):
                return self._attribute_by_name(node, how, given)
        called = self._value(node.func, names)
        self._check_arguments(node, called)
        return [value for each in called for value in self._result(each, given, named)]

    def _attribute_by_name(self, node: ast.Call, how: str, given: list[_Values]) -> _Values:
        owners, names, *default = given
        is_guarded = how == "hasattr" or (how == "getattr" and bool(default))
        texts = [name for name in names if isinstance(name, str)]
        if not texts:
            problem = "names nothing that can be read here"
            self.uses.add(Use(node.lineno, ast.unparse(node), problem))
        found = [self._attribute(node, owners, text, is_guarded) for text in texts]
        return [value for values in [*found, *default] for value in values]

    def _result(
        self,
        called: _Value,
        given: list[_Values],
        named: dict[str | None, _Values],
    ) -> _Values:
        match called:
            case _Function():
                return self._run(called, given, named)
            case _Class():
                made = _Instance(called)
                for start in _own_members(made, "__init__") or []:
                    self._result(start, given, named)
                return [made]
            case Form(kind="call" | "class", gives=gives) if gives:
                return [Form("value", gives)]
        return []

    def _run(
        self,
        function: _Function,
        given: Sequence[_Values] = (),
        named: dict[str | None, _Values] | None = None,
    ) -> _Values:
        """What it returns; of arguments that are not given, the annotation is all that is known."""
        if function.node in self._running:
            return []
        parameters = [parameter.arg for parameter in function.parameters()]
        known = dict(zip(parameters, given, strict=False)) | (named or {})
        names = function.names.new_child({})
        for parameter in function.parameters():
            unknown = [Form("value", UNKNOWN)] if _is_any(parameter.annotation) else []
            unknown = [Form("value", MODULE)] if parameter.arg == "trt" else unknown
            names[parameter.arg] = known.get(parameter.arg) or list(unknown)
        if function.receiver is not None:
            names["self"] = [function.receiver]
        names["return"] = []
        self._running.append(function.node)
        self._block(function.node.body, names)
        self._running.pop()
        return names["return"]

    # Tests that the version decides; None where it does not.

    def _decided(self, test: ast.expr, names: _Names) -> bool | None:
        match test:
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                inner = self._decided(operand, names)
                return None if inner is None else not inner
            case ast.BoolOp(op=op, values=values):
                stop = isinstance(op, ast.Or)
                each = [self._decided(value, names) for value in values]
                return stop if stop in each else None if None in each else not stop
            case ast.Compare(
                ops=[op],
                comparators=[
                    ast.Attribute(
                        value=ast.Name(id="Kind"), attr="TENSORRT" | "TENSORRT_RTX" as kind
                    )
                ],
            ):
                is_this = kind.lower() == self._surface.module
                return is_this is isinstance(op, ast.Is | ast.Eq)
            case ast.Call(func=ast.Name(id="hasattr"), args=[value, ast.Constant(value=str(name))]):
                owners = [base for own in self._value(value, names) if (base := _class_of(own))]
                has = [self._surface.member(owner, name) is not None for owner in owners]
                return any(has) if has else None
        return None

    # Arguments.

    def _check_arguments(self, node: ast.Call, called: _Values) -> None:
        forms = [form for form in called if isinstance(form, Form) and form.kind != "value"]
        is_starred = any(isinstance(argument, ast.Starred) for argument in node.args)
        if not forms or is_starred or any(word.arg is None for word in node.keywords):
            return
        words = {word.arg for word in node.keywords if word.arg}
        ways = dict.fromkeys(way for form in forms for way in self._ways_to_call(form))
        if not any(way.accepts(len(node.args), words) for way in ways):
            takes = " or ".join(way.to_text() for way in ways)
            problem = f"takes {takes}" if ways else "cannot be called"
            self.uses.add(Use(node.lineno, ast.unparse(node.func), problem))

    def _ways_to_call(self, form: Form) -> list[Form]:
        if form.kind == "class":
            return self._surface.member(form.gives, "__init__") or []
        return [form]

    def _check_overrides(self, made: _Class) -> None:
        """A public method that this file never calls is there for TensorRT to call."""
        for node in _methods(made):
            forms = self._surface.member(made.base, node.name)
            if node.name.startswith("_") or (forms is None and node.name in self._called):
                continue
            count = len(_Function(node, made.names, _Instance(made)).parameters())
            fits = any(form.accepts(count, set()) for form in forms or [])
            takes = " or ".join(form.to_text() for form in forms or [])
            problem = "" if fits else f"takes {takes}" if forms else "is missing"
            self.uses.add(Use(node.lineno, f"{made.base}.{node.name}", problem))


def _methods(made: _Class) -> list[ast.FunctionDef]:
    return [node for node in made.node.body if isinstance(node, ast.FunctionDef)]


def _own_members(owner: _Value, name: str) -> _Values | None:
    """What our own class, or its `self`, has under that name; None where it has nothing."""
    if not isinstance(owner, _Instance):
        return None
    made = owner.made_of
    methods = [node for node in _methods(made) if node.name == name]
    if name not in made.attributes and not methods:
        return None
    return made.attributes.get(name, []) + [_Function(n, made.names, owner) for n in methods]


def _class_of(value: _Value) -> str:
    """The class of TensorRT's that the value is, or is of, or is derived from; else empty."""
    match value:
        case _Instance(made_of=_Class(base=base)):
            return base
        case Form(kind="value" | "class", gives=gives):
            return gives
    return ""


def _is_any(annotation: ast.expr | None) -> bool:
    return isinstance(annotation, ast.Name) and annotation.id == "Any"
