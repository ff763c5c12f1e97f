"""The audit on a shipped zoo: planted faults are caught, what keeps its word passes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from ngbench.errors import AuditError, GraphError, MethodError, NotApplicableError, SplitError
from ngbench.evaluation.audit import Audit, Plan, audit_method, auditable, default_zoos, elements, markdown_table, measure
from ngbench.evaluation.audit.elements import Size
from ngbench.evaluation.environment import current_environment
from ngbench.evaluation.result import read_json, write_json
from ngbench.graph import symmetry
from ngbench.graph.symmetry import GroupElement
from ngbench.loading import GraphBundle
from ngbench.methods import MethodInfo, methods

PLAN = Plan(num_networks=6, num_inputs=3, num_fit=5, fit_epochs=1, num_pairs=7, num_test_pairs=9, num_val=4, num_asked=2)
ZOO = ("digits-cnn",)


def norms(bundle: GraphBundle) -> torch.Tensor:
    """Norms of the weights and of the biases, ``[graphs, 2]``: both the same in any order."""
    parts = [values.double().flatten(1) for (_, feature), values in bundle.slots().items() if feature is None]
    biases = [values.double().flatten(1) for (_, feature), values in bundle.slots().items() if feature is not None]
    return torch.stack([torch.cat(part, 1).square().sum(1).sqrt() for part in (parts, biases)], 1)


class Honest:
    """Keeps its word: norms of all weights, and of what enters each node."""

    info = MethodInfo("honest", "Honest", "weights", invariant=True, any_architecture=True, paper="none")
    num_parameters = 0

    def fit(self, problem, train, val, context):
        assert train.targets is not None

    def predict(self, networks):
        return self.embed(networks)[:, 0]

    def embed(self, networks):
        found = np.empty((len(networks), 2))
        for bundle in networks.bundles:
            found[bundle.index.numpy()] = norms(bundle).numpy()
        return found

    def embed_nodes(self, networks):
        found = {}
        for bundle in networks.bundles:
            entering = {block.target: bundle.block(block.name).double().square().sum((2, 3)) for block in bundle.topology.blocks}
            zeros = {group.name: torch.zeros(len(bundle), group.size).double() for group in bundle.topology.groups}
            nodes = torch.cat(list((zeros | entering).values()), 1)
            found |= dict(zip(bundle.index.tolist(), nodes[..., None].numpy(), strict=True))
        return [found[position] for position in range(len(networks))]


def of_one(networks):
    """The values in the order of the ids, of one structure."""
    return networks.one_structure(reader="a planted method").values.double().numpy()


class OneWeight(Honest):
    """A thousandth of one particular weight."""

    def predict(self, networks):
        rows = of_one(networks) if len(networks.bundles) == 1 else np.zeros((len(networks), 101))
        return super().predict(networks) + 1e-3 * rows[:, 100]


class Forgetful(Honest):
    """Numbers for two questions, about the networks as they are in each type, and none from then on."""

    num_asked = 0

    def predict(self, networks):
        self.num_asked += 1
        return super().predict(networks) * (1.0 if self.num_asked <= 2 else np.nan)


class LostFromTheStart(Honest):
    """No number for a network, whichever."""

    def predict(self, networks):
        found = super().predict(networks)
        return np.concatenate([[np.nan], found[1:]])


class UnevenEmbedding(Honest):
    """Invariant in predictions, not in embeddings."""

    def embed(self, networks):
        return np.concatenate([super().embed(networks), of_one(networks)[:, 100:101]], 1)

    def predict(self, networks):
        return super().embed(networks)[:, 0]


class NumberedNodes(Honest):
    """Node embeddings that follow the number of a node, not the neuron."""

    def embed_nodes(self, networks):
        return [nodes + 0.01 * np.arange(len(nodes))[:, None] for nodes in super().embed_nodes(networks)]


class ShortOfNodes(Honest):
    """Gives no embedding of the output nodes."""

    def embed_nodes(self, networks):
        return [nodes[:-10] for nodes in super().embed_nodes(networks)]


class Refusing(Honest):
    """Bound to the width of its training networks, although it declares otherwise, and without a means to embed."""

    def fit(self, problem, train, val, context):
        self.length = train.one_structure(reader="refusing").values.shape[1]

    def predict(self, networks):
        if any(bundle.values.shape[1] != self.length for bundle in networks.bundles):
            raise MethodError(f"refusing reads networks of {self.length} values")
        return Honest.embed(self, networks)[:, 0]

    def embed(self, networks):
        raise MethodError("refusing has no embeddings today")


class Bound(Honest):
    """Bound to one architecture, and says so; but one refusal is a crash."""

    info = dataclasses.replace(Honest.info, any_architecture=False)

    def predict(self, networks):
        if len(networks.bundles[0].topology.groups) != 4:
            return of_one(networks)[:, 100]
        raise IndexError("deeper")


class PredictsOnly:
    """Neither embeddings nor node embeddings; equal up to what float32 leaves."""

    info = Honest.info
    num_parameters = 0
    fit = Honest.fit

    def predict(self, networks):
        found = np.empty(len(networks))
        for bundle in networks.bundles:
            found[bundle.index.numpy()] = bundle.values.float().sum(1).numpy()
        return found


PLANTED = (
    ShortOfNodes,
    Honest,
    Forgetful,
    LostFromTheStart,
    OneWeight,
    UnevenEmbedding,
    NumberedNodes,
    Refusing,
    Bound,
    PredictsOnly,
)


@pytest.fixture(autouse=True)
def _registered(monkeypatch):
    """The methods of this file, for its own tests only."""
    for cls in PLANTED:
        monkeypatch.setitem(methods._entries, f"test-{cls.__name__.lower()}", cls)


def audited(cls, **options):
    return audit_method(f"test-{cls.__name__.lower()}", **{"zoos": ZOO, "plan": PLAN, **options})


def test_a_method_that_keeps_its_word_passes():
    audit = audited(Honest)
    assert (audit.equivariant, audit.cross_architecture, audit.captures_topology) == ("yes", "yes", "no")
    assert audit.contradictions == ()
    assert {m.part for m in audit.zoos[0].movements} == {"predictions", "embeddings", "nodes"}
    assert {m.dtype for m in audit.zoos[0].movements} == {"float32", "float64"}
    assert max(audit.largest("permutation", part) for part in ("predictions", "embeddings", "nodes")) < 1e-12
    assert [(p.size, p.num_networks, p.num_inputs) for p in audit.zoos[0].proofs] == [
        (size, 6, 3) for size in ("two neurons", "one layer", "all layers")
    ]
    assert all(0 < p.largest_difference < 1e-13 for p in audit.zoos[0].proofs)


@pytest.mark.parametrize("cls", [Forgetful, LostFromTheStart])
def test_predictions_that_are_no_numbers_are_caught(cls):
    audit = audited(cls)
    assert audit.equivariant == "no"
    assert "its predictions move by up to 1e+300" in audit.contradictions[0]
    assert "null" not in audit.model_dump_json(include={"zoos": {0: {"movements"}}})


def test_a_thousandth_of_one_weight_is_caught():
    audit = audited(OneWeight)
    assert audit.equivariant == "nearly"
    text = "test-oneweight declares invariant=True, but its predictions move by up to "
    assert audit.contradictions[0].startswith(text)
    assert audit.largest("permutation", "embeddings") < 1e-12


def test_embeddings_that_move_behind_still_predictions_are_caught():
    audit = audited(UnevenEmbedding)
    assert audit.equivariant == "predictions only"
    assert audit.largest("permutation", "predictions") < 1e-12
    assert "its embeddings move by up to" in audit.contradictions[0]


def test_node_embeddings_that_do_not_follow_their_neurons_are_caught():
    audit = audited(NumberedNodes)
    assert audit.equivariant == "predictions only"
    assert len(audit.contradictions) == 1
    assert "its node embeddings move by up to" in audit.contradictions[0]


def test_node_embeddings_of_some_nodes_only_are_none():
    text = "MethodError: embed_nodes of 'honest' gives 25 nodes for a network; expected 35, every node in canonical order"
    assert audited(ShortOfNodes).zoos[0].part_refusals == {"nodes": text}


def test_a_refusal_against_its_own_word_is_caught_and_named():
    audit = audited(Refusing)
    assert audit.cross_architecture == "no"
    assert {(a.outcome, a.stage) for a in audit.acceptances} == {("refused", "predict")}
    assert audit.acceptances[0].error == "MethodError: refusing reads networks of 305 values"
    assert audit.contradictions[0] == (
        "test-refusing declares any_architecture=True, but fitted on fake CNNs of one structure and asked for wider "
        "refused with MethodError: refusing reads networks of 305 values"
    )
    assert audit.zoos[0].part_refusals == {"embeddings": "MethodError: refusing has no embeddings today"}
    assert audit.largest("permutation", "embeddings") is None


def test_a_crash_is_told_from_a_refusal():
    outcomes = {a.asked: (a.outcome, a.error) for a in audited(Bound).acceptances}
    assert outcomes["wider"] == ("failed", "IndexError: deeper")
    assert outcomes["deeper"] == ("accepted", None)
    assert audited(Bound).cross_architecture == "some"


def test_a_method_without_embeddings_is_judged_by_its_predictions():
    audit = audited(PredictsOnly)
    assert audit.equivariant == "yes"
    assert {m.part for m in audit.zoos[0].movements} == {"predictions"}
    assert 1e-9 < audit.largest("permutation", "predictions") < 1e-5
    assert "| `test-predictsonly` | yes | " in markdown_table([audit])


def test_scales_act_on_the_networks_that_have_them():
    audit = audited(Honest, scales=True, signs=True, plan=PLAN.model_copy(update={"num_networks": 12}))
    counts = {(p.kind, p.size): p.num_networks for p in audit.zoos[0].proofs}
    assert 0 < counts["scale", "σ = 1.0"] < 12
    assert 0 < counts["sign", "half of all units"] < 12
    small, large = (
        next(m.largest for m in audit.zoos[0].movements if (m.size, m.part) == (f"σ = {sigma}", "predictions"))
        for sigma in (0.1, 1.0)
    )
    assert 1e-4 < small < large
    assert audit.still("scale") == "no"
    assert audit.still("sign") == "yes"


def test_an_audit_is_the_same_each_time_and_another_with_another_seed():
    first, again, other = (audited(Bound, plan=PLAN.model_copy(update={"seed": seed})) for seed in (0, 0, 1))
    assert first.zoos[0].movements == again.zoos[0].movements
    assert first.zoos[0].movements != other.zoos[0].movements


def test_an_element_that_is_no_symmetry_stops_the_audit(monkeypatch):
    def rotated_outputs(topology, seed):
        return GroupElement(topology, {"head": torch.arange(10).roll(1)})

    monkeypatch.setattr(measure, "PERMUTATIONS", (Size("permutation", "outputs", rotated_outputs),))
    with pytest.raises(AuditError, match=r"permutation \(outputs\) moves an output of network 'digits-cnn-.*' by .* of the larg"):
        audited(Honest)


def test_a_scale_where_none_is_allowed_stops_the_audit(monkeypatch):
    def doubled(topology, seed):
        return GroupElement(topology, {}, scales={"head": torch.full((10,), 1.0 + 1e-6, dtype=torch.float64)})

    monkeypatch.setattr(measure, "PERMUTATIONS", (Size("scale", "outputs", doubled),))
    with pytest.raises(AuditError, match="expected at most 1e-09, as of an element of its symmetry group"):
        audited(Honest)


def test_networks_that_cannot_be_run_are_not_audited(small_zoo_path):
    with pytest.raises(GraphError, match="zoo 'small' holds no recipe, so its networks cannot be run on probes"):
        audited(Honest, zoos=(small_zoo_path,))


def test_a_zoo_without_a_target_is_refused(monkeypatch):
    monkeypatch.setattr(measure, "TARGETS", ("colour", "taste"))
    with pytest.raises(SplitError, match="zoo 'digits-cnn' has none of the columns colour, taste; got run_index, seed"):
        audited(Honest)


def test_a_method_that_a_zoo_does_not_suit_is_refused_there():
    audit = audit_method("test-refusing", zoos=("digits-park",), plan=PLAN)
    assert audit.zoos[0].refusal.startswith("GraphError: refusing reads networks of one architecture; got ")
    assert audit.zoos[0].movements == ()
    assert (audit.equivariant, audit.captures_topology) == ("not measured", "not measured")
    asked = [(a.outcome, a.stage) for a in audit.acceptances if a.fitted_on.startswith("digits-park")]
    assert asked == [("refused", "fit")] * 3
    assert [a.stage for a in audit.acceptances if a.fitted_on.startswith("one structure of digits-park")] == ["predict"] * 3
    assert "refuses zoo digits-park with GraphError" in audit.contradictions[-1]


def test_the_splits_of_a_zoo_are_asked():
    audit = audit_method("test-honest", zoos=("digits-park",), plan=PLAN)
    asked = {a.asked for a in audit.acceptances if a.fitted_on.startswith("digits-park")}
    assert asked == {f"digits-park, test part of {name}" for name in ("family-held-out", "narrow-to-wide", "shallow-to-deep")}
    assert audit.cross_architecture == "yes"
    assert audit.equivariant == "yes"


def test_methods_that_solve_no_regression_are_not_audited():
    assert {"mean", "flat-mlp", "ng-gnn"} <= set(auditable())
    assert not {"majority", "flat-cosine"} & set(auditable())
    with pytest.raises(NotApplicableError, match="method 'majority' is not applicable to generalization: it answers class"):
        audit_method("majority", zoos=ZOO, plan=PLAN)


def test_methods_that_read_any_architecture_are_audited_on_two_zoos():
    assert default_zoos(any_architecture=True) == ("digits-cnn", "digits-park")
    assert default_zoos(any_architecture=False) == ("digits-cnn",)


def test_a_record_is_read_again_as_it_was_written(tmp_path):
    record = Audit(plan=PLAN, methods=(audited(Honest),), environment=current_environment("cpu"), created="2026-01-02T03:04:05")
    assert record.format_version == 1
    assert read_json(write_json(tmp_path / "audit.json", record), Audit) == record


@pytest.mark.parametrize("size", elements.PERMUTATIONS, ids=lambda size: size.name)
def test_sizes_differ_by_the_nodes_that_move(size):
    topology = symmetry_topology()
    moved = [
        sum(int((own != torch.arange(len(own))).sum()) for own in size.draw(topology, seed).permutations.values())
        for seed in range(20)
    ]
    groups = [int((own != torch.arange(len(own))).sum() > 0) for own in size.draw(topology, 3).permutations.values()]
    assert {"two neurons": set(moved) == {2}, "one layer": sum(groups) == 1, "all layers": sum(groups) == 3}[size.name]


def symmetry_topology():
    from ngbench.testing import mlp_topology

    topology = mlp_topology((3, 9, 8, 7, 2))
    assert symmetry.group(topology).sizes == (9, 8, 7)
    return topology
