"""Every regular expression of the project, and texts that make one take its time."""

import ast
import importlib
import re
import time
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from re import _constants as codes  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from types import ModuleType
from typing import Any, NamedTuple

ROOT = Path(__file__).parent.parent
PACKAGES = ("gateway", "rt_embed", "search", "shared", "worker")
FUNCTIONS = {"compile", "search", "match", "fullmatch", "findall", "finditer", "split", "sub", "subn"}
PASSED_ON = {("gateway/api/validation.py", "node.pattern"), ("shared/settings/setting_types.py", "pattern")}
"""Where a pattern is a parameter: `pattern=` and `matching(...)` are looked at where they are called."""
SHORT, LONG = 512, 8192
GROWTH = 64
"""Sixteen times the text may take at most so many times the time; quadratic growth would be 256."""
FLOOR = 40e-6


ANCHORED = {"match", "fullmatch", "matching"}


class Found(NamedTuple):
    """A pattern, where it stands, and whether it is only tried from the beginning of a text."""

    place: str
    pattern: re.Pattern[Any]
    anchored: bool


class Call(NamedTuple):
    """A call that a pattern is given to."""

    node: ast.Call
    function: str
    pattern: ast.expr


def patterns() -> Iterator[Found]:
    """All patterns of the sources. Raises AssertionError for one that cannot be seen from outside."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            yield from _of_module(path)


def _of_module(path: Path) -> Iterator[Found]:
    name = path.relative_to(ROOT)
    tree = ast.parse(path.read_text())
    calls = [call for node in ast.walk(tree) if isinstance(node, ast.Call) and (call := _call(node))]
    if not calls:
        return
    module = _imported(name)
    constants = {id(at.value) for at in tree.body if isinstance(at, ast.Assign)} if module else set()
    for constant, value in vars(module).items() if module else ():
        if isinstance(value, re.Pattern):
            yield Found(f"{name}:{constant}", value, _only_anchored(tree, constant))
    for node, function, expression in calls:
        if id(node) in constants or (str(name), ast.unparse(expression)) in PASSED_ON:
            continue
        text = _text(expression, module)
        place = f"{name}:{node.lineno}"
        assert text is not None, f"{place}: make the pattern a constant of the module"
        yield Found(place, re.compile(text), function in ANCHORED)


def _call(node: ast.Call) -> Call | None:
    for keyword in node.keywords:
        if keyword.arg == "pattern":
            return Call(node, "search", keyword.value)
    called = node.func
    name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
    of_re = isinstance(called, ast.Attribute) and ast.unparse(called.value) == "re" and name in FUNCTIONS
    return Call(node, name, node.args[0]) if node.args and (of_re or name == "matching") else None


def _only_anchored(tree: ast.Module, constant: str) -> bool:
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    used = {node.attr for node in nodes if isinstance(node.value, ast.Name) and node.value.id == constant}
    return bool(used) and used <= ANCHORED


def _imported(path: Path) -> ModuleType | None:
    try:
        return importlib.import_module(".".join(path.with_suffix("").parts))
    except ImportError:  # the packages of a GPU
        return None


def _text(expression: ast.expr, module: ModuleType | None) -> str | bytes | None:
    if isinstance(expression, ast.Constant) and isinstance(expression.value, str | bytes):
        return expression.value
    if isinstance(expression, ast.Name):
        value = getattr(module, expression.id, None)
        return value if isinstance(value, str | bytes) else None
    return None


def slow(found: Found) -> str | None:
    """A text that makes the pattern take more than linear time, as it is repeated; None if there is none."""
    for before, pump in _attacks(found.pattern):
        if _grows(found, before, pump) and all(_grows(found, before, pump) for _ in range(3)):
            return f"{before!r} + {pump!r} * n"
    return None


def _grows(found: Found, before: str, pump: str) -> bool:
    short, long = (_seconds(found, before, pump, size) for size in (SHORT, LONG))
    return long > GROWTH * max(short, FLOOR)


def _seconds(found: Found, before: str, pump: str, size: int) -> float:
    """Processor time of looking for the pattern in a text of `size` characters, after which nothing fits."""
    pattern = found.pattern
    text: Any = before + (pump * (size // len(pump) + 1))[:size] + "\0"
    if isinstance(pattern.pattern, bytes):
        text = text.encode("latin-1", "replace")
    began = time.thread_time()
    for _ in () if found.anchored else pattern.finditer(text):
        pass
    pattern.fullmatch(text)
    return time.thread_time() - began


def _attacks(pattern: re.Pattern[Any]) -> Iterator[tuple[str, str]]:
    """What to begin with, and what to repeat: pieces of what the pattern itself asks for."""
    text = pattern.pattern if isinstance(pattern.pattern, str) else pattern.pattern.decode("latin-1")
    letters: dict[str, None] = {}
    prefixes: dict[str, None] = {"": None}
    repeated: dict[tuple[str, str], None] = {}
    _walk(parser.parse(text, pattern.flags & re.VERBOSE), "", letters, prefixes, repeated)
    some = [*letters][:10]
    yield from repeated
    yield from (("", prefix) for prefix in prefixes if prefix)
    yield from (("", one + other) for one, other in product(some, some))


def _walk(
    tree: Any,
    before: str,
    letters: dict[str, None],
    prefixes: dict[str, None],
    repeated: dict[tuple[str, str], None],
) -> str:
    """The text before what follows `tree`, with one example of it."""
    for code, value in tree:
        if code is codes.LITERAL:
            before += chr(value)
            letters[chr(value)] = None
        elif code is codes.IN or code is codes.NOT_LITERAL or code is codes.ANY:
            examples = _examples(code, value)
            letters.update(dict.fromkeys(examples))
            before += examples[0]
        elif code in (codes.MAX_REPEAT, codes.MIN_REPEAT, codes.POSSESSIVE_REPEAT):
            after = _walk(value[2], before, letters, prefixes, repeated)
            for begin in ("", before):
                if after != before:
                    repeated[begin, after[len(before) :]] = None
            before = after
        elif code is codes.SUBPATTERN:
            before = _walk(value[3], before, letters, prefixes, repeated)
        elif code is codes.ATOMIC_GROUP:
            before = _walk(value, before, letters, prefixes, repeated)
        elif code is codes.BRANCH:
            before, *_ = [_walk(branch, before, letters, prefixes, repeated) for branch in value[1]]
        prefixes[before] = None
    return before


def _examples(code: Any, value: Any) -> list[str]:
    """Letters that a class takes."""
    if code is codes.ANY:
        return ["a"]
    pattern = re.compile("[^" + re.escape(chr(value)) + "]") if code is codes.NOT_LITERAL else None
    candidates = [chr(n) for n in (*range(97, 123), *range(32, 97), *range(123, 127), 9, 10)]
    if pattern:
        return [letter for letter in candidates if pattern.match(letter)][:2]
    found = [letter for letter in candidates if _takes(value, letter)]
    found = found or [chr(each[0] if code is codes.RANGE else each) for code, each in value]  # beyond ASCII
    return [*dict.fromkeys([found[0], found[-1], *[f for f in found if not f.isalnum()][:3]])]


def _takes(items: Any, letter: str) -> bool:
    negated, number = items[0][0] is codes.NEGATE, ord(letter)
    for code, value in items:
        if code is codes.LITERAL and value == number:
            return not negated
        if code is codes.RANGE and value[0] <= number <= value[1]:
            return not negated
        if code is codes.CATEGORY and _category(value, letter):
            return not negated
    return bool(negated)


def _category(value: Any, letter: str) -> bool:
    tests: dict[Any, Callable[[str], bool]] = {
        codes.CATEGORY_DIGIT: str.isdigit,
        codes.CATEGORY_SPACE: str.isspace,
        codes.CATEGORY_WORD: lambda text: text.isalnum() or text == "_",
    }
    opposite = {
        codes.CATEGORY_NOT_DIGIT: codes.CATEGORY_DIGIT,
        codes.CATEGORY_NOT_SPACE: codes.CATEGORY_SPACE,
        codes.CATEGORY_NOT_WORD: codes.CATEGORY_WORD,
    }
    return tests[value](letter) if value in tests else not tests[opposite[value]](letter)
