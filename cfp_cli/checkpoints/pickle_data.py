"""Read the data of a pickle without importing or calling anything that the pickle names.

A pickle is a program for a stack machine. This reader runs the instructions that build numbers, text, lists, dicts and
tuples. A class or function is only a `Name` to it. Where a pickle calls one, the reader keeps the arguments in an
`Opaque` object, except for the names in `handlers`, which are functions of this project. So the file decides nothing
about which code runs. The instructions are those of Python's `pickletools`.
"""

from __future__ import annotations

import pickletools
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import IO, Any

_LITERALS = frozenset(
    (
        *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
        *("STRING", "BINSTRING", "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
        *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    )
)
_CONSTANTS: Mapping[str, Any] = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_CONTAINERS: Mapping[str, Callable[[], Any]] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": set}
_MARKED: Mapping[str, Callable[[list[Any]], Any]] = {"TUPLE": tuple, "LIST": list}
_SHORT_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_MAX_KEY = 10_000
# Parts of keys and of arguments that a pickle may contain, and more for each of its instructions.
_FREE_PARTS, _PARTS_PER_INSTRUCTION = 1_000_000, 50
_IGNORED = frozenset(("PROTO", "FRAME"))


class CostlyPickleError(ValueError):
    """A small pickle asks for so much work that reading it would take hours."""


@dataclass(frozen=True)
class Name:
    """A class or function that a pickle names; it is never imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False)
class Opaque:
    """An object of a class that is not loaded, as plain data.

    Attributes:
        kind: its class, or the function that returned it.
        arguments: arguments of that call.
        state: its attributes, or what it pickled instead.
        items: its items, if its class is derived from dict.
        elements: its elements, if its class is derived from list or set.
    """

    kind: str
    arguments: tuple[Any, ...] = ()
    state: Any = None
    items: dict[Any, Any] = field(default_factory=dict)
    elements: list[Any] = field(default_factory=list)


Handlers = Mapping[str, Callable[..., Any]]

HANDLERS: Handlers = {
    "collections.OrderedDict": lambda pairs=(): OrderedDict((_key(key), value) for key, value in pairs),
    "collections.defaultdict": lambda *_: {},
    "builtins.set": lambda items=(): set(map(_key, items)),
    "__builtin__.set": lambda items=(): set(map(_key, items)),
    # How the protocols before 4 store frozen sets, and those before 3 store bytes.
    "builtins.frozenset": lambda items=(): frozenset(map(_key, items)),
    "__builtin__.frozenset": lambda items=(): frozenset(map(_key, items)),
    "__builtin__.bytes": lambda: b"",
    "_codecs.encode": lambda text, _encoding: text.encode("latin1"),
}


def read_pickle(file: IO[bytes], persistent: Callable[[Any], Any], handlers: Handlers = HANDLERS) -> Any:
    """Read one pickle from the position of a file, and leave the position behind it.

    Args:
        file: an open binary file.
        persistent: returns the object of a persistent id, such as a storage of tensors.
        handlers: functions that replace those that the pickle names, by full name.

    Returns:
        Plain data, `Name`, `Opaque`, and what `persistent` and `handlers` return.

    Raises:
        CostlyPickleError: a key of a dict, or the arguments of calls, have too many parts.
        ValueError: the pickle is damaged or contains an unknown instruction. Damaged pickles also raise IndexError,
            KeyError and TypeError.
    """
    return _Machine(persistent, handlers).run(file)


class _Machine:
    """The stack machine of a pickle."""

    def __init__(self, persistent: Callable[[Any], Any], handlers: Handlers) -> None:
        self.persistent, self.handlers = persistent, handlers
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.budget = _FREE_PARTS

    def run(self, file: IO[bytes]) -> Any:
        for instruction, argument, _ in pickletools.genops(file):
            name = instruction.name
            self.budget += _PARTS_PER_INSTRUCTION
            if name in _LITERALS:
                self.stack.append(argument)
            elif name in _CONSTANTS:
                self.stack.append(_CONSTANTS[name])
            elif name in _CONTAINERS:
                self.stack.append(_CONTAINERS[name]())
            elif name in _MARKED:
                self.stack.append(_MARKED[name](self._marked()))
            elif name in _SHORT_TUPLES:
                self.stack.append(tuple(self._take(_SHORT_TUPLES[name])))
            elif name == "STOP":
                break
            elif name not in _IGNORED:
                step = getattr(self, f"_{name.lower()}", None)
                if step is None:
                    raise ValueError(f"unknown instruction {name}")
                step(argument)
        return self.stack.pop()

    def _key(self, value: Any) -> Any:
        """Return a key, and count its parts: a pickle can use the same long key thousands of times."""
        if isinstance(value, tuple | frozenset):
            limit = min(_MAX_KEY, self.budget)
            self.budget -= _count_parts(value, limit, "a key has too many parts")
        return value

    def _take(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise ValueError("the stack is too short")
        taken = self.stack[-count:]
        del self.stack[-count:]
        return taken

    def _marked(self) -> list[Any]:
        start = self.marks.pop()
        taken = self.stack[start:]
        del self.stack[start:]
        return taken

    def _mark(self, _: Any) -> None:
        self.marks.append(len(self.stack))

    def _pop(self, _: Any) -> None:
        self.stack.pop()

    def _pop_mark(self, _: Any) -> None:
        self._marked()

    def _dup(self, _: Any) -> None:
        self.stack.append(self.stack[-1])

    def _get(self, index: int) -> None:
        self.stack.append(self.memo[index])

    _binget = _long_binget = _get

    def _put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    _binput = _long_binput = _put

    def _memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def _append(self, _: Any) -> None:
        (element,) = self._take(1)
        _elements(self.stack[-1]).append(element)

    def _appends(self, _: Any) -> None:
        elements = self._marked()
        _elements(self.stack[-1]).extend(elements)

    def _frozenset(self, _: Any) -> None:
        self.stack.append(frozenset(map(self._key, self._marked())))

    def _dict(self, _: Any) -> None:
        items = self._marked()
        self.stack.append(dict(zip(map(self._key, items[::2]), items[1::2], strict=True)))

    def _additems(self, _: Any) -> None:
        elements = self._marked()
        target = self.stack[-1]
        if isinstance(target, set):
            target.update(map(self._key, elements))
        else:
            _elements(target).extend(elements)

    def _setitem(self, _: Any) -> None:
        key, value = self._take(2)
        _items(self.stack[-1])[self._key(key)] = value

    def _setitems(self, _: Any) -> None:
        pairs = self._marked()
        _items(self.stack[-1]).update(zip(map(self._key, pairs[::2]), pairs[1::2], strict=True))

    def _persid(self, identity: Any) -> None:
        self.stack.append(self.persistent(identity))

    def _binpersid(self, _: Any) -> None:
        self.stack.append(self.persistent(self.stack.pop()))

    def _global(self, names: str) -> None:
        module, _, name = names.partition(" ")
        self.stack.append(Name(module, name))

    def _stack_global(self, _: Any) -> None:
        module, name = self._take(2)
        self.stack.append(Name(str(module), str(name)))

    def _call(self, function: Any, arguments: Any) -> Any:
        if not isinstance(arguments, tuple):
            raise ValueError("the arguments of a call are not a tuple")
        # A handler may copy its arguments, and a pickle can pass the same list to thousands of calls.
        if isinstance(function, Name) and str(function) in self.handlers:
            self.budget -= _count_parts(arguments, self.budget, "the arguments of its calls have too many parts")
        return call(function, arguments, self.handlers)

    def _reduce(self, _: Any) -> None:
        function, arguments = self._take(2)
        self.stack.append(self._call(function, arguments))

    _newobj = _reduce

    def _newobj_ex(self, _: Any) -> None:
        function, arguments, _ = self._take(3)
        self.stack.append(self._call(function, arguments))

    def _inst(self, names: str) -> None:
        module, _, name = names.partition(" ")
        self.stack.append(self._call(Name(module, name), tuple(self._marked())))

    def _obj(self, _: Any) -> None:
        function, *arguments = self._marked()
        self.stack.append(self._call(function, tuple(arguments)))

    def _build(self, _: Any) -> None:
        (state,) = self._take(1)
        target = self.stack[-1]
        if isinstance(target, Opaque):
            target.state = state
        elif isinstance(target, OrderedDict) and isinstance(state, dict) and isinstance(state.get("_metadata"), dict):
            # The module versions of a state dict.
            target._metadata = state["_metadata"]  # type: ignore[attr-defined]


def _key(value: Any) -> Any:
    """Return a key of a dict or an element of a set, if Python can hash it in short time.

    A tuple that contains another one twice, which does so too, takes exponential time.
    """
    if isinstance(value, tuple | frozenset):
        _count_parts(value, _MAX_KEY, "a key has too many parts")
    return value


def _count_parts(value: Any, limit: int, problem: str) -> int:
    """Return the number of parts of nested tuples, lists and sets.

    Raises:
        CostlyPickleError: there are more than `limit`.
    """
    waiting, seen = [value], 0
    while waiting:
        part = waiting.pop()
        seen += 1
        if seen + len(waiting) > limit:
            raise CostlyPickleError(problem)
        if isinstance(part, tuple | frozenset | list | set):
            waiting.extend(part)
    return seen


def call(function: Any, arguments: tuple[Any, ...], handlers: Handlers) -> Any:
    """Return what a handler makes of the arguments, or an `Opaque` object for a name without handler."""
    handler = handlers.get(str(function)) if isinstance(function, Name) else None
    if handler is not None:
        return handler(*arguments)
    return Opaque(str(function) if isinstance(function, Name) else type(function).__name__, arguments)


def _elements(target: Any) -> list[Any]:
    if isinstance(target, Opaque):
        return target.elements
    if type(target) is not list:
        raise ValueError(f"a {type(target).__name__} takes no elements")
    return target


def _items(target: Any) -> dict[Any, Any]:
    if isinstance(target, Opaque):
        return target.items
    if not isinstance(target, dict):
        raise ValueError(f"a {type(target).__name__} takes no items")
    return target
