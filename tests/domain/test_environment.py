import os

import pytest

from api.domain.commands import runnable
from api.domain.environment import ignore_foreign_variables, read_settings

DATABASE = "OPAD_DATABASE_URL is no address of a database; write postgresql://user:password@host:5432/opad"


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # without a .env
    return tmp_path


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("PORT", "", "OPAD_PORT is empty; give it a value, or remove it from the environment and from .env"),
        ("HOME", " ", "OPAD_HOME is empty; give it a value, or remove it from the environment and from .env"),
        ("TRAINS", "", "OPAD_TRAINS is empty; give it a value, or remove it from the environment and from .env"),
        ("PORT", "http", "OPAD_PORT is 'http': input should be a valid integer, unable to parse string as an integer; "
         "correct it in the environment or in .env"),
        ("PORT", "70000", "OPAD_PORT is '70000': input should be less than or equal to 65535; "
         "correct it in the environment or in .env"),
        ("ENGINE_URLS", "http://e:1", "OPAD_ENGINE_URLS is 'http://e:1', which is not a list in JSON; "
         'write for instance ["http://e:1"]'),
        ("ENGINE_URLS", '["e:1"]', "OPAD_ENGINE_URLS names 'e:1'; "
         "write http://host:8100, dns+http://name:8100 or unix:/path"),
        ("DATABASE_URL", "mysql://u:hidden@h/d", DATABASE),
        ("DATABASE_URL", "postgresql://u:hid@den:x@h:p/d", DATABASE),
        ("REDIS_URL", "u:hidden@host", "OPAD_REDIS_URL does not begin with redis://, rediss://, redis+socket://; "
         "write redis://:password@host:6379/0"),
        ("S3_ENDPOINT", "s3.test", "OPAD_S3_ENDPOINT is 's3.test'; "
         "write an address that begins with https:// or http://"),
        ("HOME", "~no-such-user/x", "OPAD_HOME is '~no-such-user/x', but there is no such home folder; "
         "write the whole path"),
        ("DEVICE", "gpu", "OPAD_DEVICE is 'gpu'; use auto, cpu, cuda, or cuda:1 for the second GPU"),
        ("PUBLIC_URL", "example.org/opad", "OPAD_PUBLIC_URL is 'example.org/opad'; "
         "write an address such as https://example.org or https://example.org/opad"),
        ("PUBLIC_URL", "https://example.org/opad?a", "OPAD_PUBLIC_URL is 'https://example.org/opad?a'; "
         "write an address such as https://example.org or https://example.org/opad"),
        ("PUBLIC_URL", "https://example.org/v1/", "OPAD_PUBLIC_URL is 'https://example.org/v1/'; "
         "leave out /v1, which is a path of the service itself"),
        ("TRUSTED_PROXIES", "10.0.0.5, proxy", "OPAD_TRUSTED_PROXIES contains 'proxy'; "
         "write addresses and networks, such as 10.0.0.5,10.1.0.0/16, or *"),
        ("LEASE_SECONDS", "15", "OPAD_LEASE_SECONDS=15 is too short for OPAD_HEARTBEAT_SECONDS=10; "
         "make it at least twice as long"),
    ],
)  # fmt: skip
def test_an_unusable_setting_ends_the_program_with_a_sentence(monkeypatch, capsys, name, value, sentence):
    monkeypatch.setenv(f"OPAD_{name}", value)
    assert_ends_with(capsys, sentence)


def assert_ends_with(capsys, *sentences, needed=(), **given):
    with pytest.raises(SystemExit) as ended:
        read_settings(*needed, **given)
    assert ended.value.code == 2
    assert capsys.readouterr().err.splitlines() == [f"opad: {runnable(sentence)}" for sentence in sentences]


def test_every_unusable_setting_is_named_at_once(monkeypatch, capsys):
    monkeypatch.setenv("OPAD_CONSENT", "never")
    monkeypatch.setenv("OPAD_DEVICE", "gpu")
    assert_ends_with(
        capsys,
        "OPAD_DEVICE is 'gpu'; use auto, cpu, cuda, or cuda:1 for the second GPU",
        "OPAD_CONSENT is 'never': input should be 'ask' or 'policy'; correct it in the environment or in .env",
    )


def test_an_option_is_named_as_it_was_given(capsys):
    assert_ends_with(
        capsys,
        "--port is 70000: input should be less than or equal to 65535; correct it in the environment or in .env",
        port=70000,
    )


def test_a_needed_setting_that_is_missing_is_named(capsys):
    assert_ends_with(
        capsys,
        "OPAD_REDIS_URL is not set; start the embedded servers with `opad up` or set it",
        needed=("redis_url",),
    )


def test_a_user_without_a_home_folder_is_asked_for_one(monkeypatch, capsys):
    monkeypatch.setattr(os, "geteuid", lambda: 54321)  # root has a data folder without a home folder
    monkeypatch.setenv("HOME", "~")
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    assert_ends_with(capsys, "OPAD_HOME is not set and this user has no home folder; set it to a folder")


def test_a_file_of_settings_that_is_no_text_is_named(elsewhere, capsys):
    (elsewhere / ".env").write_bytes(b"OPAD_BASE=caf\xe9\n")
    assert_ends_with(capsys, "the file .env is not UTF-8 text: invalid continuation byte; save it as UTF-8")


def test_what_hosting_services_call_a_database_is_one(monkeypatch):
    monkeypatch.setenv("OPAD_DATABASE_URL", "postgres://u:p@h:5432/d")
    settings = read_settings()
    assert settings.database_url == "postgresql://u:p@h:5432/d"
    assert settings.sqlalchemy_url == "postgresql+psycopg://u:p@h:5432/d"


def test_a_leading_tilde_is_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    names = ("HOME", "BASES_DIR", "DENIED_WORDS", "BASE", "S3_CA_FILE")
    for name in names:
        monkeypatch.setenv(f"OPAD_{name}", f"~/{name}")
    monkeypatch.setenv("HOME", str(tmp_path))
    settings = read_settings()
    assert {str(getattr(settings, name.lower())) for name in names} == {f"{tmp_path}/{name}" for name in names}


def test_variables_of_other_software_are_removed_and_ours_stay(monkeypatch, tmp_path):
    authorities = tmp_path / "authorities.pem"
    authorities.write_text("")
    removed = ("PGSERVICE", "AWS_PROFILE", "CELERY_BROKER_URL", "WEED_JWT_SIGNING_KEY", "WEB_CONCURRENCY")
    for name in removed:
        monkeypatch.setenv(name, "x")
    kept = {"OPAD_BASE": "nano", "HTTPS_PROXY": "http://proxy:3128", "SSL_CERT_FILE": str(authorities), "PGX_OURS": "1"}
    for name, value in kept.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "missing.pem"))
    ignore_foreign_variables()
    assert not {*removed, "REQUESTS_CA_BUNDLE"} & os.environ.keys()
    assert {name: os.environ.get(name) for name in kept} == kept
