import torch

from ovseg_cli.losses.matching import matched, matching_cost


def test_the_cheapest_assignment_is_found_and_predictions_ascend():
    queries, annotations = matched(torch.tensor([[9.0, 1.0], [5.0, 5.0], [1.0, 2.0]]))
    assert queries.tolist() == [0, 2]
    assert annotations.tolist() == [1, 0]


def test_more_annotations_than_predictions_leave_some_unmatched():
    queries, annotations = matched(torch.tensor([[3.0, 1.0, 2.0]]))
    assert (queries.tolist(), annotations.tolist()) == ([0], [1])


def test_no_annotation_matches_nothing():
    queries, annotations = matched(torch.zeros(4, 0))
    assert len(queries) == len(annotations) == 0


def test_costs_that_are_no_numbers_are_avoided():
    queries, annotations = matched(torch.tensor([[float("nan"), 1.0], [2.0, float("inf")]]))
    assert (queries.tolist(), annotations.tolist()) == ([0, 1], [1, 0])


def test_a_perfect_mask_costs_minus_the_classs_probability():
    logits = torch.tensor([[200.0, -200.0]])
    cost = matching_cost(
        torch.tensor([[0.0, 0.0]]), logits, torch.tensor([0]), torch.tensor([[1.0, 0.0]])
    )
    assert torch.allclose(cost, torch.tensor([[-1.0]]), atol=1e-6)
