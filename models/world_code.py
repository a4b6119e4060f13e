"""Small Python functions made of steps: what they do in words, the code, and HumanEval-form problems that no trained text solves."""

import ast
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

ORDINALS = ("first", "second", "third")
VERBS = ["make", "turn", "shape", "sort", "move", "build", "mix", "pick", "find", "bend", "fold", "lift"]
NOUNS = ["stone", "river", "cloud", "field", "tower", "garden", "basket", "window", "ladder", "bottle", "feather", "lantern"]
# Names differ from function to function, so that what one learns is to use the names that are there.
ARGUMENTS = {
    "numbers": ["values", "numbers", "items", "data", "readings", "scores"],
    "number": ["number", "amount", "size", "total", "level", "start"],
    "text": ["text", "word", "line", "title", "phrase", "label"],
}
LOOP_NAMES = ["value", "item", "entry", "each", "one", "part"]


@dataclass(frozen=True)
class Step:
    """One step: {c} is a constant from `constants`, {x} the value it works on, {v} a loop's name. `gives` is the kind of its result."""

    words: str
    code: str
    constants: tuple[str, ...] = ("",)
    gives: str = ""


DIGITS = tuple("23456789")
NUMBERS = tuple(map(str, range(2, 60)))
LETTERS = tuple("abcdefghiklmnoprst")
STEPS: dict[str, tuple[Step, ...]] = {
    "numbers": (
        Step("add {c} to each", "[{v} + {c} for {v} in {x}]", NUMBERS),
        Step("subtract {c} from each", "[{v} - {c} for {v} in {x}]", NUMBERS),
        Step("multiply each by {c}", "[{v} * {c} for {v} in {x}]", DIGITS),
        Step("divide each by {c}", "[{v} // {c} for {v} in {x}]", DIGITS),
        Step("square each", "[{v} * {v} for {v} in {x}]"),
        Step("negate each", "[-{v} for {v} in {x}]"),
        Step("keep those above {c}", "[{v} for {v} in {x} if {v} > {c}]", NUMBERS),
        Step("keep those below {c}", "[{v} for {v} in {x} if {v} < {c}]", NUMBERS),
        Step("keep those not equal to {c}", "[{v} for {v} in {x} if {v} != {c}]", NUMBERS),
        Step("sort", "sorted({x})"),
        Step("reverse", "{x}[::-1]"),
        Step("drop the first {c}", "{x}[{c}:]", DIGITS[:2]),
        Step("keep the first {c}", "{x}[:{c}]", DIGITS[:3]),
        Step("repeat {c} times", "{x} * {c}", DIGITS[:2]),
        Step("append {c}", "{x} + [{c}]", NUMBERS),
        Step("sum", "sum({x})", gives="number"),
        Step("count", "len({x})", gives="number"),
    ),
    "number": (
        Step("add {c}", "{x} + {c}", NUMBERS),
        Step("subtract {c}", "{x} - {c}", NUMBERS),
        Step("multiply by {c}", "{x} * {c}", DIGITS),
        Step("divide by {c}", "{x} // {c}", DIGITS),
        Step("take the remainder by {c}", "{x} % {c}", DIGITS),
        Step("square", "{x} * {x}"),
        Step("negate", "-{x}"),
        Step("drop the sign", "abs({x})"),
        Step("limit to at most {c}", "min({x}, {c})", NUMBERS),
        Step("raise to at least {c}", "max({x}, {c})", NUMBERS),
        Step("count down to {c}", "list(range({x}, {c}, -1))", NUMBERS, gives="numbers"),
    ),
    "text": (
        Step("make it upper case", "{x}.upper()"),
        Step("make it lower case", "{x}.lower()"),
        Step("swap the case", "{x}.swapcase()"),
        Step("reverse", "{x}[::-1]"),
        Step("repeat {c} times", "{x} * {c}", DIGITS[:3]),
        Step("append {c}", '{x} + "{c}"', LETTERS),
        Step("prepend {c}", '"{c}" + {x}', LETTERS),
        Step("remove every {c}", '{x}.replace("{c}", "")', LETTERS),
        Step("drop the first {c}", "{x}[{c}:]", DIGITS[:2]),
        Step("keep the first {c}", "{x}[:{c}]", DIGITS[:4]),
        Step("put a dash between letters", '"-".join({x})'),
        Step("count every {c}", '{x}.count("{c}")', LETTERS, gives="number"),
        Step("count", "len({x})", gives="number"),
    ),
}


