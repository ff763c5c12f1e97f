"""What scaling, negating or shifting its argument does to an activation: read from the name that a node group gives it."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache, reduce

_NUMBER = re.compile(r"-?[\d.]+(e[+-]?\d+)?")


@dataclass(frozen=True)
class Response:
    """How the value of a function f follows its argument.

    Args:
        degree: f(b x) = b**degree f(x) for every b > 0; None where f is not homogeneous.
        parity: 1 where f is odd, 0 where it is even, else None.
        slope: The factor of x where f is affine and the factor is known, else None.
        half_period: f(x + 2 half_period) = f(x); None where f is not periodic.
        flip: 1 where f(x + half_period) = -f(x), 0 where it is f(x), else None.
    """

    degree: Fraction | None = None
    parity: int | None = None
    slope: float | None = None
    half_period: float | None = None
    flip: int | None = None

    def then(self, outer: Response) -> Response:
        """The response of an outer function of this one."""
        degree = None if self.degree is None or outer.degree is None else self.degree * outer.degree
        parity = 0 if self.parity == 0 else outer.parity if self.parity == 1 else None
        slope = None if self.slope is None or outer.slope is None else self.slope * outer.slope
        if self.half_period is not None:
            flip = 0 if self.flip == 0 else outer.parity if self.flip == 1 else None
            return Response(degree, parity, slope, self.half_period, flip)
        if outer.half_period is not None and self.slope:
            return Response(degree, parity, slope, outer.half_period / abs(self.slope), outer.flip)
        return Response(degree, parity, slope)


IDENTITY = Response(Fraction(1), 1, 1.0)
RELU = Response(degree=Fraction(1))
TANH = Response(parity=1)
_UNKNOWN = Response()
_EVEN = Response(parity=0)
_HOMOGENEOUS_ODD = Response(Fraction(1), 1)


def _power(exponent: str) -> Response:
    if _exact(exponent) is None:
        return _UNKNOWN
    number = Fraction(exponent)
    return Response(number, number.numerator % 2 if number.denominator == 1 else None, 1.0 if number == 1 else None)


def _scaled(number: str, inverted: bool = False) -> Response:
    slope = _exact(number)
    if slope is None or (inverted and slope == 0):
        return _HOMOGENEOUS_ODD
    return replace(_HOMOGENEOUS_ODD, slope=1 / slope if inverted else slope)


def _exact(number: str) -> float | None:
    """The number that a name tells; None where it has six digits, which is where names round."""
    digits = re.sub(r"e.*", "", number).replace(".", "").strip("-0")
    return float(number) if len(digits) < 6 and _NUMBER.fullmatch(number) else None


def _clamped(low: str, high: str) -> Response:
    homogeneous = {low, high} <= {"None", "0"}
    symmetric = low == f"-{high}" and _exact(low) is not None
    return Response(Fraction(1) if homogeneous else None, 1 if symmetric else None)


def _sine(frequency: str) -> Response:
    number = _exact(frequency)
    return Response(parity=1, half_period=math.pi / abs(number) if number else None, flip=1 if number else None)


_PLAIN: dict[str, Response] = {
    **dict.fromkeys(["none", "x"], IDENTITY),
    **dict.fromkeys(["relu", "leaky_relu", "rrelu", "max_pool", "amax", "amin", "max", "min", "lp_pool"], RELU),
    **dict.fromkeys(
        ["tanh", "atan", "sinh", "asinh", "tan", "erf", "softsign", "tanhshrink", "round", "hardshrink", "softshrink"], TANH
    ),
    **dict.fromkeys(["cosh", "sinc"], _EVEN),
    # Each unit's sign leaves the mean square, and with it the scale of all units, as it was.
    **dict.fromkeys(["rms_norm", "batch_norm", "instance_norm", "batch_statistics"], TANH),
    **dict.fromkeys(["pad", "sum", "cumsum", "avg_pool"], _HOMOGENEOUS_ODD),
    "neg": Response(Fraction(1), 1, -1.0),
    "abs": Response(Fraction(1), 0),
    "sign": Response(Fraction(0), 1),
    "square": _power("2"),
    "sqrt": _power("0.5"),
    "rsqrt": _power("-0.5"),
    "reciprocal": _power("-1"),
    "sin": _sine("1"),
    "cos": Response(parity=0, half_period=math.pi, flip=1),
}
"""Functions by name; pooling over positions among them. What is not here changes in ways that no factor undoes."""

_WITH_ARGUMENTS: dict[tuple[str, int], Callable[..., Response]] = {
    ("leaky_relu", 1): lambda _: RELU,
    ("rrelu", 2): lambda *_: RELU,
    ("hardshrink", 1): lambda _: TANH,
    ("softshrink", 1): lambda _: TANH,
    ("pow", 1): _power,
    ("sine", 1): _sine,
    ("mul", 1): _scaled,
    ("div", 1): lambda number: _UNKNOWN if number == "constant" else _scaled(number, True),
    ("true_divide", 1): lambda number: _UNKNOWN if number == "constant" else _scaled(number, True),
    ("add", 1): lambda number: _UNKNOWN if number == "constant" else Response(slope=1.0),
    ("sub", 1): lambda number: _UNKNOWN if number == "constant" else Response(slope=1.0),
    ("hardtanh", 2): _clamped,
    ("clamp", 2): _clamped,
    ("clamp_min", 1): lambda low: _clamped(low, "None"),
    ("clamp_max", 1): lambda high: _clamped("None", high),
    ("threshold", 2): lambda threshold, value: RELU if threshold == value == "0" else _UNKNOWN,
}


@lru_cache(maxsize=1024)
def response(activation: str) -> Response:
    """The response of an activation as `NodeGroup.activation` names it: ``"relu"``, ``"sine(30)"``, ``"tanh|mul(2)"``.

    A name that is not known answers to nothing, which makes the symmetry group smaller and never wrong.
    """
    return reduce(Response.then, [_link(link) for link in _split(activation or "none", ("|",))[0]], IDENTITY)


def pooled_response(activation: str, pooling: tuple[str, ...]) -> Response:
    """The response of units that are also pooled across positions, whether before their activation or after."""
    own, pools = response(activation), [response(name) for name in pooling]
    if not pools:
        return own
    degree = own.degree if all(pool.degree == 1 for pool in pools) else None
    return Response(degree, own.parity if all(pool.parity == 1 for pool in pools) else None)


def limiting(activation: str, pooling: Iterable[str]) -> tuple[str, ...]:
    """The names of poolings that answer to less than an activation alone, in order."""
    own = response(activation)
    known = (own.degree, own.parity, own.half_period)
    found = {name: pooled_response(activation, (name,)) for name in sorted(pooling)}
    return tuple(name for name, pooled in found.items() if (pooled.degree, pooled.parity, pooled.half_period) != known)


def _link(text: str) -> Response:
    if text.startswith("(") and text.endswith(")"):
        parts, signs = _split(text[1:-1], (" max ", " min ", "+", "-", "*", "/", "^"))
        if len(set(signs)) != 1:
            return _UNKNOWN
        return reduce(lambda whole, part: _joined(whole, signs[0], response(part)), parts[1:], response(parts[0]))
    name, _, rest = text.partition("(")
    if not rest:
        return _PLAIN.get(name, _UNKNOWN)
    arguments = _split(rest.removesuffix(")"), (",",))[0]
    if name == "join":
        return _alike([response(argument) for argument in arguments])
    number = all(argument in ("constant", "None") or _NUMBER.fullmatch(argument) for argument in arguments)
    rule = _WITH_ARGUMENTS.get((name, len(arguments)))
    return rule(*arguments) if rule is not None and number else _UNKNOWN


def _joined(first: Response, sign: str, second: Response) -> Response:
    """Of two functions of the same units: their sum, product and so on."""
    degrees, parities = (first.degree, second.degree), (first.parity, second.parity)
    if sign == "^":
        return _EVEN if parities == (0, 0) else _UNKNOWN
    if sign in "*/":
        degree = None if degrees[0] is None or degrees[1] is None else degrees[0] + (degrees[1] if sign == "*" else -degrees[1])
        parity = None if parities[0] is None or parities[1] is None else (parities[0] + parities[1]) % 2
        return Response(degree, parity)
    parity = first.parity if parities == (0, 0) or (parities == (1, 1) and sign in "+-") else None
    return Response(first.degree if degrees[0] == degrees[1] else None, parity)


def _alike(found: list[Response]) -> Response:
    """Of functions of different units that stand side by side."""
    degrees, parities = {each.degree for each in found}, {each.parity for each in found}
    return Response(found[0].degree if len(degrees) == 1 else None, found[0].parity if len(parities) == 1 else None)


def _split(text: str, separators: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """The parts of a text between separators outside parentheses, and the separators."""
    parts, found, depth, start, place = [], [], 0, 0, 0
    while place < len(text):
        depth += (text[place] == "(") - (text[place] == ")")
        separator = next((s for s in separators if depth == 0 and text.startswith(s, place)), None)
        if separator is None:
            place += 1
            continue
        parts.append(text[start:place])
        found.append(separator)
        place = start = place + len(separator)
    return [*parts, text[start:]], found
