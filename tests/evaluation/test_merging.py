from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ngbench.alignment import LabelledImages, scores
from ngbench.errors import GraphError, MethodError, PredictionsError, SplitError
from ngbench.evaluation.blinding import shown
from ngbench.evaluation.merging import MergingImages, matchings, score
from ngbench.evaluation.merging_items import draw_items, take
from ngbench.graph import NeuralGraph, Program, symmetry
from ngbench.loading import GraphDataset, KnownPrograms
from ngbench.tasks import TASKS, MergingPlan
from ngbench.testing import attention_topology, fake_dataset, mlp_topology, residual_topology
from ngbench.zoo.architectures import Mlp, build, example_input
from ngbench.zoo.images import ImagesSpec, load_images

NUM_GRAPHS, WIDTH = 10, 24
PLAN = (
    TASKS["merging"].plan(MergingPlan).model_copy(update={"num_pairs": 6, "num_recoveries": 3, "num_triples": 4, "num_sets": 2})
)
ARCHITECTURE = Mlp(family="mlp", input_shape=(1, 8, 8), width=WIDTH, depth=2, norm="none", num_classes=10)

READS = SimpleNamespace(name="test", access="weights")


@lru_cache
def images():
    return load_images(ImagesSpec(corpus="digits", split_seed=0, num_train=600, num_val=50, num_test=300))


def merging_images():
    test = LabelledImages(torch.from_numpy(images().test_images), torch.from_numpy(images().test_labels))
    return MergingImages(torch.from_numpy(images().train_images[:256]), test)


@lru_cache
def program():
    return Program.of(build(ARCHITECTURE, "relu"), example_input(ARCHITECTURE))


@lru_cache
def trained_rows():
    """MLPs from independent starts, trained together for a moment."""
    topology, generator = program().topology, torch.Generator().manual_seed(2)
    rows = torch.zeros(NUM_GRAPHS, topology.num_values)
    for slot in topology.slots:
        if slot.feature is None:
            drawn = torch.randn(NUM_GRAPHS, slot.stop - slot.start, generator=generator)
            rows[:, slot.start : slot.stop] = drawn * (2 / slot.shape[1]) ** 0.5
    rows.requires_grad_()
    optimizer = torch.optim.Adam([rows], lr=0.01)
    pixels, labels = torch.from_numpy(images().train_images), torch.from_numpy(images().train_labels)
    for _ in range(200):
        chosen = torch.randint(len(pixels), (100,), generator=generator)
        logits = program().outputs(rows, pixels[chosen])
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[chosen].repeat(NUM_GRAPHS))
        optimizer.zero_grad()
        (NUM_GRAPHS * loss).backward()
        optimizer.step()
    return rows.detach()


def dataset():
    graphs = [NeuralGraph.from_row(program().topology, row) for row in trained_rows()]
    return GraphDataset.from_graphs(graphs, ids=[f"net-{k}" for k in range(NUM_GRAPHS)], programs=KnownPrograms([program()]))


@lru_cache
def items():
    return draw_items(dataset(), plan=PLAN)


def method(**offers):
    return SimpleNamespace(info=SimpleNamespace(name="test", access="probes"), **offers)


@torch.no_grad()
def by_activations(networks):
    """What nodes give for some training images and, so that dead units are told apart, their biases."""
    found = {}
    for bundle in networks.bundles:
        given = bundle.activations(torch.from_numpy(images().train_images[:200])).transpose(0, 1)
        groups = [group.name for group in bundle.topology.groups]
        biases = torch.cat([bundle.node_feature(name, "bias") for name in groups], 1)[..., None]
        found |= dict(zip(bundle.index.tolist(), torch.cat([given, biases], 2).numpy(), strict=True))
    return [found[place] for place in range(len(networks))]


def as_they_stand(first, second):
    return [symmetry.group(program().topology).identity() for _ in first.ids]


@lru_cache
def scored(kind):
    offers = {"match": {"match": as_they_stand}, "embed": {"embed_nodes": by_activations}}[kind]
    return score(items(), matchings(method(**offers), items()), {"": merging_images()})


