"""Whole pulls: the list, the files, the cache that is shared with the official client, consent, space, limn's own folder."""
import json
import os
import pty
import re
import select
import subprocess
import time
import urllib.request

import pytest
from conftest import KLEIN, LIMN, ROOT, WANTED, model_files
from hub import Repository


def test_fetches_what_the_card_says(place, hub):
    hub.rate = 3_000_000
    done = place.pull("flux.2-klein-4b")
    assert done.returncode == 0, done.err
    place.check_snapshot(KLEIN, WANTED)
    assert (place.repository(KLEIN) / "refs" / "main").read_text() == hub.repositories[KLEIN].commit
    assert str(place.snapshot(KLEIN)) in done.out and "Apache License 2.0" in done.out
    assert "300.0 kB  vae/model-00001-of-00001.safetensors" in done.out and "GB free" in done.out
    assert not hub.asked(pattern="README|flux-2-klein-4b.safetensors")
    assert hub.most_busy > 1  # several at once


def test_fetches_nothing_twice(place, hub):
    assert place.pull("flux.2-klein-4b").returncode == 0
    before = len(hub.asked(pattern="resolve")), len(hub.asked("cdn"))
    done = place.pull("flux.2-klein-4b")
    assert done.returncode == 0 and "1.5 MB are here" in done.out, done.out
    assert (len(hub.asked(pattern="resolve")), len(hub.asked("cdn"))) == before


def test_a_new_commit_takes_what_is_the_same(place, hub):
    assert place.pull("flux.2-klein-4b").returncode == 0
    old = place.snapshot(KLEIN)
    hub.repositories[KLEIN].files["vae/config.json"] = b'{"c": 4}'
    hub.repositories[KLEIN].change()
    before = len(hub.asked("cdn"))
    assert place.pull("flux.2-klein-4b").returncode == 0
    place.check_snapshot(KLEIN, WANTED)
    assert len(hub.asked("cdn")) == before and (old / "vae/config.json").read_bytes() == b'{"c": 3}'


def test_a_repository_by_name(place, hub):
    files = {**model_files(2000), "vae/readme.txt": b"text", "vae/other.bin": b"no"}
    hub.repositories["some-one/a.model_1"] = Repository(files)
    hub.repositories["some-one/a.model_1"].refs["v1.0/x"] = hub.repositories["some-one/a.model_1"].commit
    done = place.pull("some-one/a.model_1@v1.0/x")
    assert done.returncode == 0, done.err
    place.check_snapshot("some-one/a.model_1", [*WANTED, "vae/readme.txt"])
    assert (place.repository("some-one/a.model_1") / "refs" / "v1.0" / "x").exists()
    # What is in no known layout comes whole; --include says otherwise.
    hub.repositories["some-one/lora"] = Repository({"lora.safetensors": b"1" * 5000, "README.md": b"r", "ü/ö.txt": b"u"})
    assert place.pull("some-one/lora", "--include", "*.safetensors").returncode == 0
    place.check_snapshot("some-one/lora", ["lora.safetensors"])
    assert place.pull("some-one/lora").returncode == 0
    place.check_snapshot("some-one/lora", ["lora.safetensors", "README.md", "ü/ö.txt"])


def test_a_list_of_many_pages(place, hub):
    hub.page = 3
    assert place.pull("flux.2-klein-4b").returncode == 0
    place.check_snapshot(KLEIN, WANTED)
    assert len(hub.asked("hub", "/tree/")) > 3


def test_redirects_on_the_same_host(place, hub):
    """As the real hub gives small files, also gated ones: there the token is needed again."""
    hub.relative = True
    hub.repositories["a/gated"] = Repository(model_files(2000), gated="auto")
    hub.tokens = {"t": {"a/gated"}}
    assert place.pull("a/gated", "--yes", HF_TOKEN="t").returncode == 0
    place.check_snapshot("a/gated", WANTED)
    assert len(hub.asked("hub", "resolve-cache")) >= 5


