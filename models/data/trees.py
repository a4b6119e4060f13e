"""The functions of a text in a form in which names, constants, annotations and what does nothing make no difference."""

import ast
import io
import keyword
import re
import tokenize
import warnings
from collections.abc import Iterator
from functools import cache
from html import unescape
from typing import Any

from models.data.markup import unescaped, without_tags

BLOCKS = ("body", "orelse", "finalbody", "handlers", "cases")
"""Where a statement holds other statements."""
FUNCTION = re.compile(r"^[ \t]*(?:async )?def ", re.MULTILINE)
PROMPT = r"^[ \t]*(?:>>>|\.\.\.:?|In \[\d+\]:|[>+]|\d+[:.|]?) ?"  # of an interactive session, a quotation, a diff; the number of a line
PROMPTS, TYPED = re.compile(PROMPT, re.MULTILINE), re.compile(PROMPT + "(?:async )?def ", re.MULTILINE)
ESCAPED = re.compile(r"^(?>.*?\bdef ).*:\s*+\\++n", re.MULTILINE)
QUOTED = re.compile(r"[\"'](?=(?:async )?def )")  # where a program begins in a string
LINES = re.compile(r'\\n",\s*+"')  # between those of a notebook
MARKED_UP = re.compile(r"<\w[^<>]*>\s*+(?:async )?def\b|&(?:lt|gt|quot|amp|#\d{2,3}|#x\w{2});")  # as in a page
WRAPPINGS = 3
"""How deep a program may stand in sessions, escaped strings and pages."""
NESTED = 20
"""How many functions deep the inside of a function may be where the text around it is no program."""
DEEP = 500
"""Levels of a tree from which on Python may refuse to parse a function, depending on who calls it (3,000 levels in Python 3.11)."""
IGNORED = frozenset(("returns", "annotation", "type_comment", "type_params", "decorator_list", "ctx"))


def trees(text: str) -> Iterator[str]:
    """Yield the form of every function in the text: also in fences, in prose, at a prompt, escaped as in JSON, or marked up as in HTML."""
    for unwrapped in _unwrapped(text) if "def" in text else ():
        if FUNCTION.search(unwrapped):
            yield from filter(None, _forms(unwrapped))


def _unwrapped(text: str) -> Iterator[str]:
    """The text, and what it is without prompts, without escapes and without HTML, up to WRAPPINGS times."""
    yield text
    found = [text]
    for _ in range(WRAPPINGS):
        found = [new for one in found for new in (*_without_prompts(one), *_without_escapes(one), *_without_markup(one))]
        yield from found


def _without_prompts(text: str) -> Iterator[str]:
    if TYPED.search(text):
        yield PROMPTS.sub("", text)


def _without_escapes(text: str) -> Iterator[str]:
    if "\\n" in text and ESCAPED.search(text):
        yield QUOTED.sub('"\n', unescaped(LINES.sub(r"\\n", text)))


def _without_markup(text: str) -> Iterator[str]:
    if MARKED_UP.search(text):
        yield unescape(without_tags(text, "\n"))


def _forms(text: str) -> Iterator[str]:
    """The forms of a text's functions: of a program all, else those of its fenced blocks and of the parts that begin with def."""
    program = _parsed(text)
    if program is not None:
        yield from _forms_of(program, text)
        return
    for part in text.split("```")[1:]:
        block = part.partition("\n")[2]
        if FUNCTION.search(block) and (program := _parsed(block)) is not None:
            yield from _forms_of(program, block)
    yield from _forms_of_definitions(text)


def _forms_of_definitions(text: str) -> Iterator[str]:
    """The forms of the parts that begin with def, those inside a part that was a program left out."""
    lines, known = text.split("\n"), 0
    for start, end in _definitions(lines):
        if start < known:
            continue
        source = _at_the_margin(lines[start:end])
        program = _parsed(source)
        if program is not None:
            known = end
            yield from _forms_of(program, source)
        else:
            yield _token_form(source)


def _definitions(lines: list[str]) -> list[tuple[int, int]]:
    """Where each part begins and ends: a line that begins a function, with the deeper or empty lines below it.

    Those that hold more than NESTED functions inside one another are left out: no line is read more often than that.
    """
    found, open_ = [], list[list[int]]()  # start, margin, functions inside one another

    def close(end: int, margin: int) -> None:
        while open_ and open_[-1][1] >= margin:
            start, _, inside = open_.pop()
            if inside <= NESTED:
                found.append((start, end))
            if open_:
                open_[-1][2] = max(open_[-1][2], inside + 1)

    for number, line in enumerate(lines):
        body = line.lstrip()
        if body:
            close(number, len(line) - len(body))
            if FUNCTION.match(line):
                open_.append([number, len(line) - len(body), 0])
    close(len(lines), 0)
    return sorted(found)


