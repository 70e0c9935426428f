import torch

from ovseg_cli.losses.self_distillation import self_distillation_loss


def test_by_hand() -> None:
    """Probabilities 1/2, 1/2 against 3/4, 1/4: a quarter's square, halved, twice, over two."""
    student = torch.zeros(1, 2, requires_grad=True)
    teacher = torch.tensor([[3.0, 1.0]]).log().requires_grad_(True)
    loss = self_distillation_loss(student, teacher)
    torch.testing.assert_close(loss, torch.tensor(0.5 * 0.25**2))
    loss.backward()
    assert student.grad[0, 0] < 0 < student.grad[0, 1]
    assert teacher.grad is None


def test_equal_probabilities_cost_nothing_whatever_the_logits() -> None:
    logits = torch.randn(3, 5)
    torch.testing.assert_close(self_distillation_loss(logits, logits + 2), torch.tensor(0.0))