def test_empty_and_equal_files(place, hub):
    files = {"empty.json": b"", "a.bin": b"same" * 1000, "b.bin": b"same" * 1000, "one": b"1"}
    hub.repositories["a/b"] = Repository(files)
    done = place.pull("a/b")
    assert done.returncode == 0, done.err
    place.check_snapshot("a/b", files)


# ------------------------------------------------------------------------------------------------------ the official client

def client(place, code, **environment):
    import sys
    script = "import huggingface_hub, sys\n" + code
    return subprocess.run([sys.executable, "-c", script], env=dict(place.environment, HF_HUB_DISABLE_XET="1", **environment),
                          capture_output=True, text=True, timeout=120)


def test_the_client_finds_what_limn_fetched(place, hub):
    assert place.pull("flux.2-klein-4b").returncode == 0
    asked = len(hub.requests)
    done = client(place, f"""
folder = huggingface_hub.snapshot_download("{KLEIN}", local_files_only=True)
path = huggingface_hub.hf_hub_download("{KLEIN}", "vae/config.json")
assert open(path, "rb").read() == b'{{"c": 3}}' and path.startswith(folder)
cached = huggingface_hub.scan_cache_dir()
assert not cached.warnings, cached.warnings
assert [(r.repo_id, len(r.revisions), r.nb_files) for r in cached.repos] == [("{KLEIN}", 1, {len(WANTED)})], cached
print(folder)""", HF_HUB_OFFLINE="1")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(place.snapshot(KLEIN)) and len(hub.requests) == asked


def test_limn_finds_what_the_client_fetched(place, hub):
    patterns = ["model_index.json", "*/*.json", "*/*.safetensors"]
    done = client(place, f'huggingface_hub.snapshot_download("{KLEIN}", allow_patterns={patterns})')
    assert done.returncode == 0, done.stderr
    before = len(hub.asked(pattern="resolve")), len(hub.asked("cdn"))
    assert before[1] > 0
    done = place.pull("flux.2-klein-4b")
    assert done.returncode == 0, done.err
    assert (len(hub.asked(pattern="resolve")), len(hub.asked("cdn"))) == before
    place.check_snapshot(KLEIN, WANTED)


def test_the_client_goes_on_where_limn_ended(place, hub):
    assert place.pull("flux.2-klein-4b", "--include", "vae/*").returncode == 0
    asked = len(hub.asked("cdn"))
    done = client(place, f'huggingface_hub.snapshot_download("{KLEIN}", allow_patterns=["vae/*", "transformer/*"])')
    assert done.returncode == 0, done.stderr
    assert len(hub.asked("cdn", "/vae/")) == asked  # what limn fetched is taken
    place.check_snapshot(KLEIN, [path for path in WANTED if path.startswith(("vae/", "transformer/"))])


# ------------------------------------------------------------------------------------------------------------ consent

GATED = "some/gated"


@pytest.fixture
def gated(hub):
    hub.repositories[GATED] = Repository(model_files(2000), licence="other", gated="auto")
    hub.tokens = {"good": {GATED}, "other": set()}


def test_consent_is_needed(place, hub, gated):
    done = place.pull(GATED, HF_TOKEN="good")
    assert done.returncode == 1 and "--yes" in done.err and "gated" in done.err
    assert not hub.asked("cdn")
    assert place.pull(GATED, "--yes", HF_TOKEN="good").returncode == 0
    place.check_snapshot(GATED, WANTED)
    assert place.pull(GATED, HF_TOKEN="good").returncode == 0  # what is here needs no consent


@pytest.mark.parametrize("licence, asks", [("mit", False), ("apache-2.0", False), ("other", True), ("cc-by-nc-4.0", True)])
def test_licences_that_are_known(place, hub, licence, asks):
    hub.repositories["a/b"] = Repository({"x": b"x"}, licence=licence)
    assert place.pull("a/b").returncode == (1 if asks else 0)


