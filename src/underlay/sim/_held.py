"""Functions of the standard library that objects and containers hold, as in ``self.clock = time.monotonic``.

This file knows how a dictionary, a list, an attribute and a cell are searched and set. It refuses to know which
functions are stood in for (``_stand_ins.py``).

The garbage collector names whoever refers to a function. It looks at all that lives, so it is asked once in a process:
what is made later, outside of a world, is not found. What is found lives as long as the process.
"""

from __future__ import annotations

import gc
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

Place: TypeAlias = Callable[[bool], None]
Made: TypeAlias = Mapping[int, Callable[..., Any]]


def held(originals: Sequence[object], by_id: Made) -> list[Place]:
    """The places where these are held, but for globals of modules and what is in classes and functions."""
    ours = _reached_by_us(by_id) | {id(getattr(module, "__dict__", None)) for module in list(sys.modules.values())}
    ours.add(id(originals))
    found: list[Place] = []
    for holder in gc.get_referrers(*originals):
        if id(holder) not in ours and not isinstance(holder, types.FrameType | tuple):
            found.extend(_in(holder, by_id))
    return found


def _reached_by_us(by_id: Made) -> set[int]:
    """What stand-ins hold, by whatever way: they call the originals, and would call themselves."""
    seen: set[int] = set()
    stack: list[Any] = list(by_id.values())
    stack += [vars(module) for name, module in list(sys.modules.items()) if name.startswith("underlay.")]
    while stack:
        each = stack.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(each, dict):
            stack += dict.values(each)
        elif isinstance(each, list | tuple):
            stack += each
        elif isinstance(each, types.FunctionType):
            stack += each.__closure__ or ()
        elif isinstance(each, types.CellType):
            try:
                stack.append(each.cell_contents)
            except ValueError:
                pass  # it is empty as yet
        elif isinstance(each, type) and each.__module__.startswith("underlay."):
            stack += vars(each).values()
    return seen


def _in(holder: Any, by_id: Made) -> Iterator[Place]:
    if isinstance(holder, dict):
        yield from _in_dict(holder, by_id)
    elif isinstance(holder, list):
        for index, value in enumerate(holder):
            if id(value) in by_id:
                yield _place_in_list(holder, index, value, by_id[id(value)])
    elif isinstance(holder, types.CellType):
        yield _place_in_cell(holder, holder.cell_contents, by_id[id(holder.cell_contents)])
    elif not isinstance(holder, type | types.ModuleType):
        try:
            yield from _in_dict(object.__getattribute__(holder, "__dict__"), by_id)
        except (AttributeError, TypeError):
            pass  # it has none
        yield from _in_slots(holder, by_id)


def _in_dict(holder: dict[Any, Any], by_id: Made) -> Iterator[Place]:
    if "__module__" in holder and "__doc__" in holder:
        return  # a class's, which is not to be changed behind its back
    for key, value in list(dict.items(holder)):
        if id(value) in by_id:
            yield _place_in_dict(holder, key, value, by_id[id(value)])


def _in_slots(holder: object, by_id: Made) -> Iterator[Place]:
    for cls in type(holder).__mro__:
        for slot in list(vars(cls).values()):
            if isinstance(slot, types.MemberDescriptorType):
                try:
                    value = slot.__get__(holder)
                    if id(value) in by_id:
                        slot.__set__(holder, value)  # some can only be read
                        yield _place_in_slot(holder, slot, value, by_id[id(value)])
                except (AttributeError, TypeError):
                    pass


# Each puts one only where the other is: somebody may have bound another meanwhile.


def _place_in_dict(holder: dict[Any, Any], key: object, original: object, made: object) -> Place:
    def put(on: bool) -> None:
        now, then = (original, made) if on else (made, original)
        if dict.get(holder, key) is now:
            dict.__setitem__(holder, key, then)

    return put


def _place_in_list(holder: list[Any], index: int, original: object, made: object) -> Place:
    def put(on: bool) -> None:
        now, then = (original, made) if on else (made, original)
        if index < len(holder) and holder[index] is now:
            holder[index] = then

    return put


def _place_in_slot(holder: object, slot: types.MemberDescriptorType, original: object, made: object) -> Place:
    def put(on: bool) -> None:
        now, then = (original, made) if on else (made, original)
        if slot.__get__(holder) is now:
            slot.__set__(holder, then)

    return put


def _place_in_cell(cell: types.CellType, original: object, made: object) -> Place:
    def put(on: bool) -> None:
        now, then = (original, made) if on else (made, original)
        if cell.cell_contents is now:
            cell.cell_contents = then

    return put
