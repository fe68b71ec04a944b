"""Names that standard terms replaced do not come back: in code, pages, settings and docs.

Left out are the places that must name them: migrations and their tests, the changelog and the decisions.
"""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = (".ci", "api", "bench", "docker", "docs", "examples", "opad_core", "tests", "worker")
SUFFIXES = {".css", ".html", ".js", ".json", ".md", ".py", ".sh", ".toml", ".yaml", ".yml"}
HISTORY = (
    "CHANGELOG.md",
    "docs/decisions",
    "tests/migrations",
    "tests/test_retired_names.py",
    "api/dashboard/static/vendor",
)
VENDORED = "api/dashboard/static/vendor"

RETIRED = {
    "settings of the method": """
        select_every decode_share compared_below rec_times target_times lambda_anchor photo_share normalise_backbones
    """,
    "settings of the service": """
        keep_photos_days KEEP_PHOTOS_DAYS storage_patience_seconds STORAGE_PATIENCE_SECONDS
    """,
    "fields, codes and tables of the API": """
        photos_gone picture_refused generate_tally GenerateTally Presence PresenceRow
    """,
    "opad_core": """
        Judged JUDGES TextSide summarise look_is_due SOUND_EVERY ROLLBACK_RATE PREVIEW_PICTURES anchor_states as_pixels
        to_pictures feature_of photo_examples photo_pixels draw_banks TrainingState _SelfAttention embedded_pictures
        FULL_SIZE licences normalise
    """,
    "service": """
        Tally tally RING_TASK ring_queue hear_rings create_doorbell furnish ending_with_us patiently
        newest_sound_checkpoint tend_until_stopped sizes_of_photos was_faster wish_cancel
    """,
    "nano build": """
        judge_base lessons things Lesson Learners PLACES name_scenes random_thing draw_student draw_teacher
    """,
}
NAMES = sorted(name for names in RETIRED.values() for name in names.split())
WORDS = re.compile(rf"(?<![\w-])(?:{'|'.join(NAMES)})(?![\w-])")


def files() -> list[Path]:
    found = [file for folder in FOLDERS for file in (ROOT / folder).rglob("*") if file.suffix in SUFFIXES]
    found += [file for file in ROOT.iterdir() if file.suffix in SUFFIXES or file.name in ("Makefile", ".env.example")]
    return [file for file in found if not str(file.relative_to(ROOT)).startswith((*HISTORY, VENDORED))]


def test_no_retired_name_is_left():
    assert len(NAMES) == len(set(NAMES))
    left = {
        f"{file.relative_to(ROOT)}: {name}"
        for file in files()
        for name in WORDS.findall(file.read_text(errors="ignore"))
    }
    assert left == set()