def test_items_are_drawn_by_id_whatever_the_order_of_the_networks():
    networks = dataset()
    order = np.random.default_rng(0).permutation(NUM_GRAPHS)
    other = GraphDataset(tuple(networks.ids[k] for k in order), networks.batch(order).bundles, None, {})
    first, second = (draw_items(found, plan=PLAN) for found in (networks, other))
    for mine, theirs in ((first.pairs, second.pairs), (first.triples, second.triples), (first.sets, second.sets)):
        assert named(first, mine) == named(second, theirs)
    assert first.networks.ids[NUM_GRAPHS:] == second.networks.ids[NUM_GRAPHS:]
    rows = [dict(zip(found.networks.ids, rows_of(found), strict=True)) for found in (first, second)]
    assert all(torch.equal(rows[0][id], rows[1][id]) for id in rows[0])
    assert named(first, first.pairs) != named(first, draw_items(networks, plan=PLAN, salt="other").pairs)


def rows_of(found):
    """The value row of each network."""
    placed = {place: row for b in found.networks.bundles for place, row in zip(b.index.tolist(), b.values, strict=True)}
    return [placed[place] for place in range(len(found.networks))]


def named(found, positions):
    return [[found.networks.ids[place] for place in row] for row in positions]


def test_items_have_the_numbers_that_were_asked_for_and_different_networks():
    found = items()
    assert (found.pairs.shape, found.triples.shape, found.sets.shape) == ((6, 2), (4, 3), (2, 8))
    assert all(len(set(row)) == len(row) for positions in (found.pairs, found.triples, found.sets) for row in positions.tolist())
    assert len({frozenset(pair) for pair in found.pairs.tolist()}) == 6
    assert [item.noise for item in found.recoveries] == 3 * [0.0, 0.1, 0.3, 1.0]
    assert len(found.matches) == 6 + 12 + 12 + 14
    assert max(found.pairs.max(), found.triples.max(), found.sets.max()) < NUM_GRAPHS


def test_all_pairs_there_are_is_the_most():
    found = draw_items(dataset(), plan=PLAN.model_copy(update={"num_pairs": 1000}))
    assert len(found.pairs) <= NUM_GRAPHS * (NUM_GRAPHS - 1) / 2
    assert len(found.pairs) > 40