def on_terminal(place, words, answer):
    """Runs limn pull on a terminal and answers its question; returns the exit status and what was shown."""
    process, terminal = pty.fork()
    if process == 0:
        os.execve(LIMN, [LIMN, "pull", *words], place.environment)
    shown, deadline = b"", time.monotonic() + 60
    while time.monotonic() < deadline:
        if select.select([terminal], [], [], 1)[0]:
            try:
                piece = os.read(terminal, 4096)
            except OSError:
                break
            if not piece:
                break
            shown += piece
            if answer and b"[y/N]" in shown:
                os.write(terminal, answer)
                answer = None
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), shown.decode(errors="replace")


def test_a_terminal_is_asked_and_shown(place, hub, gated):
    place.environment["HF_TOKEN"] = "good"
    status, shown = on_terminal(place, [GATED], b"n\n")
    assert status == 1 and "the answer was no" in shown and not hub.asked("cdn")
    hub.repositories[GATED] = Repository(model_files(200_000), licence="other", gated="auto")
    hub.rate = 400_000
    status, shown = on_terminal(place, [GATED], b"y\n")
    assert status == 0, shown
    assert " files, " in shown and "/s, " in shown and " left" in shown and "% " in shown
    place.check_snapshot(GATED, WANTED)


def test_a_dry_run_fetches_nothing(place, hub):
    done = place.pull("flux.2-klein-4b", "--dry-run")
    assert done.returncode == 0 and "transformer/model-00002-of-00002.safetensors" in done.out
    assert not hub.asked(pattern="resolve") and not place.cache.exists()


# ---------------------------------------------------------------------------------------------- limn's own folder, and using it

TEXT = "You see\nwhat is \"asked\" \u2192 and draw it."
SOURCE = '''"""A file of Python."""
import os  # not run
OTHER = "SYSTEM_MESSAGE = 'no'"
SYSTEM_MESSAGE = """You see
what is \\"asked\\" \\u2192""" " and draw it."
def function():
    raise SystemExit
'''
CARD = """
card: 1
id: drawn
name: Drawn
creator: us
release: 2026-11-22
summary: A model for tests.
licence: {name: MIT, spdx: MIT, commercial: true}
modes: [text-to-image, image-edit]
steps: {default: 2}
guidance: 2.5
sizes:
  default: 64x64
  sides: {least: 64, most: 2048}
  ratios: {least: "1:8", most: "8:1"}
  tiers: {least: 0.25K, most: 2K}
providers: [{slug: local, models: {text-to-image: drawn, image-edit: drawn}}]
weights:
  folder: drawn
  get: Run `limn pull drawn`
  repositories:
    - {repository: tests/model, files: ["*"]}
"""
MORE = """
    - {repository: tests/lora, files: [lora.safetensors], lora: 0.5}
  sigmas: [1.0, 0.00031]
  system_message: {repository: owner/code, revision: v1, file: src/messages.py, constant: SYSTEM_MESSAGE, sha256: HASH}
"""


@pytest.fixture
def cards(place, hub):
    """A card of the owner's whose model is the tiny one of the fixtures."""
    folder = ROOT / "tests" / "fixtures" / "model-a"
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    hub.repositories["tests/model"] = Repository(files)
    hub.repositories["tests/lora"] = Repository({"lora.safetensors": b"l" * 3000, "README.md": b"r"})
    hub.texts["/raw/owner/code/v1/src/messages.py"] = SOURCE.encode()
    cards = place.folder / "cards"
    cards.mkdir()
    settings = place.folder / "limn.yaml"
    settings.write_text(f"catalog: {{folder: {cards}}}\n")
    place.environment["LIMN_CONFIG"] = str(settings)

    def write(more=""):
        import hashlib
        (cards / "drawn.yaml").write_text(CARD.strip() + more.replace("HASH", hashlib.sha256(TEXT.encode()).hexdigest()))
    write()
    return write


def limn(place, *words):
    return subprocess.run([LIMN, *words], env=place.environment, capture_output=True, text=True, timeout=120)


