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
    """One step: {x} is the value it works on, {v} a loop's name. The steps of a function come in ascending `rank`, one a rank.

    No two steps of a kind begin with the same word, and their order follows from what they are: a model of two million parameters learns
    which steps a docstring names, but not, in the time it has, to copy numbers or an order of its writer's choice.
    """

    rank: int
    words: str
    code: str


STEPS: dict[str, tuple[Step, ...]] = {
    "numbers": (
        Step(2, "increase each by 7", "[{v} + 7 for {v} in {x}]"),
        Step(2, "lower each by 4", "[{v} - 4 for {v} in {x}]"),
        Step(2, "double each", "[{v} * 2 for {v} in {x}]"),
        Step(2, "halve each", "[{v} // 2 for {v} in {x}]"),
        Step(2, "square each", "[{v} * {v} for {v} in {x}]"),
        Step(2, "negate each", "[-{v} for {v} in {x}]"),
        Step(1, "keep those above 9", "[{v} for {v} in {x} if {v} > 9]"),
        Step(1, "reject those above 40", "[{v} for {v} in {x} if {v} <= 40]"),
        Step(1, "skip those equal to 6", "[{v} for {v} in {x} if {v} != 6]"),
        Step(3, "sort them", "sorted({x})"),
        Step(3, "reverse them", "{x}[::-1]"),
        Step(4, "drop the first", "{x}[1:]"),
        Step(4, "take the first 2", "{x}[:2]"),
        Step(4, "repeat them once", "{x} * 2"),
        Step(4, "append the number 8", "{x} + [8]"),
        Step(5, "sum them", "sum({x})"),
        Step(5, "count them", "len({x})"),
    ),
    "number": (
        Step(2, "increase it by 7", "{x} + 7"),
        Step(2, "lower it by 4", "{x} - 4"),
        Step(3, "double it", "{x} * 2"),
        Step(3, "halve it", "{x} // 2"),
        Step(3, "divide it by 6 and take the rest", "{x} % 6"),
        Step(3, "square it", "{x} * {x}"),
        Step(1, "negate it", "-{x}"),
        Step(1, "ignore its sign", "abs({x})"),
        Step(4, "cap it at 50", "min({x}, 50)"),
        Step(4, "raise it to 20 at least", "max({x}, 20)"),
        Step(5, "write it as text", "str({x})"),
    ),
    "text": (
        Step(1, "raise it to upper case", "{x}.upper()"),
        Step(1, "lower it to lower case", "{x}.lower()"),
        Step(1, "swap its case", "{x}.swapcase()"),
        Step(4, "reverse it", "{x}[::-1]"),
        Step(4, "repeat it once", "{x} * 2"),
        Step(2, "append an x", '{x} + "x"'),
        Step(2, "prepend a y", '"y" + {x}'),
        Step(3, "erase every a", '{x}.replace("a", "")'),
        Step(3, "drop the first letter", "{x}[1:]"),
        Step(3, "take the first 3 letters", "{x}[:3]"),
        Step(4, "join its letters by dashes", '"-".join({x})'),
        Step(5, "find the place of the first e", '{x}.find("e")'),
        Step(5, "count its letters", "len({x})"),
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
        text, last = "", self.argument
        for order, line, step in zip(ORDINALS, self.lines, self.steps, strict=False):
            text += f"    # {line}\n    {order} = {step.code.format(x=last, v=self.loop_name)}\n"
            last = order
        return text + f"    return {last}\n"

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
    ranks = source.sample(sorted({step.rank for step in STEPS[kind]}), length)
    return tuple(source.choice([step for step in STEPS[kind] if step.rank == rank]) for rank in sorted(ranks))


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
        if grams(function.prompt + function.body, width) & kept_apart or shape(function.head + function.body) in shapes:
            continue
        count -= 1
        yield function
