"""No credential leaves: every kind of them, through every place where a text is printed or stored."""

from __future__ import annotations

import io
import logging
import random
import string
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from loco_core.errors import LocoError, SpecError, first_line
from loco_core.masking import (
    has_password,
    holds_credential,
    is_credential_name,
    is_plain_value,
    mask_everything,
    masked,
)
from orchestrator.backends.inline import InlineBackend
from orchestrator.scheduler.host import MESSAGE_LENGTH, one_line
from orchestrator.scheduler.needs import WorkerNeeds
from orchestrator.scheduler.protocol import (
    Attempt,
    BindFailed,
    Unit,
    UnitReport,
)
from orchestrator.spec.cluster import RuntimeEnvSpec
from tests.support.sweeps import Command

_SOURCE = random.Random(0)


def letters(count: int, more: str = "") -> str:
    return "".join(_SOURCE.choices(string.ascii_letters + string.digits + more, k=count)) + "7"


def upper(count: int) -> str:
    return "".join(_SOURCE.choices(string.ascii_uppercase + string.digits, k=count))


SECRETS: dict[str, tuple[str, str]] = {
    "AWS key": ("{}", f"AKIA{upper(16)}"),
    "AWS session key": ("x={}", f"ASIA{upper(16)}"),
    "AWS secret": ("AWS_SECRET_ACCESS_KEY={} next", letters(40, "/+")),
    "AWS secret in a file": ("aws_secret_access_key = {}", letters(40, "/+")),
    "GitHub token": ("remote {} said no", f"ghp_{letters(36)}"),
    "GitHub app token": ("{}", f"ghs_{letters(36)}"),
    "GitHub fine-grained token": ("{}", f"github_pat_{letters(22)}_{letters(59)}"),
    "GitLab token": ("{}", f"glpat-{letters(20)}"),
    "hub token": ("401 for '{}'", f"hf_{letters(34)}"),
    "OpenAI key": ("Incorrect API key provided: {}.", f"sk-proj-{letters(40, '_-')}"),
    "Slack token": ("{}", f"xoxb-{letters(12)}-{letters(24)}"),
    "Google key": ("{}", f"AIza{letters(34, '_-')}"),
    "JWT": ("bearer {}", f"eyJ{letters(20)}.eyJ{letters(30)}.{letters(40, '_-')}"),
    "private key": (
        "{}", f"-----BEGIN RSA PRIVATE KEY-----\n{letters(70)}\n{letters(9)}\n-----END RSA PRIVATE KEY-----"
    ),
    "cut private key": ("{}", f"-----BEGIN PRIVATE KEY-----\n{letters(70)}\n{letters(30)}"),
    "password in an address": ("postgres://me:{}@db:5432/x", letters(12)),
    "password with an at sign": ("https://me:{}@host/simple", f"{letters(5)}@{letters(5)}"),
    "secret in a bucket's address": ("s3://key:{}@bucket/folder", f"{letters(10)}/{letters(10)}+{letters(4)}"),
    "token as the user": ("git+https://{}@host/me/x.git", letters(30)),
    "no user": ("redis://:{}@cache:6379/0", letters(16)),
    "header": ("Authorization: Bearer {}", letters(40, "._-")),
    "PGPASSWORD": ("PGPASSWORD={} psql", letters(8)),
    "dictionary": ("env {{'GITHUB_PAT': '{}', 'A': 'b'}}", letters(20)),
    "JSON": ('{{"OPENAI_KEY": "{}"}}', letters(20)),
    "query": ("https://host/x?token={}&page=2", letters(20)),
    "bytes in a dictionary": ("{{b'token': b'{}'}}", "hunter2secret"),
    "bytes": ("connect(password=b'{}')", "hunter2secret"),
    "YAML": ("password: {}\nuser: me", "huntersecret"),
    "YAML in quotes": ("password: '{}'\n", "huntersecret"),
    "AWS secret in YAML": ("AWS_SECRET_ACCESS_KEY: {} # of the lab", letters(40, "/+")),
    "header of its own": ("X-Auth-Token: {}", letters(24)),
    "header in a dictionary": ("{{'Authorization': 'Basic {}'}}", letters(24, "/+")),
    "header with a token": ("Authorization: token {}", "huntersecret"),
    "JSON in JSON": ('{{"body": "{{\\"user\\": \\"me\\", \\"token\\": \\"{}\\"}}"}}', "huntersecret"),
    "in another value": ("command='psql --x password={}'", "huntersecret"),
    "bearer in a sentence": ("it was sent with bearer {} twice", letters(30)),
    "private name": ("_password={}", "huntersecret"),
}  # fmt: skip
HARMLESS = (
    "http://head:8265/x@y", "git+ssh://git@github.com/x/y@v1", "git+https://github.com/a/b@v2", "s3://bucket/a@b",
    "127.0.0.1:6379 wants a token: set RAY_AUTH_TOKEN (or RAY_AUTH_TOKEN_PATH, a file) to that of the cluster",
    "tokens: all; tokens=all; max_tokens=77", "runtime_env.env_vars.MY_TOKEN: looks like a credential",
    "task-abcdefghijklmnopqrst0123 and hf_hub_download(repo_id='a/b')", "monkey=1, keys: 2, key=z, sites=4-7",
    "style/van-gogh, basic functionality of a bearer", "unit 3f9a0c, revision 5f0ac1d4e7b2c3d4e5f60718293a4b5c6d7e8f90",
    "10.0.0.1:6379/a@b http://h:80", "the basic stabilityai/stable-diffusion-2-1 model",
    "a basic stable-diffusion-xl-base-1.0 model", "if pad_token == eos_token", "pad_token_id=49407", "pad_token: 49407",
    "eos_token='<|endoftext|>'", "placeholder_token='<sks>'", "unknown token: '<|endoftext|>'", "max_token_length=77",
    "use_auth_token=None", "use_auth_token: False", "forward_pass=3", "cache_key='unet.down_blocks'",
    "a photo of a dog, token=sks", "models/sk-dreambooth-lora-toys", "http://localhost:8080?x=a@b",
    "http://localhost?x=a@b", "s3://lab/sk-diffusion-sweep-2026", "s3://b/run_key=3/x",
    "env_vars.MY_TOKEN: expected none", "https://me:${PIP_TOKEN}@pypi.lab/simple https://${PIP_TOKEN}@pypi.lab/simple",
    "HF_TOKEN_PATH=/home/me/.token", "GOOGLE_APPLICATION_CREDENTIALS=/home/me/lab.json",
)  # fmt: skip