def test_networks_are_matched_with_others_of_their_topology_corpus_and_another_run():
    networks = fake_dataset((mlp_topology((4, 6, 3)), mlp_topology((4, 5, 3))), num_graphs=40, seed=1)
    corpora, runs = [f"corpus {k % 3}" for k in range(40)], [k // 8 for k in range(40)]
    found = draw_items(networks, plan=TASKS["merging"].plan(MergingPlan), corpora=corpora, runs=runs)
    assert len(found.pairs) > 5
    for first, second in found.pairs.tolist():
        assert found.topologies[first] == found.topologies[second]
        assert found.corpora[first] == found.corpora[second]
        assert runs[first] != runs[second]


def test_copies_are_permuted_networks_with_noise_of_the_size_of_each_tensor():
    found = items()
    rows = rows_of(found)
    for item in found.recoveries:
        clean = item.element.act(NeuralGraph.from_row(program().topology, rows[item.network]))
        copy = NeuralGraph.from_row(program().topology, rows[item.copy])
        for one, other in zip(clean.slot_values, copy.slot_values, strict=True):
            if item.noise == 0:
                assert torch.equal(one, other)
            elif one.numel() > 500:
                assert float((other - one).std() / one.std()) == pytest.approx(item.noise, rel=0.15)


def test_running_statistics_get_no_noise():
    networks = fake_dataset((residual_topology(),), num_graphs=3, seed=1)
    found = draw_items(networks, plan=PLAN)
    rows = rows_of(found)
    noisy = next(item for item in found.recoveries if item.noise == 1.0)
    graphs = [NeuralGraph.from_row(residual_topology(), rows[place]) for place in (noisy.network, noisy.copy)]
    clean, copy = noisy.element.act(graphs[0]), graphs[1]
    assert torch.equal(clean.node_feature("norm", "running_var"), copy.node_feature("norm", "running_var"))
    assert not torch.equal(clean.node_feature("norm", "bias"), copy.node_feature("norm", "bias"))


def test_matching_by_activations_merges_what_averaging_as_it_stands_does_not():
    naive, matched = scored("match").metrics, scored("embed").metrics
    assert matched["endpoint_accuracy"] == naive["endpoint_accuracy"] > 0.9
    assert matched["midpoint_accuracy"] > naive["midpoint_accuracy"] + 0.1
    assert matched["barrier"] < naive["barrier"] / 2
    assert matched["barrier_area"] < naive["barrier_area"]
    assert matched["merged_8"] > naive["merged_8"] + 0.2
    assert naive["midpoint_accuracy_repaired"] > naive["midpoint_accuracy"]
    assert matched["barrier_repaired"] < matched["barrier"]


def test_known_permutations_are_recovered_without_noise_and_less_so_with_it():
    naive, matched = scored("match").metrics, scored("embed").metrics
    assert matched["recovery_0"] == matched["recovery_exact_0"] == 1
    assert matched["recovery_0"] >= matched["recovery_0.1"] >= matched["recovery_0.3"] > matched["recovery_1"] > 0.1
    # chance is 1 / 24, of 3 · 48 nodes
    assert naive["recovery_0"] < 0.12
    assert naive["recovery_exact_0"] == 0


@pytest.mark.parametrize(("access", "may_run"), [("probes", True), ("weights", False)])
def test_only_a_matcher_that_says_so_can_run_the_networks(access, may_run):
    def matched(first, second):
        assert [bundle.programs is not None for networks in (first, second) for bundle in networks.bundles] == [may_run] * 2
        return as_they_stand(first, second)

    asking = SimpleNamespace(info=SimpleNamespace(name="test", access=access), match=matched)
    assert len(matchings(asking, items())) == len(items().matches)


def test_the_score_of_a_pair_is_that_of_the_mean_of_its_aligned_weights():
    found, (first, second) = items(), items().pairs[2].tolist()
    taken = matchings(method(embed_nodes=by_activations), found)
    element = found.unpacked(taken)[2]
    rows = trained_rows()
    middle = (rows[first] + element.act(NeuralGraph.from_row(program().topology, rows[second])).row()) / 2
    loss, accuracy = scores(program(), middle[None], merging_images().test)
    result = scored("embed")
    assert result.of_pairs["midpoint_accuracy"][2] == accuracy[0]
    assert result.curves.loss[2, 12] == pytest.approx(loss[0], rel=1e-5)
    assert result.metrics["midpoint_accuracy"] == pytest.approx(result.of_pairs["midpoint_accuracy"].mean())


def test_two_of_a_set_merge_as_a_pair_does():
    found = items()
    pairs = replace(found, pairs=found.sets[:, :2], triples=found.triples[:0], sets=found.sets[:0], recoveries=())
    taken = matchings(method(embed_nodes=by_activations), pairs)
    result = score(pairs, taken, {"": merging_images()})
    assert result.metrics["midpoint_accuracy"] == pytest.approx(scored("embed").metrics["merged_2"])
    assert result.metrics["midpoint_accuracy_repaired"] == pytest.approx(scored("embed").metrics["merged_2_repaired"], abs=0.004)
    assert not {name for name in result.metrics if name.startswith(("recovery", "cycle", "merged"))}


def test_ends_of_repaired_lines_stay_as_they_are():
    result = scored("embed")
    np.testing.assert_allclose(result.repaired.loss[:, [0, -1]], result.curves.loss[:, [0, -1]], atol=1e-4)


def test_matchings_by_a_numbering_of_all_nodes_are_consistent_around_a_cycle_and_random_ones_are_not():
    found = items()
    rng = np.random.default_rng(0)
    numbers = [rng.permutation(program().topology.num_nodes) for _ in found.networks.ids]
    ends = np.cumsum([group.size for group in program().topology.groups])[:-1]
    ranked = [np.concatenate([np.argsort(np.argsort(part)) for part in np.split(own, ends)])[:, None] for own in numbers]
    consistent = score(found, matchings(method(embed_nodes=lambda _: ranked), found), {"": merging_images()})
    assert consistent.metrics["cycle_consistency"] == 1
    noise = [rng.normal(size=(len(own), 5)) for own in numbers]
    random = score(found, matchings(method(embed_nodes=lambda _: noise), found), {"": merging_images()})
    assert random.metrics["cycle_consistency"] < 0.3
    assert random.metrics["recovery_0"] < 0.15


def test_scores_follow_from_the_saved_matchings_alone(tmp_path):
    taken = matchings(method(embed_nodes=by_activations), items())
    np.savez(tmp_path / "matchings.npz", values=taken.astype(np.int16))
    with np.load(tmp_path / "matchings.npz") as saved:
        again = score(items(), saved["values"], {"": merging_images()})
    assert again.metrics == scored("embed").metrics


def test_matchings_of_networks_of_different_sizes_stand_in_one_array():
    networks = fake_dataset((attention_topology(), mlp_topology((4, 6, 3))), num_graphs=20, seed=1)
    found = draw_items(networks, plan=PLAN)
    rng = np.random.default_rng(1)
    embedded = [rng.normal(size=(topology.num_nodes, 3)) for topology in found.topologies]
    taken = matchings(method(embed_nodes=lambda given: [embedded[n] for n in shown(found.networks, READS)[1]]), found)
    assert taken.shape == (len(found.matches), attention_topology().num_nodes)
    assert (
        (taken == -1).sum(1) == [attention_topology().num_nodes - found.topologies[k].num_nodes for k in found.matches[:, 0]]
    ).all()
    assert np.array_equal(found.packed(found.unpacked(taken)), taken)


def spoiled(row, change):
    taken = np.array(matchings(method(match=as_they_stand), items()))
    taken[row] = change(taken[row])
    return taken


def with_nodes(values):
    def change(row):
        row = row.copy()
        for place, value in values.items():
            row[place] = value
        return row

    return change


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (with_nodes({1: 3}), "what is said of group 'linear0' is no permutation of its 24 nodes"),
        (with_nodes({1: -1}), "what is said of group 'linear0' is no permutation of its 24 nodes"),
        (with_nodes({25: 10**6}), "what is said of group 'linear1' is no permutation of its 24 nodes"),
        (with_nodes({49: 1, 50: 0}), "the nodes of group 'head' are permuted as no symmetry does"),
    ],
)
def test_matchings_that_are_no_symmetries_are_refused(change, text):
    first, second = items().pairs[1].tolist()
    pair = f"the matching of 'net-{first}' and 'net-{second}' is no symmetry of their topology: {text}"
    with pytest.raises(PredictionsError, match=pair):
        items().unpacked(spoiled(1, change))