def test_generate_finds_what_was_pulled(place, hub, cards):
    out = place.folder / "out.png"
    words = ["generate", "--model", "drawn", "a star", "--size", "64x64", "--steps", "1", "--seed", "1", "-o", str(out)]
    done = limn(place, *words)
    assert done.returncode == 1 and "limn pull drawn" in done.stderr, done.stderr
    assert place.pull("drawn").returncode == 0
    done = limn(place, *words)
    assert done.returncode == 0, done.stderr
    first = out.read_bytes()
    words[2] = "tests/model"  # the repository, from the cache
    assert limn(place, *words).returncode == 0
    words[2] = str(ROOT / "tests" / "fixtures" / "model-a")
    assert limn(place, *words).returncode == 0
    assert first[:8] == b"\x89PNG\r\n\x1a\n"
    assert limn(place, "inspect", "drawn").stdout == limn(place, "inspect", "tests/model").stdout != ""
    words[2] = "tests/other"
    done = limn(place, *words)
    assert done.returncode == 1 and "limn pull tests/other" in done.stderr
    words[2] = "drown"
    assert "did you mean" in limn(place, *words).stderr.lower()


def test_a_snapshot_has_its_repository_s_name(place, hub, cards):
    files = dict(hub.repositories["tests/model"].files)
    settings = json.loads(files["limn.json"])
    settings.pop("name", None)
    files["limn.json"] = json.dumps(settings).encode()
    hub.repositories["some-one/My-Model.2"] = Repository(files)
    assert place.pull("some-one/My-Model.2").returncode == 0
    done = limn(place, "generate", "--model", "some-one/My-Model.2", "a star", "--size", "64x64", "--steps", "1", "--json", "-o",
                str(place.folder / "x.png"))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["model"] == "My-Model.2"