@pytest.fixture(params=list(SECRETS))
def secret(request: pytest.FixtureRequest) -> tuple[str, str]:
    """A text, and the part of it that nobody may see."""
    frame, value = SECRETS[request.param]
    return f"it failed: {frame.format(value)}", value


def unseen(value: str, where: str) -> None:
    assert "it failed" in where
    for part in value.split():
        # Not even a good part of it.
        assert len(part) < 8 or part[4:] not in where, where
    assert "***" in where


def logged(text: str) -> str:
    stream = io.StringIO()
    logger, handler = logging.Logger("test"), logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(handler)
    mask_everything()
    logger.warning("message %s", text)
    try:
        raise ValueError(text)
    except ValueError:
        logger.exception("it went wrong")
    return stream.getvalue()


def bound(text: str) -> str:
    def make(model: str) -> InlineBackend:
        raise RuntimeError(text)

    backend = InlineBackend(make, threads=1)  # type: ignore[arg-type]
    backend.start_worker("w", WorkerNeeds(), frozenset())
    backend.bind("w", "toy")
    backend.poll(0)
    (event,) = backend.poll(0)
    assert isinstance(event, BindFailed)
    return event.error


def reported(text: str) -> str:
    class Failing:
        def run(self, unit: Unit, attempt: Attempt) -> UnitReport:
            raise RuntimeError(text)

    backend = InlineBackend(lambda model: Failing(), threads=1)
    backend.start_worker("w", WorkerNeeds(), frozenset())
    backend.bind("w", "toy")
    backend.dispatch("w", Unit("u", "sweep", "toy", 0, 0.1, None, WorkerNeeds()), Attempt(1))
    events = [event for _ in range(3) for event in backend.poll(0)]
    return str(events[-1].report.error)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "way",
    [
        masked, one_line, lambda text: str(LocoError(text)), lambda text: first_line(ValueError(text)), logged, bound,
        reported,
    ],
    ids=["masked", "line", "our error", "library's error", "log", "loading", "unit"],
)  # fmt: skip
def test_no_credential_leaves_by_any_way(secret: tuple[str, str], way: Callable[[str], str]) -> None:
    text, value = secret
    assert holds_credential(text)
    unseen(value, way(text))