def test_matchings_of_another_shape_or_type_are_refused():
    taken = spoiled(0, with_nodes({}))
    with pytest.raises(PredictionsError, match=r"matchings have type int64 and shape \(44, 58\); expected integers \(44, 59\)"):
        items().unpacked(taken[:, 1:])
    with pytest.raises(PredictionsError, match=r"matchings have type float64 and shape \(44, 59\); expected integers"):
        items().unpacked(taken.astype(float))


def test_numbers_behind_the_last_node_are_refused():
    networks = fake_dataset((attention_topology(), mlp_topology((4, 6, 3))), num_graphs=20, seed=1)
    found = draw_items(networks, plan=PLAN)
    embedded = [np.zeros((topology.num_nodes, 1)) for topology in found.topologies]
    taken = matchings(method(embed_nodes=lambda given: [embedded[n] for n in shown(found.networks, READS)[1]]), found)
    row = next(k for k, first in enumerate(found.matches[:, 0]) if found.topologies[first].num_nodes == 13)
    taken[row, 13] = 0
    with pytest.raises(PredictionsError, match="there are numbers behind its 13 nodes; expected -1"):
        found.unpacked(taken)


def test_methods_that_neither_embed_nor_match_are_refused():
    with pytest.raises(MethodError, match="method 'test' embeds no nodes and matches no networks; expected one that can"):
        matchings(method(), items())


