"""HTML pages that need no other file, no script and no network."""

import base64
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from flowerseg.arrays import Labels, Rgb
from flowerseg.images import encode_jpeg, encode_png
from flowerseg.metrics import score_text
from flowerseg.printable import printable_lines


def render_page(template: str, **values: object) -> str:
    """The page of a template in `templates/`; everything that is put into it is escaped.

    Templates embed a picture with the filter `data_url`, and write a score with `score`.
    """
    environment = Environment(
        loader=PackageLoader("flowerseg"),
        autoescape=select_autoescape(),
        finalize=printable_value,
        trim_blocks=True,
        undefined=StrictUndefined,
    )
    environment.filters["data_url"] = data_url
    environment.filters["score"] = score_text
    return environment.get_template(template).render(values)


def printable_value(value: object) -> object:
    """What a template shows of a value: a name with no control character, and in UTF-8."""
    return printable_lines(value) if type(value) is str else value


def data_url(path: Path) -> str:
    """A PNG or JPEG file, unchanged, as the address of a picture."""
    return _data_url("png" if path.suffix == ".png" else "jpeg", path.read_bytes())


def jpeg_url(rgb: Rgb) -> str:
    """Pixels, compressed more than a file would be, as the address of a picture."""
    return _data_url("jpeg", encode_jpeg(rgb, quality=85))


def png_url(pixels: Rgb | Labels) -> str:
    """Pixels, none of them changed, as the address of a picture."""
    return _data_url("png", encode_png(pixels))


def _data_url(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