def test_serve_finds_what_was_pulled(place, hub, cards):
    assert place.pull("drawn").returncode == 0
    refused = limn(place, "serve", "--model", "flux.2-klein-4b", "--port", "0")
    assert refused.returncode == 1 and "limn pull flux.2-klein-4b" in refused.stderr
    with subprocess.Popen([LIMN, "serve", "--model", "drawn", "--port", "0"], env=place.environment, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            line = next(line for line in process.stdout if " at http" in line)
            url = re.search(r"at (http://\S+)/openai/v1", line).group(1)
            with urllib.request.urlopen(url + "/openai/v1/models/drawn", timeout=30) as answer:
                assert json.load(answer)["installed"] is True
            assert "limn serves drawn " in line
        finally:
            process.terminate()


def test_what_is_half_there_is_not_used(place, hub, cards):
    hub.repositories["tests/model"].files["transformer/x-00001-of-00002.safetensors"] = b"x" * 2000
    hub.repositories["tests/model"].change()
    assert place.pull("drawn").returncode == 0
    done = limn(place, "generate", "--model", "drawn", "a star", "-o", str(place.folder / "x.png"))
    assert done.returncode == 1 and "some of its files are missing" in done.stderr and "limn pull drawn" in done.stderr


def test_the_folder_of_a_model_that_needs_more(place, hub, cards):
    cards(MORE)
    assert place.pull("drawn").returncode == 0
    folder = place.data / "limn" / "models" / "drawn"
    settings = json.loads((folder / "limn.json").read_text())
    assert settings == {"limn": 1, "name": "Drawn", "licence": "MIT", "base": str(place.snapshot("tests/model")),
                        "loras": [{"file": str(place.snapshot("tests/lora") / "lora.safetensors"), "scale": 0.5}],
                        "sigmas": [1.0, 0.00031], "steps": 2, "guidance": 2.5, "system_message": TEXT}
    # Other files than the card's make no model.
    (folder / "limn.json").unlink()
    done = place.pull("drawn", "--include", "vae/*")
    assert done.returncode == 0 and "What was asked for of drawn" in done.out and not (folder / "limn.json").exists()
    assert place.pull("drawn").returncode == 0
    # The text is not asked for again, unless what is here is not it.
    asked = len(hub.asked(pattern="/raw/"))
    assert place.pull("drawn").returncode == 0 and len(hub.asked(pattern="/raw/")) == asked
    (folder / "limn.json").write_text('{"system_message": "another"}')
    assert place.pull("drawn").returncode == 0 and len(hub.asked(pattern="/raw/")) == asked + 1
    assert json.loads((folder / "limn.json").read_text()) == settings


@pytest.mark.parametrize("source, message", [
    (SOURCE.replace("draw", "paint"), "is not the text that the model card means"),
    (SOURCE.replace('SYSTEM_MESSAGE = """', 'SYSTEM_MESSAGE = f"""'), "a formatted text"),
    ("OTHER = 1\n", "there is no constant SYSTEM_MESSAGE"),
    ('SYSTEM_MESSAGE = open("/etc/passwd").read()\n', "expected a text in quotes"),
    (None, "does not have it")])
def test_a_system_message_that_is_not_it(place, hub, cards, source, message):
    cards(MORE)
    path = "/raw/owner/code/v1/src/messages.py"
    if source is None:
        del hub.texts[path]
    else:
        hub.texts[path] = source.encode()
    done = place.pull("drawn")
    assert done.returncode == 1 and message in done.err and "system message" in done.err, done.err
    assert not place.data.exists() and not hub.asked("cdn")  # known before the long part


def test_the_built_in_cards(place, hub):
    """FLUX.2 [dev] Turbo: two repositories and a text; what is served here is not the text, so it ends there."""
    files = model_files(2000)
    hub.repositories["black-forest-labs/FLUX.2-dev"] = Repository(files, licence="other", gated="auto")
    hub.repositories["fal/FLUX.2-dev-Turbo"] = Repository({"flux.2-turbo-lora.safetensors": b"l" * 9000, "x": b"x"})
    hub.repositories["city96/FLUX.2-dev-gguf"] = Repository({"flux2-dev-Q8_0.gguf": b"q" * 5000})
    name = "Mistral-Small-3.2-24B-Instruct-2506"
    hub.repositories[f"unsloth/{name}-GGUF"] = Repository({f"{name}-Q8_0.gguf": b"m" * 5000})
    hub.tokens = {"t": {"black-forest-labs/FLUX.2-dev"}}
    commit = "e80b84ed9f2a2346a97d2ee033eecf65cf685e31"
    hub.texts[f"/raw/black-forest-labs/flux2/{commit}/src/flux2/system_messages.py"] = SOURCE.encode()
    for model in "flux.2-dev", "flux.2-dev-turbo":
        done = place.pull(model, "--yes", "--memory", "48GB", HF_TOKEN="t")
        assert done.returncode == 1 and "SYSTEM_MESSAGE is not the text" in done.err, done.err
    assert len(hub.asked(pattern="fal/FLUX.2-dev-Turbo")) == 2


# ------------------------------------------------------------------------------------------------------------- forms

@pytest.fixture
def forms(place, hub, cards):
    """The tiny model with its transformer in two forms: a folder of f32, and a GGUF file made of it, in a repository of its own."""
    import shutil
    source = place.folder / "source"
    shutil.copytree(ROOT / "tests" / "fixtures" / "model-a", source)
    small = place.folder / "small.gguf"
    assert limn(place, "convert", str(source), "-o", str(small), "--type", "Q8_0", "-q").returncode == 0
    hub.repositories["tests/small"] = Repository({"small.gguf": small.read_bytes(), "other.gguf": b"o" * 5000})
    cards("""
  forms:
    - {part: transformer, type: F32, size: 8GB, repository: tests/model, path: transformer}
    - {part: transformer, type: Q8_0, size: 2GB, repository: tests/small, path: small.gguf}
""")
    path = place.folder / "cards" / "drawn.yaml"
    text = path.read_text()
    changed = re.sub(r"(tests/model.*?files: )\[[^]]*\]", r'\1[model_index.json, "scheduler/*", "text_encoder/*", "tokenizer/*", "vae/*", limn.json]',
                     text, count=1, flags=re.S)
    assert changed != text
    path.write_text(changed)
    return lambda: json.loads((place.data / "limn" / "models" / "drawn" / "limn.json").read_text())


def drawn(place, memory=None):
    out = place.folder / "out.png"
    place.environment.pop("LIMN_MEMORY", None)
    if memory:
        place.environment["LIMN_MEMORY"] = memory
    done = limn(place, "generate", "--model", "drawn", "a star", "--size", "64x64", "--seed", "1", "--steps", "1", "-o", str(out))
    place.environment.pop("LIMN_MEMORY", None)
    assert done.returncode == 0, done.stderr
    return out.read_bytes()


def test_the_form_follows_the_memory(place, hub, forms):
    planned = limn(place, "plan", "drawn", "--memory", "4GB")
    assert planned.returncode == 0 and "Q8_0" in planned.stdout and "limn pull drawn --memory 4GB" in planned.stdout, planned
    planned = json.loads(limn(place, "plan", "drawn", "--json", "--memory", "16GB").stdout)
    assert [form["type"] for form in planned[0]["forms"]] == ["F32"] and not planned[0]["fetched"]
    done = place.pull("drawn", LIMN_MEMORY="4GB")
    assert done.returncode == 0 and "small.gguf" in done.out and "other.gguf" not in done.out, done.out + done.err
    assert not hub.asked("cdn", "/transformer/")
    assert forms()["transformer"] == ["transformer-Q8_0.gguf"]
    coarse = drawn(place)
    # More memory adds the finer form and fetches nothing again.
    asked = len(hub.asked("cdn", "small.gguf"))
    assert place.pull("drawn", "--memory", "16GB").returncode == 0
    assert len(hub.asked("cdn", "small.gguf")) == asked and hub.asked("cdn", "/transformer/")
    assert forms()["transformer"] == ["transformer-F32", "transformer-Q8_0.gguf"]
    assert drawn(place) != coarse
    assert "stays in memory" in limn(place, "plan", "drawn", "--memory", "1GB").stdout
    before = len(hub.asked("cdn"))
    assert place.pull("drawn", "--type", "q8_0").returncode == 0
    assert len(hub.asked("cdn")) == before and len(forms()["transformer"]) == 2
    place.check_cache()


@pytest.mark.parametrize("words, status, message", [
    (["--type", "Q3_K"], 1, 'its transformer is not to be had as "Q3_K", expected F32, Q8_0'),
    (["--memory", "much"], 2, "expected a size such as 24GB"),
    (["--text-type", "Q8_0"], 1, "in one form only")])
def test_forms_that_are_not_to_be_had(place, hub, forms, words, status, message):
    done = place.pull("drawn", *words)
    assert done.returncode == status and message in done.err, done.err
    assert not hub.asked("cdn") and not place.data.exists()


def test_nothing_chooses_where_there_is_one_form(place, hub):
    done = place.pull("flux.2-klein-4b", "--memory", "24GB")
    assert done.returncode == 1 and "in one form only" in done.err and not hub.asked("cdn")


# ------------------------------------------------------------------------------------------------------------- usage

@pytest.mark.parametrize("words, status, message", [
    ([], 2, "expected one MODEL"), (["a", "b"], 2, "expected one MODEL"), (["--no"], 2, "no option"),
    (["--parallel", "0", "x/y"], 2, "--parallel"), (["--include", "../x", "x/y"], 2, "--include"),
    (["a/b/c"], 1, "expected owner/name"), (["../b"], 1, "expected owner/name"), (["a/b@../../x"], 1, "expected owner/name"),
    (["pictogram"], 1, "names no repository"), (["flux.2-klein-4c"], 1, "flux.2-klein-4b")])
def test_usage(place, words, status, message):
    done = place.pull(*words)
    assert done.returncode == status and message in done.err, done.err


def test_help_is_a_manual_page(place):
    done = place.pull("--help")
    assert done.returncode == 0 and all(word in done.out for word in ("SYNOPSIS", "HF_TOKEN", "HF_HOME", "EXIT STATUS"))
    assert max(len(line) for line in done.out.splitlines()) <= 120


def test_offline(place, hub):
    done = place.pull("flux.2-klein-4b", HF_HUB_OFFLINE="1")
    assert done.returncode == 1 and "HF_HUB_OFFLINE" in done.err and not hub.requests


@pytest.mark.parametrize("name, value", [("HF_ENDPOINT", "ftp://x"), ("HF_ENDPOINT", "http://user:word@x"),
                                         ("HF_TOKEN", "two words"), ("HOME", "")])
def test_a_wrong_environment(place, hub, name, value):
    if name == "HOME":
        for key in ("HF_HOME",):
            place.environment.pop(key)
        value = "not-a-path"
    done = place.pull("flux.2-klein-4b", **{name: value})
    assert done.returncode == 1 and name in done.err, done.err
    assert not hub.requests


@pytest.fixture
def more(hub, cards):
    """A model of a repository, a LoRA that fits it, a schedule and a system message."""
    import struct
    config = json.loads(hub.repositories["tests/model"].files["transformer/config.json"])
    hidden, channels = config["num_attention_heads"] * config["attention_head_dim"], config["in_channels"]
    header, data = {}, b""
    for key, shape in ("lora_A", [1, channels]), ("lora_B", [hidden, 1]):
        values = struct.pack(f"<{shape[0] * shape[1]}f", *[i % 7 - 3 for i in range(shape[0] * shape[1])])
        header[f"transformer.x_embedder.{key}.weight"] = {"dtype": "F32", "shape": shape,
                                                          "data_offsets": [len(data), len(data) + len(values)]}
        data += values
    text = json.dumps(header).encode()
    hub.repositories["tests/lora"] = Repository({"lora.safetensors": struct.pack("<Q", len(text)) + text + data})
    cards(MORE)


def test_generate_with_the_folder_of_a_model_that_needs_more(place, hub, more):
    """The base's weights, a LoRA, the schedule and the system message of limn's own folder."""
    pictures = []
    for scale in "0.5", "0":
        assert place.pull("drawn").returncode == 0
        settings = place.data / "limn" / "models" / "drawn" / "limn.json"
        changed = json.loads(settings.read_text())
        changed["loras"][0]["scale"] = float(scale)
        settings.write_text(json.dumps(changed))
        out = place.folder / f"{scale}.png"
        done = limn(place, "generate", "--model", "drawn", "a star", "--size", "64x64", "--seed", "1", "--json", "-o", str(out))
        assert done.returncode == 0, done.stderr
        made = json.loads(done.stdout)
        assert made["model"] == "Drawn" and made["steps"] == 2 and made["guidance"] == 2.5
        pictures.append(out.read_bytes())
    assert pictures[0] != pictures[1]  # the LoRA is applied
    # The tools for comparisons find it by its name too.
    words = subprocess.run([LIMN, "tokenize", "--model", "drawn"], input="a star", env=place.environment, capture_output=True,
                           text=True, timeout=120)
    assert words.returncode == 0 and json.loads(words.stdout), words.stderr
    out = place.folder / "all.safetensors"
    done = limn(place, "dump", "--model", "drawn", "--prompt", "a star", "--size", "64x64", "-o", str(out))
    assert done.returncode == 0 and out.stat().st_size > 10_000, done.stderr
    done = limn(place, "dump", "--model", "flux.2-dev", "--prompt", "a star", "-o", str(place.folder / "none.safetensors"))
    assert done.returncode == 1 and "limn pull flux.2-dev" in done.stderr and not (place.folder / "none.safetensors").exists()


def test_forms_for_the_memory(place, hub, more):
    """What is there before a model is fetched, after it, and when the forms that the memory wants were made."""
    size = sum(len(data) for name, data in hub.repositories["tests/model"].files.items()
               if name.startswith("transformer/") and name.endswith(".safetensors"))
    small = str(size * 7 // 8)
    place.environment["LIMN_MEMORY"] = small
    assert "limn pull drawn" in limn(place, "plan", "drawn").stderr  # its card says no sizes
    done = place.pull("drawn")
    assert done.returncode == 0 and "limn convert --fit drawn" in done.out, done.out + done.err
    folder = place.data / "limn" / "models" / "drawn"
    draw = ["generate", "--model", "drawn", "a star", "--size", "64x64", "--seed", "1", "-q", "-o"]
    place.environment["LIMN_MEMORY"] = "1GB"
    assert limn(place, *draw, str(place.folder / "before.png")).returncode == 0
    done = limn(place, "convert", "--fit", "--memory", small, "drawn")
    assert done.returncode == 0 and str(folder) in done.stderr, done.stderr
    settings = json.loads((folder / "limn.json").read_text())
    assert settings["transformer"][0] == "transformer" and len(settings["transformer"]) == 2
    form = folder / settings["transformer"][1]
    assert form.is_file() and form.read_bytes()[:4] == b"GGUF"
    assert (folder / "transformer").resolve() == (place.snapshot("tests/model") / "transformer").resolve()
    # With much memory nothing has changed; with little the smaller form is taken, and the LoRA still applies, once.
    assert limn(place, *draw, str(place.folder / "after.png")).returncode == 0
    assert (place.folder / "after.png").read_bytes() == (place.folder / "before.png").read_bytes()
    planned = json.loads(limn(place, "plan", "--json", "--memory", small, "drawn").stdout)
    steps, = (stage for stage in planned[0]["stages"] if stage["stage"] == "steps")
    lora = len(hub.repositories["tests/lora"].files["lora.safetensors"])  # is read in every step, too
    assert steps["mapped_bytes"] == form.stat().st_size + lora and all(part["there"] for part in planned[0]["wanted"])
    # Another pull leaves the forms listed, and says nothing of making them.
    again = place.pull("drawn", LIMN_MEMORY=small)
    assert again.returncode == 0 and "--fit" not in again.out
    assert json.loads((folder / "limn.json").read_text()) == settings
    # In the cache nothing is written.
    refused = limn(place, "convert", "--fit", "--memory", small, "tests/model")
    assert refused.returncode == 1 and "-o" in refused.stderr
    other = place.folder / "other"
    done = limn(place, "convert", "--fit", "--memory", small, "tests/model", "-o", str(other))
    assert done.returncode == 0 and (other / "limn.json").exists(), done.stderr
    draw[2] = str(other)
    assert limn(place, *draw, str(place.folder / "other.png")).returncode == 0


def test_plans_of_models_that_are_not_here(place, hub):
    done = limn(place, "plan", "flux.2-dev-turbo")
    assert done.returncode == 0 and "limn pull flux.2-dev-turbo" in done.stdout
    plans = {plan["memory_bytes"] // 10**9: {part["part"]: part for part in plan["forms"]}
             for plan in json.loads(limn(place, "plan", "--json", "flux.2-dev-turbo").stdout)[1:]}
    types = {memory: (parts["transformer"]["type"], parts["text_encoder"]["type"]) for memory, parts in plans.items()}
    assert types == {24: ("Q4_K_M", "Q6_K"), 48: ("Q8_0", "Q8_0"), 64: ("Q8_0", "BF16"), 128: ("BF16", "BF16")}
    assert all(part["resident"] for parts in plans.values() for part in parts.values())
    assert limn(place, "plan", "flux.2-dev-turbo", "--memory", "nonsense").returncode == 2
    assert limn(place, "convert", "--memory", "24GB", "flux.2-dev-turbo", "-o", str(place.folder / "x")).returncode == 2
    done = limn(place, "convert", "--fit", "flux.2-dev-turbo")
    assert done.returncode == 1 and "limn pull flux.2-dev-turbo" in done.stderr
