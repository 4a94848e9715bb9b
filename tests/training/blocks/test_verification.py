import pytest
import torch

from roost_training.blocks.verification import calibrate


def test_kinds_that_do_not_overlap_are_parted_without_error():
    found = calibrate(torch.tensor([0.8, 0.9]), torch.tensor([0.1, 0.3]))
    assert (found.similarity, found.false_accepts, found.false_rejects) == (pytest.approx(0.8), 0.0, 0.0)


def test_the_equal_error_rate_is_where_both_errors_meet():
    same, different = torch.tensor([0.2, 0.6, 0.7, 0.8]), torch.tensor([0.1, 0.3, 0.4, 0.65])
    found = calibrate(same, different)  # at 0.6 one of four is wrongly accepted, and one wrongly rejected
    assert (found.similarity, found.false_accepts, found.false_rejects) == (pytest.approx(0.6), 0.25, 0.25)


def test_the_threshold_is_the_lowest_that_keeps_a_share_of_false_accepts():
    same, different = torch.arange(50, 110, 10), torch.arange(100)
    found = calibrate(same, different, false_accepts=0.1)
    assert (found.similarity, found.false_accepts, found.false_rejects) == (90, 0.1, pytest.approx(4 / 6))


def test_a_share_is_kept_though_no_same_pair_is_above():
    found = calibrate(torch.tensor([0.1]), torch.tensor([0.5, 0.75]), false_accepts=0.01)
    assert found.similarity > 0.75
    assert (found.false_accepts, found.false_rejects) == (0.0, 1.0)


def test_embeddings_that_are_all_the_same_err_in_half_of_the_pairs():
    found = calibrate(torch.ones(5), torch.ones(7))
    assert (found.false_accepts + found.false_rejects) / 2 == 0.5


def test_a_kind_without_pairs_is_refused():
    with pytest.raises(ValueError, match="0 different pairs"):
        calibrate(torch.ones(2), torch.ones(0))
