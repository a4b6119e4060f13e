"""Our Muon is PyTorch's, but for the rounding of bfloat16."""

import pytest
import torch

from models.train.muon import Muon, orthogonal


def weights():
    source = torch.Generator().manual_seed(4)
    return [torch.nn.Parameter(torch.randn(shape, generator=source)) for shape in ((24, 24), (24, 60), (60, 24), (24, 24))]


def moved(optimizer, parameters, steps=6):
    source = torch.Generator().manual_seed(5)
    for _ in range(steps):
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=source)
        optimizer.step()
    return parameters


def test_its_steps_are_those_of_pytorchs_muon_up_to_bfloat16():
    ours, theirs = weights(), weights()
    start = weights()
    moved(Muon(ours, lr=0.02, momentum=0.8, weight_decay=0.1), ours)
    moved(torch.optim.Muon(theirs, lr=0.02, momentum=0.8, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"), theirs)
    for our, their, first in zip(ours, theirs, start, strict=True):
        assert (our - their).norm() < 0.02 * (their - first).norm()


@pytest.mark.parametrize("shape", [(3, 24, 24), (2, 24, 60), (2, 60, 24)])
def test_singular_values_end_near_one_with_the_same_singular_vectors(shape):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(6))
    found = orthogonal(matrices)
    left, values, right = torch.linalg.svd(matrices, full_matrices=False)
    inside = left.mT @ found @ right.mT
    assert torch.allclose(inside, torch.diag_embed(inside.diagonal(dim1=-2, dim2=-1)), atol=1e-3)
    known = values > 0.02 * values[..., :1]
    assert ((inside.diagonal(dim1=-2, dim2=-1) - 1).abs()[known] < 0.55).all()


def test_a_matrix_of_zeros_and_a_weight_without_gradient_stay_as_they_are():
    assert not orthogonal(torch.zeros(1, 4, 6)).any()
    still = torch.nn.Parameter(torch.ones(3, 3))
    Muon([still], lr=0.1, momentum=0.8, weight_decay=0.1).step()
    assert (still == 1).all()