def test_methods_that_leave_networks_out_are_refused():
    with pytest.raises(MethodError, match="method 'test' embeds 21 networks; expected each of the 22"):
        matchings(method(embed_nodes=lambda networks: by_activations(networks)[1:]), items())
    with pytest.raises(MethodError, match="method 'test' gives 43 matchings; expected one for each of 44"):
        matchings(method(match=lambda first, second: as_they_stand(first, second)[1:]), items())


def test_networks_that_have_no_equal_are_refused():
    networks = fake_dataset((mlp_topology((4, 6, 3)),), num_graphs=3, seed=1)
    with pytest.raises(SplitError, match="no two of the 3 test networks have topology and corpus in common"):
        draw_items(networks, plan=PLAN, corpora=["a", "b", "c"])


NARROW, WIDE = 5, 10
SMALL = {
    width: Mlp(family="mlp", input_shape=(1, 8, 8), width=width, depth=2, norm="none", num_classes=10) for width in (NARROW, WIDE)
}


@lru_cache
def programs_of_widths():
    return {width: Program.of(build(design, "relu"), example_input(design)) for width, design in SMALL.items()}


def trained_module():
    torch.manual_seed(4)
    module = build(SMALL[NARROW], "relu")
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    pixels, labels = torch.from_numpy(images().train_images), torch.from_numpy(images().train_labels)
    for _ in range(200):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(module(pixels), labels).backward()
        optimizer.step()
    return module


def widened(state, generator):
    """The same function with each hidden unit twice, with half the outgoing weights each, in a random order."""
    orders = [torch.arange(NARROW).repeat(2)[torch.randperm(WIDE, generator=generator)] for _ in range(2)]
    first, second, head = (name.removesuffix(".weight") for name in state if name.endswith(".weight"))
    wide = dict(state)
    wide[f"{first}.weight"], wide[f"{first}.bias"] = (state[f"{first}.{name}"][orders[0]] for name in ("weight", "bias"))
    wide[f"{second}.weight"] = state[f"{second}.weight"][orders[1]][:, orders[0]] / 2
    wide[f"{second}.bias"] = state[f"{second}.bias"][orders[1]]
    wide[f"{head}.weight"] = state[f"{head}.weight"][:, orders[1]] / 2
    return wide


@lru_cache
def items_of_widths():
    """Networks that all compute the same, three of either width."""
    narrow, generator = trained_module().state_dict(), torch.Generator().manual_seed(5)
    states = [(NARROW, narrow)] * 3 + [(WIDE, widened(narrow, generator)) for _ in range(3)]
    graphs = [NeuralGraph.from_state_dict(programs_of_widths()[width].topology, state) for width, state in states]
    programs = KnownPrograms(list(programs_of_widths().values()))
    return draw_items(GraphDataset.from_graphs(graphs, ids=[f"net-{k}" for k in range(6)], programs=programs), plan=PLAN)


def noise(networks):
    rng = np.random.default_rng(0)
    sizes = {place: bundle.topology.num_nodes for bundle in networks.bundles for place in bundle.index.tolist()}
    return [rng.normal(size=(sizes[place], 5)) for place in range(len(networks))]


@lru_cache
def scored_of_widths(by):
    return score(items_of_widths(), matchings(method(embed_nodes=by), items_of_widths()), {"": merging_images()}).metrics


