"""Transfer: adversarial images made on another model by any attack with its options."""

import pytest
import torch
from helpers.networks import errs, made_images, trained
from torch import nn

from sprout_fast.attacks import Attack
from sprout_fast.attacks.pgd import pgd
from sprout_fast.attacks.transfer import transfer
from sprout_fast.errors import UserError


class Never(nn.Module):
    def forward(self, images):
        raise AssertionError("the model under attack was evaluated")


def test_it_equals_the_attack_on_the_surrogate():
    surrogate, (images, labels) = trained(False), made_images(20, seed=0)
    got = transfer(Never(), images, labels, surrogate=surrogate, eps=0.03, steps=3, seed=2)
    expected = pgd(surrogate, images, labels, eps=0.03, steps=3, seed=2, early_stop=False)
    assert torch.equal(got, expected)
    options = {"attack": "cw_l2", "binary_searches": 2, "steps": 20, "initial_constant": 10.0}
    assert errs(
        surrogate, transfer(Never(), images, labels, surrogate=surrogate, **options), labels
    ).all()


def test_as_a_bound_attack():
    surrogate, (images, labels) = trained(False), made_images(20, seed=0)
    attack = Attack("transfer", Never(), surrogate=surrogate, eps=0.25, steps=3, early_stop=True)
    assert str(attack) == "transfer(surrogate=Sequential, eps=0.25, steps=3, early_stop=True)"
    first = attack(images, labels)
    assert errs(surrogate, first, labels).all()
    assert not torch.equal(first, attack(images, labels))  # its random numbers continue


def test_options_are_those_of_the_attack():
    with pytest.raises(UserError, match="option of attack pgd: got 'step'.*did you mean steps"):
        Attack("transfer", Never(), surrogate=Never(), step=3)
    with pytest.raises(UserError, match="option of attack cw_l2: got 'restarts'"):
        Attack("transfer", Never(), surrogate=Never(), attack="cw_l2", restarts=3)
    with pytest.raises(UserError, match="attack: got 'pdg'.*did you mean pgd"):
        Attack("transfer", Never(), surrogate=Never(), attack="pdg")
    images, labels = made_images(2, seed=0)
    with pytest.raises(UserError, match="option of attack pgd: got 'step'"):
        transfer(Never(), images, labels, surrogate=Never(), step=3)
