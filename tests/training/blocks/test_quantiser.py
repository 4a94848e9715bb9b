import math

import pytest
import torch

from roost_training.blocks.quantiser import Quantiser, nearest, perplexity


def codebook_of(entries: list[list[float]], *, decay: float = 0.5) -> Quantiser:
    """A codebook whose every code has stood for two vectors a step."""
    quantiser = Quantiser(codes=len(entries), dim=len(entries[0]), decay=decay)
    quantiser.codebook.copy_(torch.tensor(entries))
    quantiser.counts.fill_(2)
    quantiser.sums.copy_(2 * quantiser.codebook)
    return quantiser


def test_each_vector_becomes_its_nearest_code():
    quantiser = codebook_of([[0.0, 0.0], [4.0, 0.0]]).eval()
    found = quantiser(torch.tensor([[1.0, 0.0], [3.0, 1.0]]))
    assert found.codes.tolist() == [0, 1]
    assert found.values.tolist() == [[0, 0], [4, 0]]
    assert found.commitment.item() == pytest.approx((1 + 0 + 1 + 1) / 4)


def test_the_nearest_code_is_that_of_all_distances_written_out():
    torch.manual_seed(0)
    vectors, codebook = torch.randn(50, 6), torch.randn(9, 6)
    naive = [min(range(9), key=lambda k: float((v - codebook[k]).square().sum())) for v in vectors]
    assert nearest(vectors, codebook).tolist() == naive


def test_the_gradient_of_the_values_passes_straight_to_the_vectors():
    vectors = torch.tensor([[1.0, 2.0]], requires_grad=True)
    (codebook_of([[0.0, 0.0]]).eval()(vectors).values * torch.tensor([3.0, 5.0])).sum().backward()
    assert vectors.grad.tolist() == [[3, 5]]


def test_the_commitment_draws_vectors_to_their_codes():
    vectors = torch.tensor([[1.0, 2.0]], requires_grad=True)
    codebook_of([[0.0, 0.0]]).eval()(vectors).commitment.backward()
    assert vectors.grad.tolist() == [[1, 2]]  # 2 (v - e) over two values


def test_a_code_moves_towards_the_mean_of_what_it_stands_for():
    quantiser = codebook_of([[0.0], [10.0]])
    quantiser(torch.tensor([[1.0], [2.0], [3.0], [10.0]]))
    # Counts: (2 + 3) / 2 and (2 + 1) / 2; sums: (0 + 6) / 2 and (20 + 10) / 2.
    assert quantiser.counts.tolist() == [2.5, 1.5]
    assert quantiser.codebook[:, 0].tolist() == pytest.approx([3 / 2.5, 15 / 1.5])


def test_codes_do_not_move_in_evaluation():
    quantiser = codebook_of([[0.0], [10.0]]).eval()
    quantiser(torch.tensor([[1.0], [2.0]]))
    assert quantiser.codebook[:, 0].tolist() == [0, 10]


def test_a_code_out_of_use_restarts_at_a_vector_of_the_batch():
    quantiser = codebook_of([[0.0], [1000.0]])
    quantiser.counts[1] = 0.01
    quantiser(torch.tensor([[5.0], [5.0], [5.0], [5.0]]))
    assert quantiser.codebook[1].item() == pytest.approx(5)


def test_at_the_first_step_every_code_is_a_vector_of_the_batch():
    torch.manual_seed(0)
    quantiser = Quantiser(codes=4, dim=2)
    vectors = torch.arange(8.0).view(4, 2)
    quantiser(vectors)
    assert quantiser.codebook.sort(0).values.flatten().tolist() == pytest.approx(vectors.flatten().tolist(), rel=1e-5)


def test_perplexity_counts_the_codes_in_use():
    assert perplexity(torch.tensor([3, 3, 3]), entries=8).item() == pytest.approx(1)
    assert perplexity(torch.tensor([0, 1, 2, 3]), entries=8).item() == pytest.approx(4)
    skewed = math.exp(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)))
    assert perplexity(torch.tensor([0, 0, 0, 1]), entries=8).item() == pytest.approx(skewed)


def one_of_two(rank: int, port: int, answers) -> None:
    """Three steps over half of the vectors: the codebook, in numbers."""
    from torch import distributed

    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    torch.manual_seed(7)
    quantiser = Quantiser(codes=6, dim=2, decay=0.5)
    torch.manual_seed(rank)
    for _ in range(3):
        quantiser(torch.randn(8, 2))
    answers.put((rank, quantiser.codebook.tolist(), quantiser.counts.sum().item()))
    distributed.barrier()
    distributed.destroy_process_group()


def test_two_processes_hold_one_codebook_of_the_vectors_of_both(in_two_processes):
    found = sorted(in_two_processes(one_of_two))
    assert found[0][1] == found[1][1]
    assert found[0][2] == pytest.approx(16, rel=0.1)  # restarts may add a share of a code's