@dataclass(frozen=True)
class Function:
    """A function as text: `prompt` is the head with its docstring, `body` the rest."""

    name: str
    kind: str
    argument: str
    loop_name: str
    steps: tuple[tuple[Step, str], ...]
    example: Any

    @property
    def lines(self) -> list[str]:
        """What is done, a line a step."""
        return [f"{order.capitalize()} {step.words.format(c=c)}." for order, (step, c) in zip(ORDINALS, self.steps, strict=False)]

    @property
    def head(self) -> str:
        return f"def {self.name}({self.argument}):\n"

    @property
    def prompt(self) -> str:
        lines = self.lines
        if self.example is not None:
            lines = [*lines, f">>> {self.name}({self.example!r})", repr(self(self.example))]
        return self.head + "".join(f"    {line}\n" for line in ['"""', *lines, '"""'])

    @property
    def body(self) -> str:
        """The code, each step under the line that asks for it: a small model writes down what comes next before it does it."""
        text, last = "", self.argument
        for order, line, (step, constant) in zip(ORDINALS, self.lines, self.steps, strict=False):
            text += f"    # {line}\n    {order} = {step.code.format(c=constant, x=last, v=self.loop_name)}\n"
            last = order
        return text + f"    return {last}\n"

    def __call__(self, value: Any) -> Any:
        for step, constant in self.steps:
            value = eval(step.code.format(c=constant, x="x", v="v"), {"x": value})
        return value


def shape(source: str) -> str:
    """The syntax tree of `source` without docstrings, every identifier and every constant replaced by one placeholder."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        for name, value in ast.iter_fields(node):
            if isinstance(node, ast.FunctionDef) and name == "body" and ast.get_docstring(node) is not None:
                node.body = node.body[1:]
            elif isinstance(value, str) and name in ("id", "arg", "attr", "name"):
                setattr(node, name, "_")
        if isinstance(node, ast.Constant):
            node.value = "_"
    return ast.dump(tree)


def grams(text: str, width: int) -> set[str]:
    """Every run of `width` words in `text`."""
    words = re.findall(r"\w+", text.lower())
    return {" ".join(words[start : start + width]) for start in range(len(words) - width + 1)}


def _argument(source: random.Random, kind: str) -> Any:
    if kind == "numbers":
        return [source.choice((source.randint(1, 9), source.randint(1, 80))) for _ in range(source.randint(3, 4))]
    if kind == "number":
        return source.randint(2, 80)
    return "".join(source.choice("abcdeimnorst" if source.random() < 0.7 else "ABCDEMNORST") for _ in range(source.randint(4, 6)))


def _steps(source: random.Random, kind: str, length: int) -> tuple[tuple[Step, str], ...]:
    steps: list[tuple[Step, str]] = []
    while len(steps) < length:
        step = source.choice(STEPS[kind])
        if step in (used for used, _ in steps) or (step.gives and len(steps) + 1 < length and source.random() < 0.7):
            continue
        steps.append((step, source.choice(step.constants)))
        kind = step.gives or kind
    return tuple(steps)


def draw(source: random.Random, length: int, with_example: bool) -> Function:
    """A random function of `length` steps, none twice."""
    kind = source.choice(tuple(STEPS))
    name = f"{source.choice(VERBS)}_{source.choice(NOUNS)}"
    function = Function(name, kind, source.choice(ARGUMENTS[kind]), source.choice(LOOP_NAMES), _steps(source, kind, length), None)
    example = _argument(source, kind)
    # A long answer (a text repeated four times) would fill the docstring with letters that teach nothing.
    return replace(function, example=example) if with_example and len(repr(function(example))) <= 16 else function


def _cases(source: random.Random, function: Function, count: int) -> list[Any] | None:
    """`count` arguments for which every step matters (leaving any out changes an answer), or None where none were found."""
    arguments = [_argument(source, function.kind) for _ in range(count)]
    answers = [function(argument) for argument in arguments]
    for left_out in range(len(function.steps)):
        rest = function.steps[:left_out] + function.steps[left_out + 1 :]
        try:
            if [replace(function, steps=rest)(argument) for argument in arguments] == answers:
                return None
        except TypeError:
            continue
    return arguments if len({repr(answer) for answer in answers}) > 2 else None


def problems(source: random.Random, count: int) -> Iterator[tuple[Function, dict[str, Any]]]:
    """`count` functions of two and three steps with different shapes, each with its HumanEval record (without `task_id`)."""
    shapes = set[str]()
    while len(shapes) < count:
        function = draw(source, 3 if source.random() < 0.75 else 2, with_example=True)
        tree = shape(function.head + function.body)
        arguments = None if function.example is None or tree in shapes else _cases(source, function, 6)
        if arguments is None:
            continue
        shapes.add(tree)
        asserts = "".join(f"    assert candidate({argument!r}) == {function(argument)!r}\n" for argument in arguments)
        record = {"prompt": function.prompt, "entry_point": function.name, "canonical_solution": function.body}
        yield function, record | {"test": f"def check(candidate):\n{asserts}"}


def lessons(source: random.Random, count: int, exam: list[Function], width: int = 10) -> Iterator[Function]:
    """`count` functions to learn from: none has the shape of a function in `exam`, or `width` words in a row of its text."""
    shapes = {shape(function.head + function.body) for function in exam}
    kept_apart = set[str]().union(*(grams(function.prompt + function.body, width) for function in exam))
    while count:
        function = draw(source, source.choice((1, 2, 2, 3, 3, 3, 3)), with_example=source.random() < 0.2)
        if shape(function.head + function.body) in shapes or grams(function.prompt + function.body, width) & kept_apart:
            continue
        count -= 1
        yield function
