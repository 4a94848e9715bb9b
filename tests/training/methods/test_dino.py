import math

import pytest
import torch
from lightly.loss import DINOLoss

from roost_training import encoders
from roost_training.methods.dino import Config, Method, distillation


def scores(views: int, rows: int = 12, prototypes: int = 6) -> torch.Tensor:
    return torch.rand(views, rows, prototypes, generator=torch.Generator().manual_seed(views)) * 2 - 1


def loss_of(student: torch.Tensor, teacher: torch.Tensor, centre: torch.Tensor) -> float:
    return distillation(student, teacher, centre=centre, temperature=0.1, teacher_temperature=0.04).item()


def naive_distillation(student: torch.Tensor, teacher: torch.Tensor, centre: torch.Tensor) -> float:
    """The paper's algorithm 1, for any number of crops, with temperatures 0.1 and 0.04."""
    losses = []
    for t, target in enumerate(teacher):
        for s, prediction in enumerate(student):
            if s != t:
                p = torch.softmax((target - centre) / 0.04, dim=1)
                losses.append(float(-(p * torch.log(torch.softmax(prediction / 0.1, dim=1))).sum(1).mean()))
    return sum(losses) / len(losses)


def method(encoder: str = "resnet10w32", **settings) -> Method:
    torch.manual_seed(0)
    built, dim = encoders.build(encoder, image_size=16)
    return Method(Config(prototypes=8, dim=4, hidden=16, **settings), built, dim)


def crops(*sides: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(8, 3, side, side, generator=generator) for side in sides]


def test_a_certain_teacher_that_the_student_follows_costs_what_the_temperature_leaves():
    certain = torch.eye(4).expand(2, 4, 4)
    expected = math.log(1 + 3 * math.exp(-1 / 0.1))
    assert loss_of(certain, certain, torch.zeros(4)) == pytest.approx(expected, rel=1e-3)


def test_the_loss_equals_the_paper_s_algorithm():
    centre = scores(1)[0, 0]
    assert loss_of(scores(4), scores(2), centre) == pytest.approx(
        naive_distillation(scores(4), scores(2), centre), rel=1e-5
    )


def test_the_loss_equals_lightly_s():
    theirs = DINOLoss(output_dim=6, teacher_temp=0.04, student_temp=0.1)
    expected = theirs(list(scores(2)), list(scores(5)))
    assert loss_of(scores(5), scores(2), torch.zeros(6)) == pytest.approx(expected.item(), rel=1e-5)


def test_collapse_to_one_vector_costs_the_logarithm_of_its_length():
    assert loss_of(torch.full((4, 8, 16), 0.3), scores(2, 8, 16), torch.zeros(16)) == pytest.approx(math.log(16))


def test_what_all_images_share_is_taken_off_the_teacher():
    teacher, shift = scores(2), torch.tensor([9.0, 0, 0, 0, 0, 0])
    assert loss_of(scores(4), teacher + shift, shift) == pytest.approx(
        loss_of(scores(4), teacher, torch.zeros(6)), rel=1e-4
    )


def test_a_temperature_of_zero_is_refused():
    with pytest.raises(ValueError, match="must be positive"):
        distillation(scores(2), scores(2), centre=torch.zeros(6), temperature=0.0, teacher_temperature=0.04)


def test_the_centre_moves_a_tenth_of_the_way_to_the_teacher_s_mean():
    dino = method(centre_momentum=0.9)
    with torch.no_grad():
        mean = dino.teacher_head(dino.teacher(torch.cat(crops(16, 16)))).mean(0)
    dino(crops(16, 16, 8))
    assert torch.allclose(dino.centre, 0.1 * mean, atol=1e-6)


def test_the_teacher_follows_the_student_and_is_served():
    dino = method(momentum=0.5)
    with torch.no_grad():
        for parameter in dino.encoder.parameters():
            parameter.add_(1.0)
    before = [parameter.clone() for parameter in dino.served.parameters()]
    dino.after_step(0.0)
    assert all(torch.allclose(p, b + 0.5) for p, b in zip(dino.served.parameters(), before, strict=True))


def test_no_gradient_reaches_the_teacher():
    dino = method()
    dino(crops(16, 16, 8))["loss"].backward()
    assert all(p.grad is None for p in [*dino.teacher.parameters(), *dino.teacher_head.parameters()])


@pytest.mark.parametrize(("progress", "temperature"), [(0.0, 0.04), (0.1, 0.055), (0.2, 0.07), (0.9, 0.07)])
def test_the_teacher_s_temperature_rises_while_it_warms_up(progress, temperature):
    dino = method(first_teacher_temperature=0.04, teacher_temperature=0.07, temperature_warmup=0.2)
    dino.after_step(progress)
    assert dino.teacher_temperature.item() == pytest.approx(temperature)


def test_a_vit_learns_from_crops_smaller_than_its_images():
    dino = method("vit_ti_16")
    loss = dino(crops(16, 16, 8, 8))["loss"]
    loss.backward()
    assert dino.encoder.encoder.pos_embedding.grad.any()
