"""What an audit measured, and the words for it: every threshold that makes a number a verdict stands here, with its reason."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from ngbench.evaluation.environment import Environment

EXACT = 1e-4
"""Share of their spread over networks within which outputs count as unmoved.

Float32 leaves 1e-7 of a sum and some ten times that after a deep network, so a method that computes in float32 stays below; and
what moves less exchanges no two networks whose predictions differ in the first four digits. An asymmetry of 1e-3 of one weight
is above.
"""

SLIGHT = 1e-2
"""Share of their spread up to which outputs count as nearly unmoved.

A hundredth of the spread exchanges neighbours among some hundred networks and costs a rank correlation less than 0.01, within
the difference between two seeds. A method that reads the order of neurons moves by tenths.
"""

CLEAR = 0.8
"""Held-out AUC from which a method is said to capture topology: four times in five it tells the network from its shuffle.

How the rows and columns of their weights differ in size tells trained networks from their shuffles nearly always: gradient
boosting on such numbers reached 0.97 on the better half of `digits-cnn`. Not all of that is found in a short fit.
"""

Word = Literal["yes", "nearly", "predictions only", "some", "kernels only", "weakly", "not learned", "no", "not measured"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Plan(_Record):
    """How much is measured; the defaults take well under a minute for most methods on one core.

    Attributes:
        num_networks: Test networks that are acted on.
        num_inputs: Inputs that they are run on in the proof.
        num_fit: Training networks of the fit whose outputs are watched.
        fit_epochs: Its epochs: symmetry belongs to a method, not to how well it is trained.
        num_pairs: Training networks of the fit that tells networks from their shuffles, each seen in both forms; of those whose
            target is above the median of the zoo.
        pair_epochs: Its epochs for shuffled edges; half as many for shuffled weights, which are told apart sooner.
        num_test_pairs: Test networks, in both forms, of the AUC.
        num_val: Networks that each fit selects by.
        num_asked: Networks of other architectures, of each kind, that a method is asked for.
        seed: Of fits, of the choice of networks, and of all that is drawn.
    """

    num_networks: int = Field(default=32, ge=2)
    num_inputs: int = Field(default=16, ge=1)
    num_fit: int = Field(default=96, ge=2)
    fit_epochs: int = Field(default=3, ge=1)
    num_pairs: int = Field(default=512, ge=2)
    pair_epochs: int = Field(default=20, ge=1)
    num_test_pairs: int = Field(default=128, ge=2)
    num_val: int = Field(default=48, ge=2)
    num_asked: int = Field(default=8, ge=1)
    seed: int = Field(default=0, ge=0)


class Proof(_Record):
    """That elements of one size left the functions of some networks unchanged, in float64.

    Attributes:
        kind: ``"permutation"``, ``"scale"`` or ``"sign"``.
        size: Of the elements, in words.
        num_networks: Networks that have such elements, each acted on by one of its own.
        num_inputs: Inputs that each was run on.
        largest_difference: Of an output, relative to the network's largest output or to one.
    """

    kind: str
    size: str
    num_networks: int
    num_inputs: int
    largest_difference: float


class Movement(_Record):
    """How far outputs moved under elements of one size, as shares of their spread over networks.

    Attributes:
        kind: As of the proof.
        size: As of the proof.
        dtype: Type in which values were acted on and given to the method.
        part: ``"predictions"``, ``"embeddings"``, or ``"nodes"``: node embeddings with the permutation undone.
        median: Over the networks.
        largest: Over the networks.
    """

    kind: str
    size: str
    dtype: Literal["float32", "float64"]
    part: Literal["predictions", "embeddings", "nodes"]
    median: float
    largest: float


class Shuffle(_Record):
    """Whether a method tells networks from copies whose weights stand elsewhere in their own tensor.

    Attributes:
        unit: What changes places: single ``"weights"``, or whole ``"edges"`` with all weights of their kernel.
        distances: By part, the root mean square distance between a network and its shuffle as a share of that between two
            independent networks.
        auc: Share of pairs of a held-out network and a shuffled one that a method, fitted to tell them apart, ranks right;
            ties count half. None where it refuses.
        chance_auc: What a guess stays below, 97.7 % of the time (two deviations of the Mann-Whitney statistic).
        num_train: Networks, in both forms, of the fit.
        num_test: Held-out networks, in both forms.
        refusal: Why there is no AUC.
    """

    unit: Literal["weights", "edges"]
    distances: dict[str, float]
    auc: float | None
    chance_auc: float
    num_train: int
    num_test: int
    refusal: str | None


class Acceptance(_Record):
    """Whether a method fitted on some architectures takes others.

    Attributes:
        fitted_on: In words.
        asked: In words.
        num_networks: Networks that were asked for.
        outcome: ``"accepted"`` with a finite prediction for each; ``"refused"`` with an error meant for users; ``"failed"``
            otherwise.
        stage: Where it was refused or failed.
        error: Type and text.
    """

    fitted_on: str
    asked: str
    num_networks: int
    outcome: Literal["accepted", "refused", "failed"]
    stage: Literal["fit", "predict"] | None
    error: str | None


class ZooAudit(_Record):
    """What was measured on the networks of one zoo.

    Attributes:
        zoo: Its name.
        zoo_version: Its version.
        zoo_sha256: Of its file.
        num_networks: Test networks that were acted on.
        num_fit: Training networks of the fit.
        refusal: Why the method could not be fitted on it; nothing else is measured then.
        proofs: One for each size of a group element.
        absent: Kinds and sizes of elements that were asked for and that none of the networks has.
        movements: One for each size, type and part.
        part_refusals: By part, why the method gives none.
        shuffles: One for each unit.
        duration_s: Seconds of it all.
    """

    zoo: str
    zoo_version: str
    zoo_sha256: str
    num_networks: int
    num_fit: int
    refusal: str | None
    proofs: tuple[Proof, ...]
    absent: tuple[str, ...]
    movements: tuple[Movement, ...]
    part_refusals: dict[str, str]
    shuffles: tuple[Shuffle, ...]
    duration_s: float

    def largest(self, kind: str, part: str) -> float | None:
        """The largest movement of a part under any element of a kind, in either type; None where it was not measured."""
        return max((m.largest for m in self.movements if (m.kind, m.part) == (kind, part)), default=None)


class MethodAudit(_Record):
    """What was measured of one method.

    Attributes:
        method: Name or path.
        title: As it is printed.
        access: What it reads of a network.
        settings: Settings that were given, as text.
        claims_invariant: Whether it declares that permutations leave its predictions.
        claims_any_architecture: Whether it declares that it reads several architectures at once.
        zoos: One for each zoo.
        acceptances: One for each question about other architectures.
    """

    method: str
    title: str
    access: str
    settings: dict[str, str]
    claims_invariant: bool
    claims_any_architecture: bool
    zoos: tuple[ZooAudit, ...]
    acceptances: tuple[Acceptance, ...]

    def largest(self, kind: str, part: str) -> float | None:
        """`ZooAudit.largest` over the zoos."""
        return max((found for zoo in self.zoos if (found := zoo.largest(kind, part)) is not None), default=None)

    def still(self, kind: str) -> Word:
        """Whether outputs stay under elements of a kind.

        ``"yes"``: every part within `EXACT`. ``"predictions only"``: they are, but embeddings or node embeddings are not.
        ``"nearly"``: predictions within `SLIGHT`. ``"no"``: they move further.
        """
        predictions = self.largest(kind, "predictions")
        if predictions is None:
            return "not measured"
        others = [found for part in ("embeddings", "nodes") if (found := self.largest(kind, part)) is not None]
        if predictions <= EXACT:
            return "yes" if max(others, default=0.0) <= EXACT else "predictions only"
        return "nearly" if predictions <= SLIGHT else "no"

    @property
    def equivariant(self) -> Word:
        """`still` under permutations; node embeddings are compared after the permutation is undone."""
        return self.still("permutation")

    @property
    def cross_architecture(self) -> Word:
        """``"yes"`` where every question is accepted, ``"no"`` where none is, ``"some"`` between."""
        accepted = {acceptance.outcome == "accepted" for acceptance in self.acceptances}
        if not accepted:
            return "not measured"
        return "some" if len(accepted) > 1 else "yes" if True in accepted else "no"

    @property
    def captures_topology(self) -> Word:
        """By the AUC on shuffled edges, which leave every statistic of kernels as it is, and on shuffled weights, which do not.

        ``"yes"``: edges from `CLEAR`. ``"kernels only"``: weights from `CLEAR`, edges not. ``"weakly"``: either above
        `Shuffle.chance_auc`. ``"not learned"``: neither, though outputs for a network and its shuffle differ: a longer fit might.
        ``"no"``: they do not differ, within `EXACT`, so that no fit could.
        """
        shuffles = [s for zoo in self.zoos for s in zoo.shuffles if s.auc is not None]
        best = {s.unit: (s.auc or 0.0) - s.chance_auc for s in shuffles}
        clear = {s.unit for s in shuffles if (s.auc or 0.0) >= CLEAR}
        if not shuffles:
            return "not measured"
        if clear:
            return "yes" if "edges" in clear else "kernels only"
        if max(best.values()) > 0:
            return "weakly"
        is_blind = all(distance <= EXACT for s in shuffles for distance in s.distances.values())
        return "no" if is_blind else "not learned"

    @property
    def contradictions(self) -> tuple[str, ...]:
        """What the method declares and the measurements deny, each in one sentence."""
        found = []
        if self.claims_invariant:
            moved = {part: self.largest("permutation", part) for part in ("predictions", "embeddings", "nodes")}
            found += [
                f"{self.method} declares invariant=True, but its {_PARTS[part]} move by up to {largest:.2g} of their spread when "
                f"neurons are permuted; expected at most {EXACT:g}"
                for part, largest in moved.items()
                if largest is not None and largest > EXACT
            ]
        for a in self.acceptances:
            if a.outcome == "failed" or (a.outcome == "refused" and self.claims_any_architecture):
                what = "declares any_architecture=True, but " if self.claims_any_architecture else ""
                found.append(f"{self.method} {what}fitted on {a.fitted_on} and asked for {a.asked} {a.outcome} with {a.error}")
        if self.claims_any_architecture:
            found += [
                f"{self.method} declares any_architecture=True, but refuses zoo {zoo.zoo} with {zoo.refusal}"
                for zoo in self.zoos
                if zoo.refusal is not None
            ]
        return tuple(found)


_PARTS = {"predictions": "predictions", "embeddings": "embeddings", "nodes": "node embeddings"}


class Audit(_Record):
    """The audits of some methods.

    Attributes:
        format_version: Of this record.
        plan: How much was measured.
        methods: One for each.
        environment: Where it ran.
        created: Date and time, UTC.
    """

    format_version: Literal[1] = 1
    plan: Plan
    methods: tuple[MethodAudit, ...]
    environment: Environment
    created: str
