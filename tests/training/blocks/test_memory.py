import pytest
import torch

from roost_training.blocks.memory import Bank, Queue


def numbered(*numbers: int) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float32)[:, None].repeat(1, 2)


def numbers_of(rows: torch.Tensor) -> list[int]:
    return rows[:, 0].int().tolist()


def test_the_oldest_keys_leave_first():
    queue = Queue(4, 2)
    queue.push(numbered(1, 2, 3))
    queue.push(numbered(4, 5, 6))
    assert numbers_of(queue.rows) == [5, 6, 3, 4]


def test_of_more_keys_than_there_are_places_the_last_stay():
    queue = Queue(3, 2)
    queue.push(numbered(1, 2, 3, 4, 5))
    assert sorted(numbers_of(queue.rows)) == [3, 4, 5]


def test_the_next_keys_after_too_many_take_the_oldest_place():
    queue = Queue(3, 2)
    queue.push(numbered(1, 2, 3, 4, 5))
    queue.push(numbered(6))
    assert sorted(numbers_of(queue.rows)) == [4, 5, 6]


def test_a_queue_is_full_once_every_place_is_taken():
    queue = Queue(4, 2)
    queue.push(numbered(1, 2, 3))
    before = queue.full
    queue.push(numbered(4))
    assert (before, queue.full) == (False, True)


def test_a_queue_begins_with_unit_vectors():
    assert torch.allclose(Queue(5, 8).rows.norm(dim=1), torch.ones(5))


def test_a_queue_goes_on_where_its_state_was_saved():
    queue, other = Queue(4, 2), Queue(4, 2)
    queue.push(numbered(1, 2, 3))
    other.load_state_dict(queue.state_dict())
    other.push(numbered(4, 5))
    assert numbers_of(other.rows) == [5, 2, 3, 4]


def test_no_gradient_follows_keys_into_a_queue():
    queue = Queue(4, 2)
    queue.push(numbered(1, 2).requires_grad_())
    assert not queue.rows.requires_grad


def test_a_vector_moves_half_way_to_the_new_one_and_back_to_unit_length():
    bank = Bank(3, 2)
    bank.load_state_dict({"rows": torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])})
    bank.update(torch.tensor([2]), torch.tensor([[0.0, 1.0]]), momentum=0.5)
    half = 0.5**0.5
    assert bank.rows.flatten().tolist() == pytest.approx([1, 0, 0, 1, half, half])


def test_a_momentum_of_zero_forgets_the_old_vectors():
    bank = Bank(4, 2)
    new = torch.tensor([[0.6, 0.8], [-1.0, 0.0]])
    bank.update(torch.tensor([3, 1]), new, momentum=0.0)
    assert torch.allclose(bank.rows[[3, 1]], new)


def two_processes(rank: int, port: int, answers) -> None:
    from torch import distributed

    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    torch.manual_seed(0)  # as the loop does for every process's first weights
    queue, bank = Queue(5, 2), Bank(4, 2)
    queue.push(numbered(10 * rank + 1, 10 * rank + 2))
    bank.update(torch.tensor([rank]), torch.tensor([[float(rank), 1.0 - rank]]), momentum=0.0)
    answers.put((rank, queue.rows.tolist(), bank.rows.tolist()))
    distributed.barrier()
    distributed.destroy_process_group()


def test_two_processes_remember_what_both_have_seen(in_two_processes):
    (_, *first), (_, *second) = sorted(in_two_processes(two_processes))

    queue, bank = first
    assert first == second
    assert queue[:4] == [[1, 1], [2, 2], [11, 11], [12, 12]]
    assert bank[:2] == [[0, 1], [1, 0]]
