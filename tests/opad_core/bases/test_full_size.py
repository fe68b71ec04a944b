import torch

from opad_core.bases.full_size import FullSizeBase


def test_networks_have_the_same_half_precisions_as_in_a_loaded_base(tmp_path):
    half = FullSizeBase(tmp_path, torch.device("meta"), dtype=torch.float16)
    assert (half.teacher.unet.dtype, half.student.unet.dtype) == (torch.bfloat16, torch.float16)
    assert (half.text.encoder.dtype, half.vae.dtype) == (torch.float16, torch.float16)
    assert {backbone.dtype for backbone in half.backbones} == {torch.bfloat16}