def _at_the_margin(lines: list[str]) -> str:
    margin = len(lines[0]) - len(lines[0].lstrip())
    return "\n".join(line[margin:] for line in lines)


def _parsed(source: str) -> ast.Module | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of invalid escapes in other people's code
        try:
            return ast.parse(source)
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            return None


def _forms_of(program: ast.Module, source: str) -> Iterator[str]:
    """The forms of all functions of a program, those inside functions, classes and branches included; of deep ones both forms."""
    waiting, lines = list[Any]([program]), source.split("\n")
    while waiting:
        node = waiting.pop()
        waiting += [part for block in BLOCKS for part in getattr(node, block, ())]
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            form = normal_form(node)
            yield form
            if _is_deep(form):
                yield _token_form(_at_the_margin(lines[node.lineno - 1 : node.end_lineno]))


def normal_form(function: ast.AST) -> str:
    """Return the function's tree without annotations and what does nothing, every name and every constant replaced by one placeholder.

    Two functions that differ in names and constants only have one form.
    """
    out: list[str] = []
    waiting: list[ast.AST | str] = [function]
    while waiting:
        part = waiting.pop()
        if isinstance(part, str):
            out.append(part)
        else:
            out.append(type(part).__name__)
            waiting += _parts(part)[::-1]
    return "".join(out)


def _parts(node: ast.AST) -> list[ast.AST | str]:
    """A node's parts in brackets, each after its field: x[1:] and x[:1] differ by that."""
    parts: list[ast.AST | str] = []
    for field in _fields(type(node)):  # type: ignore[arg-type]
        value = getattr(node, field, None)
        if isinstance(value, ast.AST):
            parts += (f"({field} ", value, ")")
        elif isinstance(value, list):
            parts.append(f"({field}")
            for part in value:
                if not _is_idle(part):
                    parts += (" ", part if isinstance(part, ast.AST) else "_")
            parts.append(")")
    return parts


@cache
def _fields(kind: type[ast.AST]) -> tuple[str, ...]:
    """The fields of a node that shape a program; none for names and constants, which all look alike."""
    return () if kind in (ast.Name, ast.Constant) else tuple(field for field in kind._fields if field not in IGNORED)


def _is_idle(node: Any) -> bool:
    """Whether a statement does nothing: pass, or a constant by itself, as docstrings are."""
    return isinstance(node, ast.Pass) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))


def _is_deep(form: str) -> bool:
    """Whether the tree has more than DEEP levels."""
    if len(form) < 10 * DEEP:  # a level takes a kind, a field and a pair of brackets
        return False
    levels = deepest = 0
    for letter in form:
        levels += (letter == "(") - (letter == ")")
        deepest = max(deepest, levels)
    return deepest > DEEP


CONSTANTS = frozenset(("True", "False", "None"))
IDLE = (["pass"], ["_"])
LAYOUT = frozenset((tokenize.COMMENT, tokenize.NL))


def _token_form(source: str) -> str:
    """The form of a function that is too deep for Python's parser: its tokens; annotations count here. Empty where it is none."""
    statements: list[list[str]] = [[]]
    try:
        for token in tokenize.generate_tokens(io.StringIO(source).readline):
            if token.type == tokenize.ERRORTOKEN:
                return ""
            if token.type in (tokenize.INDENT, tokenize.DEDENT):
                statements[-1:] = [[tokenize.tok_name[token.type]], []]
            elif token.type == tokenize.NEWLINE:
                statements.append([])
            elif token.type not in LAYOUT:
                statements[-1].append(_token(token))
    except (SyntaxError, tokenize.TokenError):
        return ""
    return "\n".join(" ".join(statement) for statement in statements if statement not in IDLE)


def _token(token: tokenize.TokenInfo) -> str:
    is_name = token.type == tokenize.NAME and (not keyword.iskeyword(token.string) or token.string in CONSTANTS)
    return "_" if is_name or token.type in (tokenize.NUMBER, tokenize.STRING) else token.string