def test_pairs_of_unequal_widths_stand_behind_all_others_and_have_both_widths_in_either_place():
    found = items_of_widths()
    widths = [[WIDE if place >= 3 else NARROW for place in pair] for pair in found.unequal.tolist()]
    assert len(found.unequal) == 6
    assert sorted(map(tuple, set(map(tuple, widths)))) == [(NARROW, WIDE), (WIDE, NARROW)]
    assert found.names[-6:] == tuple(f"unequal: net-{a}, net-{b}" for a, b in found.unequal.tolist())
    assert np.array_equal(found.matches[: len(found.equal)], found.equal)
    corpora = [f"corpus {k // 3}" for k in range(6)]
    assert not len(draw_items(take(found.networks, np.arange(6)), plan=PLAN, corpora=corpora).unequal)
    paired = draw_items(take(found.networks, np.arange(6)), plan=PLAN, runs=[0, 1, 2, 0, 1, 2]).unequal
    assert all(first % 3 != second % 3 for first, second in paired.tolist())


def test_a_network_merges_without_loss_with_one_whose_units_stand_twice_and_by_noise_it_does_not():
    matched, wrong = scored_of_widths(by_activations), scored_of_widths(noise)
    module = trained_module()
    right = module(merging_images().test.images).argmax(1) == merging_images().test.labels
    assert matched["endpoint_accuracy_unequal"] == pytest.approx(float(right.double().mean()), abs=1e-6)
    assert matched["midpoint_accuracy_unequal"] == pytest.approx(matched["endpoint_accuracy_unequal"], abs=0.004)
    assert matched["midpoint_accuracy_unequal_repaired"] == pytest.approx(matched["endpoint_accuracy_unequal"], abs=0.004)
    assert matched["barrier_unequal"] == pytest.approx(0, abs=1e-4)
    assert wrong["endpoint_accuracy_unequal"] == matched["endpoint_accuracy_unequal"] > 0.7
    assert wrong["midpoint_accuracy_unequal"] < matched["midpoint_accuracy_unequal"] - 0.2
    assert wrong["barrier_unequal"] > 0.3


def test_a_matcher_leaves_out_pairs_of_unequal_widths_and_has_no_numbers_of_them():
    found = items_of_widths()

    def identities(first, second):
        placed = {place: bundle.topology for bundle in first.bundles for place in bundle.index.tolist()}
        return [symmetry.group(placed[place]).identity() for place in range(len(first))]

    taken = matchings(method(match=identities), found)
    assert (taken[-6:] == -1).all()
    assert np.array_equal(found.packed(found.unpacked(taken)), taken)
    metrics = score(found, taken, {"": merging_images()}).metrics
    assert set(scored_of_widths(by_activations)) - set(metrics) == {
        *("barrier_unequal", "endpoint_accuracy_unequal", "midpoint_accuracy_unequal", "midpoint_accuracy_unequal_repaired")
    }


def plans_with(change):
    taken = np.array(matchings(method(embed_nodes=by_activations), items_of_widths()))
    change(taken)
    return taken


def test_plans_are_written_and_read_without_change():
    taken = plans_with(lambda taken: None)
    assert np.array_equal(items_of_widths().packed(items_of_widths().unpacked(taken)), taken)


def emptied(taken):
    taken[-1] = -1


def behind(taken):
    taken[-1, 2 * (NARROW + WIDE - 1)] = 0


def out_of_range(taken):
    taken[-1, 0] = NARROW * WIDE


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (emptied, "1 of 6 pairs of unequal widths are left out; expected plans for all of them or none"),
        (behind, "is no plan of optimal transport: there are numbers behind its 28 codes; expected -1"),
        (out_of_range, "is no plan of optimal transport: what is said of index 'linear0' are no rising numbers from 0 to 49"),
    ],
)
def test_rows_that_are_no_plans_are_refused(change, text):
    with pytest.raises(PredictionsError, match=text):
        items_of_widths().unpacked(plans_with(change))


def test_embeddings_that_are_not_finite_are_not_transported():
    def broken(networks):
        return [np.full_like(nodes, np.nan) if len(nodes) > 2 * WIDE + 10 else nodes for nodes in by_activations(networks)]

    only = replace(items_of_widths(), pairs=items_of_widths().pairs[:0], triples=items_of_widths().triples[:0], recoveries=())
    with pytest.raises(GraphError, match="the embedding of node 0 is not finite; expected numbers"):
        matchings(method(embed_nodes=broken), replace(only, sets=only.sets[:0]))
