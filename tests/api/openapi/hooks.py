"""What the schema test needs beyond the document: real pictures where it asks for files, and the few rules that OpenAPI cannot
say."""
import base64
import io

import schemathesis
from hypothesis import strategies
from schemathesis.transport.serialization import Binary
from PIL import Image


def picture():
    data = io.BytesIO()
    Image.new("RGBA", (64, 64), (200, 30, 30, 255)).save(data, "PNG")
    return data.getvalue()


PICTURE = picture()
schemathesis.openapi.format("binary", strategies.just(PICTURE).map(Binary))


def one_cursor(query):
    """A page begins after an id or ends before one, not both."""
    if query and "starting_after" in query and "ending_before" in query:
        del query["ending_before"]


def one_project(case):
    """A project is named by the header or by the query, or twice the same."""
    if case.query and case.headers and "project" in case.query:
        for name in [name for name in case.headers if name.lower() == "openai-project"]:
            del case.headers[name]


def one_guidance(body):
    """guidance and cfg_scale are one value under two names."""
    if "guidance" in body and "cfg_scale" in body:
        del body["guidance"]


def one_count(body):
    """The number of sigmas is the number of steps."""
    if body.get("steps") is not None and body.get("sigmas") is not None:
        del body["steps"]


def no_clear_jpeg(body):
    """A JPEG has no transparency."""
    if body.get("background") == "transparent" and body.get("output_format") in ("jpeg", "jpg"):
        body["output_format"] = "png"


def interoperable(value):
    """Of what nobody reads: whole numbers of 64 bits, no NUL (RFC 8259 leaves both to the reader)."""
    if isinstance(value, dict):
        return {name.replace("\0", "0"): interoperable(item) for name, item in value.items()}
    if isinstance(value, list):
        return [interoperable(item) for item in value]
    if type(value) is str:
        return value.replace("\0", "0")
    return value % 2**63 if isinstance(value, int) and abs(value) >= 2**63 else value


def real(value):
    """A picture in the place of what only claims to be one."""
    if isinstance(value, list):
        return [real(item) for item in value]
    if isinstance(value, dict) and str(value.get("image_url", "")).startswith("data:image/"):
        return {**interoperable(value), "image_url": "data:image/png;base64," + base64.b64encode(PICTURE).decode()}
    return value


def is_form(case):
    return "form" in (case.media_type or "")


@schemathesis.hook
def filter_case(context, case):
    """Forms are left as they are made: those that the rules would change are left out."""
    body = case.body
    if not is_form(case) or not isinstance(body, dict):
        return True
    clear = body.get("background") == "transparent" and body.get("output_format") == "jpeg"
    if body.get("steps") is not None and body.get("sigmas") is not None:
        return False
    return not clear and not ("guidance" in body and "cfg_scale" in body and body["guidance"] != body["cfg_scale"])


@schemathesis.hook
def before_call(context, case, kwargs):
    if not case.meta.generation.mode.is_positive:  # what is wrong stays wrong
        return
    one_cursor(case.query)
    one_project(case)
    if isinstance(case.body, dict) and not is_form(case):
        one_guidance(case.body)
        one_count(case.body)
        no_clear_jpeg(case.body)
        case.body = {name: real(value) if name in ("images", "mask") else interoperable(value)
                     for name, value in case.body.items()}
