"""Which overload a call means: PostgreSQL's rules of function and operator resolution (manual, chapter 10).

Works on type OIDs alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from orbit.kernel.types import Oid
from services.storage.sql.bind.signatures import Signature
from services.storage.sql.bind.type_catalog import (
    ANY,
    ANYARRAY,
    ANYCOMPATIBLE,
    ANYELEMENT,
    ANYNONARRAY,
    ELEMENT_OF,
    POLYMORPHIC,
    array_of,
    can_coerce,
    category,
    is_array,
    is_preferred,
)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A signature with its argument types spread to the call's number of arguments."""

    signature: Signature
    args: tuple[int, ...]


class Ambiguous(Exception):
    """More than one overload fits equally well."""


def _spread(signature: Signature, count: int) -> Candidate | None:
    if len(signature.args) == count and not signature.variadic:
        return Candidate(signature, signature.args)
    if signature.variadic and count >= len(signature.args):
        last = signature.args[-1]
        return Candidate(signature, (*signature.args[:-1], *([last] * (count - len(signature.args) + 1))))
    return None


def resolve_function(overloads: Iterable[Signature], actual: Sequence[int]) -> Candidate | None:
    """Return the overload that a function call means, None when none fits. Raises Ambiguous."""
    spread = [one for item in overloads if (one := _spread(item, len(actual))) is not None]
    for candidate in spread:
        if candidate.args == tuple(actual):
            return candidate
    return _choose(spread, actual)


def resolve_operator(overloads: Iterable[Signature], actual: Sequence[int]) -> Candidate | None:
    """Return the overload that an operator means, None when none fits. Raises Ambiguous."""
    spread = [Candidate(item, item.args) for item in overloads if len(item.args) == len(actual)]
    exact = tuple(actual)
    if len(actual) == 2 and (actual[0] == Oid.UNKNOWN) != (actual[1] == Oid.UNKNOWN):
        # A literal of no type yet is first assumed to have the type of the other side.
        known = actual[1] if actual[0] == Oid.UNKNOWN else actual[0]
        exact = (known, known)
    for candidate in spread:
        if candidate.args == exact:
            return candidate
        if candidate.args == (ANYARRAY, ANYARRAY) and len(set(exact)) == 1 and is_array(exact[0]):
            return candidate
    return _choose(spread, actual)


def _choose(candidates: list[Candidate], actual: Sequence[int]) -> Candidate | None:
    fitting = [
        item
        for item in candidates
        if all(can_coerce(have, want, "i") for have, want in zip(actual, item.args, strict=True))
        and concrete_types(item.args, actual) is not None
    ]
    if len(fitting) <= 1:
        return fitting[0] if fitting else None
    fitting = _most(fitting, actual, exact=True)
    if len(fitting) > 1:
        fitting = _most(fitting, actual, exact=False)
    if len(fitting) > 1:
        fitting = _by_unknowns(fitting, actual)
    if len(fitting) == 1:
        return fitting[0]
    raise Ambiguous


def _most(candidates: list[Candidate], actual: Sequence[int], exact: bool) -> list[Candidate]:
    def score(candidate: Candidate) -> int:
        total = 0
        for have, want in zip(actual, candidate.args, strict=True):
            if have == Oid.UNKNOWN:
                continue
            if have == want or (not exact and is_preferred(want) and category(want) == category(have)):
                total += 1
        return total

    scores = [score(item) for item in candidates]
    best = max(scores)
    return [item for item, points in zip(candidates, scores, strict=True) if points == best]


def _by_unknowns(candidates: list[Candidate], actual: Sequence[int]) -> list[Candidate]:
    """Keep the candidates that take the unknown arguments in the category that all of them point to."""
    unknown = [at for at, have in enumerate(actual) if have == Oid.UNKNOWN]
    if not unknown:
        return candidates
    kept = candidates
    for at in unknown:
        categories = {category(item.args[at]) for item in candidates}
        if "S" in categories:
            wanted = "S"
        elif len(categories) == 1:
            wanted = next(iter(categories))
        else:
            kept = []
            break
        kept = [item for item in kept if category(item.args[at]) == wanted]
        preferred = [item for item in kept if is_preferred(item.args[at])]
        kept = preferred or kept
    if len(kept) == 1:
        return kept
    known = {have for have in actual if have != Oid.UNKNOWN}
    if len(known) == 1:
        only = next(iter(known))
        same = [item for item in candidates if all(can_coerce(only, item.args[at], "i") for at in unknown)]
        if len(same) == 1:
            return same
    return kept or candidates


def concrete_types(wanted: Sequence[int], actual: Sequence[int]) -> tuple[int, ...] | None:
    """Return the argument types of a call with the polymorphic ones settled; None when they contradict.

    An unknown literal takes the type that the others settle, or text where nothing does.
    """
    element: int | None = None
    common: list[int] = []
    for want, have in zip(wanted, actual, strict=True):
        if have == Oid.UNKNOWN or want not in POLYMORPHIC:
            continue
        if want == ANYARRAY:
            if not is_array(have):
                return None
            found = ELEMENT_OF[have]
        elif want in (ANYELEMENT, ANYNONARRAY):
            if want == ANYNONARRAY and is_array(have):
                return None
            found = have
        elif want == ANYCOMPATIBLE:
            common.append(have)
            continue
        else:
            continue
        if element is not None and element != found:
            return None
        element = found
    compatible = common_type(common) if common else Oid.TEXT
    if compatible is None:
        return None
    settled = element if element is not None else Oid.TEXT
    types: list[int] = []
    for want, have in zip(wanted, actual, strict=True):
        if want == ANYARRAY:
            types.append(array_of(settled) or have)
        elif want in (ANYELEMENT, ANYNONARRAY):
            types.append(settled)
        elif want == ANYCOMPATIBLE:
            types.append(compatible)
        elif want == ANY:
            types.append(Oid.TEXT if have == Oid.UNKNOWN else have)
        else:
            types.append(want)
    return tuple(types)


def concrete_result(result: int, wanted: Sequence[int], types: Sequence[int]) -> int:
    """Return the result type of a call whose argument types are settled."""
    if result not in POLYMORPHIC:
        return result
    for want, have in zip(wanted, types, strict=True):
        if want == ANYARRAY:
            return have if result == ANYARRAY else ELEMENT_OF[have]
        if want in (ANYELEMENT, ANYNONARRAY, ANYCOMPATIBLE):
            return (array_of(have) or have) if result == ANYARRAY else have
    return result


def common_type(types: Sequence[int]) -> int | None:
    """Return the type that UNION, CASE and the like give these types; None when they cannot be matched."""
    chosen: int | None = None
    for have in types:
        if have == Oid.UNKNOWN or have == chosen:
            continue
        if chosen is None:
            chosen = have
        elif category(have) != category(chosen):
            return None
        elif not is_preferred(chosen) and can_coerce(chosen, have, "i") and not can_coerce(have, chosen, "i"):
            chosen = have
    return Oid.TEXT if chosen is None else chosen
