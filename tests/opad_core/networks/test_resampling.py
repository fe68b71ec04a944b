import pytest
import torch
import torch.nn.functional as F

from opad_core.networks.resampling import pyramid_down, reflect_pad, resize

X = torch.rand(2, 3, 20, 14, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_resizing_is_torchs_own_interpolation(mode):
    expected = F.interpolate(X, (9, 9), mode=mode, antialias=True, align_corners=False)
    torch.testing.assert_close(resize(X, 9, mode), expected, atol=1e-5, rtol=0)  # float32 sums in another order


def test_area_is_adaptive_average_pooling():
    torch.testing.assert_close(resize(X, 7, "area"), F.adaptive_avg_pool2d(X, 7), atol=1e-6, rtol=0)


def test_padding_mirrors_without_the_edge():
    torch.testing.assert_close(reflect_pad(X, 5), F.pad(X, (5, 5, 5, 5), mode="reflect"), atol=0, rtol=0)


def test_a_pyramid_level_is_a_blur_and_every_second_pixel():
    taps = torch.tensor([1.0, 4, 6, 4, 1])
    kernel = (taps[:, None] * taps / 256).expand(3, 1, 5, 5)
    blurred = F.conv2d(F.pad(X, (2, 2, 2, 2), mode="reflect"), kernel, groups=3)
    torch.testing.assert_close(pyramid_down(X), blurred[..., ::2, ::2], atol=1e-6, rtol=0)
