import json

from PIL import Image

from opad_core.evaluation.curves import draw_losses, read_losses


def test_curves_are_plotted_if_a_loss_is_missing(tmp_path):
    losses = [{"rec": 2.0 / step, "adv_dino": 0.1 * step} for step in range(1, 30)]
    draw_losses(losses, tmp_path / "loss.png")
    image = Image.open(tmp_path / "loss.png").convert("RGB")
    colors = {color for _, color in image.getcolors(maxcolors=1 << 24)}
    assert (31, 119, 180) in colors  # matplotlib's first line color, at full strength in the bold line


def test_losses_are_read_back_line_by_line(tmp_path):
    (tmp_path / "losses.jsonl").write_text(json.dumps({"rec": 1.5}) + "\n" + json.dumps({"rec": 1.0}) + "\n")
    assert read_losses(tmp_path / "losses.jsonl") == [{"rec": 1.5}, {"rec": 1.0}]
    assert read_losses(tmp_path / "none.jsonl") == []
