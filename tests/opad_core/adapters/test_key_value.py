import torch

from opad_core.adapters.key_value import KeyValueProjections


def test_the_start_token_teaches_the_projections_nothing():
    projections = KeyValueProjections({"layer": (torch.eye(2), torch.eye(2))})
    states = torch.tensor([[[3.0, 5.0], [0.0, 0.0]]])  # only the first token is not zero
    key, value = projections(states)["layer"]
    assert key[0, 0].tolist() == [3.0, 5.0]
    (key + value).sum().backward()
    assert projections.to_k[0].grad.abs().sum() == 0
