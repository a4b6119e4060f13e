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
    "numbers": ["values", "numbers", "items", "data", "readings", "scores", "sizes", "points", "marks", "prices", "counts", "weights"],
    "number": ["number", "amount", "size", "total", "level", "start", "price", "count", "weight", "score", "age", "height"],
    "text": ["text", "word", "line", "title", "phrase", "label", "name", "message", "answer", "note", "sentence", "letter"],
}
LOOP_NAMES = [
    "value",
    "item",
    "entry",
    "each",
    "one",
    "part",
    "unit",
    "piece",
    "element",
    "member",
    "point",
    "mark",
    "cell",
    "this",
    "current",
    "term",
    "figure",
    "thing",
    "single",
    "record",
    "sample",
    "step",
]


@dataclass(frozen=True)
class Step:
    """One step: {x} is the value it works on, {v} a loop's name; after a `last` one comes no other.

    No two steps of a kind begin with the same word: a model of two million parameters learns to look up the word after "First", but not,
    in the time it has, to copy any number from anywhere.
    """

    words: str
    code: str
    last: bool = False


STEPS: dict[str, tuple[Step, ...]] = {
    "numbers": (
        Step("increase each by 7", "[{v} + 7 for {v} in {x}]"),
        Step("lower each by 4", "[{v} - 4 for {v} in {x}]"),
        Step("double each", "[{v} * 2 for {v} in {x}]"),
        Step("halve each", "[{v} // 2 for {v} in {x}]"),
        Step("square each", "[{v} * {v} for {v} in {x}]"),
        Step("negate each", "[-{v} for {v} in {x}]"),
        Step("keep those above 9", "[{v} for {v} in {x} if {v} > 9]"),
        Step("reject those above 40", "[{v} for {v} in {x} if {v} <= 40]"),
        Step("skip those equal to 6", "[{v} for {v} in {x} if {v} != 6]"),
        Step("sort them", "sorted({x})"),
        Step("reverse them", "{x}[::-1]"),
        Step("drop the first", "{x}[1:]"),
        Step("take the first 2", "{x}[:2]"),
        Step("repeat them once", "{x} * 2"),
        Step("append the number 8", "{x} + [8]"),
        Step("sum them", "sum({x})", last=True),
        Step("count them", "len({x})", last=True),
    ),
    "number": (
        Step("increase it by 7", "{x} + 7"),
        Step("lower it by 4", "{x} - 4"),
        Step("double it", "{x} * 2"),
        Step("halve it", "{x} // 2"),
        Step("divide it by 6 and take the rest", "{x} % 6"),
        Step("square it", "{x} * {x}"),
        Step("negate it", "-{x}"),
        Step("ignore its sign", "abs({x})"),
        Step("cap it at 50", "min({x}, 50)"),
        Step("raise it to 20 at least", "max({x}, 20)"),
        Step("write it as text", "str({x})", last=True),
    ),
    "text": (
        Step("raise it to upper case", "{x}.upper()"),
        Step("lower it to lower case", "{x}.lower()"),
        Step("swap its case", "{x}.swapcase()"),
        Step("reverse it", "{x}[::-1]"),
        Step("repeat it once", "{x} * 2"),
        Step("append an x", '{x} + "x"'),
        Step("prepend a y", '"y" + {x}'),
        Step("erase every a", '{x}.replace("a", "")'),
        Step("drop the first letter", "{x}[1:]"),
        Step("take the first 3 letters", "{x}[:3]"),
        Step("join its letters by dashes", '"-".join({x})'),
        Step("find the place of the first e", '{x}.find("e")', last=True),
        Step("count its letters", "len({x})", last=True),
    ),
}


@dataclass(frozen=True)
class Function:
    """A function as text: `prompt` is the head with its docstring, `body` the rest."""

    name: str
    kind: str
    argument: str
    loop_name: str
    steps: tuple[Step, ...]
    example: Any

    @property
    def lines(self) -> list[str]:
        """What is done, a line a step."""
        return [f"{order.capitalize()} {step.words}." for order, step in zip(ORDINALS, self.steps, strict=False)]

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
        name, text = self.argument, ""
        for line, step in zip(self.lines, self.steps, strict=True):
            text += f"    # {line}\n    {name} = {step.code.format(x=name, v=self.loop_name)}\n"
        return f"{text}    return {name}\n"

    def __call__(self, value: Any) -> Any:
        for step in self.steps:
            value = eval(step.code.format(x="x", v="v"), {"x": value})
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


def _steps(source: random.Random, kind: str, length: int) -> tuple[Step, ...]:
    steps = source.sample([step for step in STEPS[kind] if not step.last], length)
    ends = [step for step in STEPS[kind] if step.last]
    return (*steps[:-1], source.choice(ends)) if source.random() < 0.2 else tuple(steps)


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
    """`count` functions of three steps with different shapes, each with its HumanEval record (without `task_id`)."""
    shapes = set[str]()
    while len(shapes) < count:
        function = draw(source, 3, with_example=True)
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
        function = draw(source, source.choice((1, 2, 2, 3, 3, 3, 3)), with_example=source.random() < 0.9)
        if grams(function.prompt + function.body, width) & kept_apart or shape(function.head + function.body) in shapes:
            continue
        count -= 1
        yield function
