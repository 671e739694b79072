"""The code samples of a model page, for both modes, as people copy them: only the base URL, the key and the file's name are
changed."""
import json
import os
import pathlib
import subprocess
import sys

import pytest

from conftest import BUILD_NODE, FAST, ROOT
from test_keys import make_key
from test_pictures import picture

CURL = """curl -X POST \\
%(base)s/images/edits \\
-H "Authorization: Bearer $LUMENFALL_API_KEY" \\
-F "model=flux.2-dev-turbo" \\
-F "image=@%(file)s" \\
-F "prompt=Add a starry night sky to this image" \\
-F "size=1024x1024"
"""

JAVASCRIPT = """import OpenAI from 'openai';
import fs from 'fs';
const client = new OpenAI({
apiKey: '%(key)s',
baseURL: '%(base)s'
});
const response = await client.images.edit({
model: 'flux.2-dev-turbo',
image: fs.createReadStream('%(file)s'),
prompt: 'Add a starry night sky to this image',
size: '1024x1024'
});
// { created: 1234567890, data: [{ url: "https://...", revised_prompt: "..." }] }
console.log(response.data[0].url);
"""

PYTHON = """from openai import OpenAI
client = OpenAI(
api_key="%(key)s",
base_url="%(base)s"
)
response = client.images.edit(
model="flux.2-dev-turbo",
image=open("%(file)s", "rb"),
prompt="Add a starry night sky to this image",
size="1024x1024"
)
# { created: 1234567890, data: [{ url: "https://...", revised_prompt: "..." }] }
print(response.data[0].url)
"""


GENERATE_CURL = """curl -X POST \\
%(base)s/images/generations \\
-H "Authorization: Bearer $LUMENFALL_API_KEY" \\
-H "Content-Type: application/json" \\
-d '{
"model": "flux.2-dev-turbo",
"prompt": "A serene mountain landscape at sunset with dramatic clouds",
"size": "1024x1024"
}'
"""

GENERATE_JAVASCRIPT = """import OpenAI from 'openai';
const client = new OpenAI({
apiKey: '%(key)s',
baseURL: '%(base)s'
});
const response = await client.images.generate({
model: 'flux.2-dev-turbo',
prompt: 'A serene mountain landscape at sunset with dramatic clouds',
size: '1024x1024'
});
// { created: 1234567890, data: [{ url: "https://...", revised_prompt: "..." }] }
console.log(response.data[0].url);
"""

GENERATE_PYTHON = """from openai import OpenAI
client = OpenAI(
api_key="%(key)s",
base_url="%(base)s"
)
response = client.images.generate(
model="flux.2-dev-turbo",
prompt="A serene mountain landscape at sunset with dramatic clouds",
size="1024x1024"
)
# { created: 1234567890, data: [{ url: "https://...", revised_prompt: "..." }] }
print(response.data[0].url)
"""

MODES = ("edits", "generations")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A server that has the page's model by name, and what changes in its samples."""
    from conftest import Server
    folder = tmp_path_factory.mktemp("page")
    key = make_key(folder, "page")
    server = Server(folder, *FAST, key=key, config="local:\n  models:\n    flux.2-dev-turbo: %s\n" % (ROOT / "tests" / "fixtures" / "model-b"))
    (folder / "source.png").write_bytes(picture(128, 128))
    yield server, {"base": server.url + "/openai/v1", "key": key, "file": str(folder / "source.png")}, folder
    assert server.stop() == 0


def fetch(url, server):
    assert url.startswith(server.url + "/media/") and url.endswith(".png")
    return subprocess.run(["curl", "-sf", url], capture_output=True, check=True, timeout=30).stdout


def is_picture(data):
    return data[:4] == b"\x89PNG" and int.from_bytes(data[16:20], "big") == int.from_bytes(data[20:24], "big") == 1024


@pytest.mark.parametrize("sample", [CURL, GENERATE_CURL], ids=MODES)
def test_curl(page, sample):
    server, changes, _ = page
    output = subprocess.run(["sh", "-c", "set -e; " + sample % changes], env=dict(os.environ, LUMENFALL_API_KEY=changes["key"]),
                            capture_output=True, text=True, check=True, timeout=60).stdout
    answer = json.loads(output)
    assert isinstance(answer["created"], int) and is_picture(fetch(answer["data"][0]["url"], server))


@pytest.mark.parametrize("sample", [JAVASCRIPT, GENERATE_JAVASCRIPT], ids=MODES)
def test_javascript(page, sample):
    server, changes, folder = page
    if not (BUILD_NODE / "node_modules" / "openai").exists():
        pytest.skip("the Node SDK is not installed (./test installs it)")
    script = BUILD_NODE / "sample.mjs"
    script.write_text(sample % changes)
    output = subprocess.run(["node", str(script)], capture_output=True, text=True, check=True, timeout=60).stdout
    assert is_picture(fetch(output.strip(), server))


@pytest.mark.parametrize("sample", [PYTHON, GENERATE_PYTHON], ids=MODES)
def test_python(page, sample):
    server, changes, _ = page
    output = subprocess.run([sys.executable, "-c", sample % changes], capture_output=True, text=True, check=True, timeout=60)
    assert is_picture(fetch(output.stdout.strip(), server))