def test_a_credential_is_masked_before_a_message_is_cut() -> None:
    value = f"ghp_{letters(36)}"
    for before in range(MESSAGE_LENGTH - 60, MESSAGE_LENGTH):
        assert value[:12] not in one_line("x" * before + " " + value)


@pytest.mark.parametrize("text", HARMLESS)
def test_what_is_no_credential_is_printed_as_it_is(text: str) -> None:
    assert masked(text) == text


@pytest.mark.parametrize(
    "part",
    [
        "a", "a_", "-", "://a:", "http://a", "token", "token=", "token: /a", "'token': '", "sk-", "sk-a", "eyJaaaaaa-",
        "basic ", "bearer a", "Authorization: ", "-----BEGIN ", "-----BEGIN PRIVATE KEY-----", "\\", "\\'", "token='\\",
        "_", "AKIA", "xoxb-", "token=/a", "=", "x: ",
    ],
)  # fmt: skip
def test_a_long_text_is_masked_in_a_time_that_grows_as_it_does(part: str) -> None:
    text = part * (200_000 // len(part))
    begun = time.process_time()
    masked(text)
    # Twice as long for every letter before it would take minutes.
    assert time.process_time() - begun < 5


def test_names_of_credentials() -> None:
    secret = """
        HF_TOKEN WANDB_API_KEY DB_PASSWD PGPASSWORD MYSQL_PWD DATABASE_URL REDIS_URL GITHUB_PAT OPENAI_KEY GHTOKEN
        AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY SSH_KEY BASIC_AUTH SENTRY_DSN AZURE_STORAGE_CONNECTION_STRING
        GPG_PASSPHRASE SESSION_COOKIE my-api-key apikey
    """
    plain = """
        TOKENIZERS_PARALLELISM HF_HOME PATH PYTHONPATH PWD OLDPWD MAX_TOKENS NUM_TOKENS KEYBOARD MONKEY SPATIAL_DIM
        AWS_ENDPOINT_URL AWS_PROFILE OMP_NUM_THREADS COMPASS PASSES CUDA_VISIBLE_DEVICES SSH_AUTH_SOCK XAUTHORITY
    """
    assert [name for name in secret.split() if not is_credential_name(name)] == []
    assert [name for name in plain.split() if is_credential_name(name)] == []


@pytest.mark.parametrize(
    "line",
    ["scorer: {}", "attributes: [{}]", "results: s3://a:{}@b", "models: [{{id: x, path: {}}}]", "{}: 1", "name: [{}]"],
)
def test_a_mistake_in_a_sweep_does_not_print_one(line: str, command: Command, tmp_path: Path) -> None:
    value = f"github_pat_{letters(22)}_{letters(59)}"
    base = {"name": "s", "models": "[toy]", "attributes": "[style/lumio]", "scorer": "toy-clip"}
    key = line.split(":")[0]
    lines = [f"{name}: {text}" for name, text in base.items() if name != key]
    (tmp_path / "sweep.yaml").write_text("\n".join([*lines, line.format(value)]) + "\n")
    for words in (
        ("plan", tmp_path / "sweep.yaml"),
        ("run", tmp_path / "sweep.yaml", "--results", f"s3://a:{value}@b"),
    ):
        code, out, err = command(*words)
        assert code or words[0] == "plan"
        assert value[14:] not in out + err


def test_results_and_cluster_files_with_one_are_refused(command: Command, tmp_path: Path) -> None:
    value = letters(20)
    code, _, err = command("status", f"s3://key:{value}@bucket/run")
    assert (code, err.count("\n"), value in err) == (1, 1, False)
    assert "expected one without a password" in err
    (tmp_path / "sweep.yaml").write_text("{name: s, models: [toy], attributes: [style/lumio], scorer: toy-clip}")
    for change in (
        f"results: s3://key:{value}@bucket/run", f"cluster: {{address: 'http://me:{value}@head:8265'}}",
        f"runtime_env: {{env_vars: {{PGPASSWORD: {value}}}}}", f"runtime_env: {{env_vars: {{X: hf_{value * 2}}}}}",
        f"runtime_env: {{env_vars: {{HTTPS_PROXY: 'http://me:{value}@proxy:80'}}}}",
        f"runtime_env: {{pip: ['--extra-index-url https://me:{value}@pypi.lab/simple', x]}}",
        f"runtime_env: {{pip: ['git+https://{value}@github.com/me/x']}}",
    ):  # fmt: skip
        given = {"name": "s", "sweep": "sweep.yaml", "results": "s3://b/r", "cluster": "{address: 'http://head:8265'}"}
        key, _, text = change.partition(": ")
        lines = [f"{name}: {words}" for name, words in {**given, key: text}.items()]
        (tmp_path / "cluster.yaml").write_text("\n".join(lines))
        code, out, err = command("submit", tmp_path / "cluster.yaml", "--dry-run")
        assert (code, out, err.count("\n"), value in err) == (2, "", 1, False), (change, err)
        assert "cluster.yaml:" in err, err


@pytest.mark.parametrize("how", ["main.app = broken", "main.app.command('broken')(broken)"])
def test_a_traceback_that_ends_a_process_is_masked(how: str) -> None:
    value = f"hf_{letters(34)}"
    code = f"""
        import sys
        from orchestrator.cli import main
        def broken():
            raise KeyError("it failed: {value[:10]}" + "{value[10:]}")
        {how}
        sys.argv = ["loco-sweep", "broken"]
        main.main()
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "KeyError" in done.stderr
    unseen(value, done.stderr)


def test_a_log_call_whose_arguments_do_not_fit_goes_on() -> None:
    mask_everything()
    logger = logging.Logger("test")
    logger.addHandler(logging.NullHandler())
    logger.warning("%d files", "three")


def test_warnings_and_tracebacks_of_threads_are_masked() -> None:
    value = f"hf_{letters(34)}"
    code = f"""
        import threading, warnings
        from loco_core.masking import mask_everything
        mask_everything()
        class Broken:
            def __del__(self):
                raise KeyError("it failed: {value[:10]}" + "{value[10:]}")
        warnings.warn("it failed: {value[:10]}" + "{value[10:]}")
        thread = threading.Thread(target=Broken().__del__)
        thread.start()
        thread.join()
        Broken()
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert done.stderr.count("it failed: ***") >= 3, done.stderr
    unseen(value, done.stderr)


def test_environments_and_addresses_that_hold_none_are_taken() -> None:
    env = {
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1", "GOOGLE_APPLICATION_CREDENTIALS": "/mnt/keys/lab.json",
        "AWS_SHARED_CREDENTIALS_FILE": "~/.aws/credentials", "HF_TOKEN_PATH": "/mnt/token", "HF_TOKEN": "${HF_TOKEN}",
    }  # fmt: skip
    RuntimeEnvSpec(env_vars=env, pip=("--extra-index-url https://me:${PIP_TOKEN}@pypi.lab/simple", "x"))
    for address in ("s3://b/run_key=3/x", "s3://lab/sk-diffusion-sweep-2026", "http://head:8265"):
        assert not has_password(address)
    assert has_password(f"s3://key:{letters(20)}@bucket/x")
    assert not is_plain_value("/" + letters(39, "/+").replace("7", "A7"))


def test_errors_of_ours_keep_their_parts() -> None:
    error = SpecError("plain")
    assert (str(error), error.args, error.exit_code) == ("plain", ("plain",), 2)
