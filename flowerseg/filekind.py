"""What a file is that is not one of the image formats read here, and how to make an image of it.

For error messages only: a photo that a telephone saved as HEIC, or an error page that a download
left, often carries the suffix `.jpg`.
"""

import re

_IMAGE = "Convert it: magick FILE out.png"
_RAW = "Export it as JPEG or TIFF from the camera's program."
_VIDEO = "Extract its frames first: ffmpeg -i FILE frame%06d.png"
_REMOVE = "Remove it."
_ARCHIVE = "Unpack it."
_DOWNLOAD = "The download failed: fetch the file again."

_BRANDS = {
    b"heic": "a HEIC photo",
    b"heix": "a HEIC photo",
    b"heim": "a HEIC photo",
    b"heis": "a HEIC photo",
    b"hevc": "a HEIC sequence",
    b"hevx": "a HEIC sequence",
    b"mif1": "a HEIF photo",
    b"msf1": "a HEIF sequence",
    b"avif": "an AVIF photo",
    b"avis": "an AVIF sequence",
    b"jxl ": "a JPEG XL image",
    b"jp2 ": "a JPEG 2000 image",
    b"jpx ": "a JPEG 2000 image",
    b"crx ": "a Canon CR3 raw photo",
}

_STARTS: tuple[tuple[bytes, str, str], ...] = (
    (b"GIF8", "a GIF image", _IMAGE),
    (b"\xff\x0a", "a JPEG XL image", _IMAGE),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL image", _IMAGE),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "a JPEG 2000 image", _IMAGE),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 image", _IMAGE),
    (b"II\xbc\x01", "a JPEG XR image", _IMAGE),
    (b"II\xbc\x00", "a JPEG XR image", _IMAGE),
    (b"8BPS", "a Photoshop document", _IMAGE),
    (b"gimp xcf", "a GIMP document", _IMAGE),
    (b"v/1\x01", "an OpenEXR image", _IMAGE),
    (b"#?RADIANCE", "a Radiance HDR image", _IMAGE),
    (b"SIMPLE  =", "a FITS image", _IMAGE),
    (b"DDS ", "a DirectDraw texture", _IMAGE),
    (b"qoif", "a QOI image", _IMAGE),
    (b"\0\0\x01\0", "a Windows icon", _IMAGE),
    (b"\0\0\x02\0", "a Windows cursor", _IMAGE),
    (b"\xd7\xcd\xc6\x9a", "a Windows metafile", _IMAGE),
    (b"\x59\xa6\x6a\x95", "a Sun raster image", _IMAGE),
    (b"\x01\xda", "an SGI image", _IMAGE),
    (b"\x8aMNG\r\n", "an MNG animation", _IMAGE),
    (b"\x8bJNG\r\n", "a JNG image", _IMAGE),
    (b"BPG\xfb", "a BPG image", _IMAGE),
    (b"FLIF", "a FLIF image", _IMAGE),
    (b"AT&TFORM", "a DjVu document", _IMAGE),
    (b"%PDF", "a PDF document", _IMAGE),
    (b"%!PS", "a PostScript document", _IMAGE),
    (b"FUJIFILMCCD-RAW", "a Fujifilm raw photo", _RAW),
    (b"FOVb", "a Sigma raw photo", _RAW),
    (b"IIRO", "an Olympus raw photo", _RAW),
    (b"IIRS", "an Olympus raw photo", _RAW),
    (b"MMOR", "an Olympus raw photo", _RAW),
    (b"IIU\0", "a Panasonic raw photo", _RAW),
    (b"\0MRM", "a Minolta raw photo", _RAW),
    (b"\x1aE\xdf\xa3", "a Matroska or WebM video", _VIDEO),
    (b"FLV\x01", "a Flash video", _VIDEO),
    (b"\0\0\x01\xba", "an MPEG video", _VIDEO),
    (b"\0\0\x01\xb3", "an MPEG video", _VIDEO),
    (b"0&\xb2u\x8ef\xcf\x11", "a Windows Media video", _VIDEO),
    (b"OggS", "an Ogg file", _VIDEO),
    (b"PK\3\4", "a ZIP archive", _ARCHIVE),
    (b"PK\5\6", "an empty ZIP archive", _ARCHIVE),
    (b"\x1f\x8b", "a gzip file", _ARCHIVE),
    (b"BZh", "a bzip2 file", _ARCHIVE),
    (b"\xfd7zXZ\0", "an XZ file", _ARCHIVE),
    (b"7z\xbc\xaf'\x1c", "a 7-Zip archive", _ARCHIVE),
    (b"Rar!\x1a\x07", "a RAR archive", _ARCHIVE),
    (b"(\xb5/\xfd", "a Zstandard file", _ARCHIVE),
    (b"\x7fELF", "a program", _REMOVE),
    (b"MZ", "a Windows program", _REMOVE),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file", "Save its images as PNG."),
    (b"\x93NUMPY", "a NumPy array", "Save it as PNG."),
    (b"ID3", "an audio file", _REMOVE),
    (b"SQLite format 3\0", "an SQLite database", _REMOVE),
    (b"bplist00", "an Apple property list", _REMOVE),
    (b"\0\x05\x16\x07", "an AppleDouble file, the notes of a Mac about another file", _REMOVE),
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself", "Run git lfs pull."),
)

_RIFF = {b"AVI ": ("an AVI video", _VIDEO), b"WAVE": ("a WAV sound", _REMOVE)}
_PNM = re.compile(rb"P[1-7fF]\s")
_CGBI = b"\x89PNG\r\n\x1a\n\0\0\0\x04CgBI"
# Atomic groups, `(?>…)`: a pattern that backtracks takes exponential time over `<!><!><!>…`.
_COMMENTS = rb"\s*(?><!--.*?-->\s*)*+"
_HTML = re.compile(_COMMENTS + rb"<(?:!doctype html|html|head|body)", re.I | re.S)
_SVG = re.compile(
    rb"\s*(?><\?xml.*?\?>)?+"
    + _COMMENTS
    + rb"(?><!doctype[^\[>]*(?:\[.*?\]\s*)?>)?+"
    + _COMMENTS
    + rb"<svg",
    re.I | re.S,
)
_OS2_HEADER = b"\x0c\0\0\0"
_HEAD_BYTES = 1024  # that the patterns look at
_CONTROL = frozenset(range(32)) - set(b"\t\n\r\f\x1b")


def foreign_kind(data: bytes) -> tuple[str, str] | None:
    """What the first bytes say the file is, and what to do about it; None if they do not.

    Both are for an error message: `a GIF image`, `Convert it: …`.
    """
    head = data[:_HEAD_BYTES]
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
        return _isobmff_kind(head)
    for start, what, remedy in _STARTS:
        if head.startswith(start):
            return what, remedy
    if head.startswith(b"RIFF") and head[8:12] in _RIFF:
        return _RIFF[head[8:12]]
    if head.startswith(_CGBI):
        remedy = "Restore it on a Mac: xcrun -sdk iphoneos pngcrush -revert-iphone-optimizations"
        return "a PNG in Apple's own form for iPhones (CgBI)", f"{remedy} FILE out.png"
    # OpenCV 5.0 makes 248 of the highest of 5 bits: white would be no white.
    if head.startswith(b"BM") and head[28:30] == b"\x10\0" and head[14:18] != _OS2_HEADER:
        return "a BMP with 16 bits a pixel", _IMAGE
    if data[257:262] == b"ustar":
        return "a tar archive", _ARCHIVE
    if _PNM.match(head):
        return "a PNM image", _IMAGE
    if _SVG.match(head):
        return "an SVG drawing", _IMAGE
    if _HTML.match(head):
        return "a web page", _DOWNLOAD
    if head and not any(head):
        return "a file of zero bytes only", "Copy it again."
    return _text_kind(head)


def _isobmff_kind(head: bytes) -> tuple[str, str]:
    """Of a file made of ISO boxes (ISO/IEC 14496-12): HEIC, AVIF, MP4, QuickTime, …"""
    length = int.from_bytes(head[:4], "big")
    brands = [head[8:12], *(head[at : at + 4] for at in range(16, min(length, len(head)), 4))]
    for brand in brands if head[4:8] == b"ftyp" else ():
        if brand in _BRANDS:
            what = _BRANDS[brand]
            return what, _RAW if "raw" in what else _IMAGE
    return "an MP4 or QuickTime video", _VIDEO


def _text_kind(head: bytes) -> tuple[str, str] | None:
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "a text file in UTF-16", _REMOVE
    if not head or _CONTROL & set(head):
        return None
    try:
        text = head.decode("utf-8", errors="strict" if len(head) < _HEAD_BYTES else "ignore")
    except UnicodeDecodeError:
        return None
    start = text.lstrip("\ufeff \t\r\n")
    if start.startswith(("{", "[")):
        return "a JSON file", _DOWNLOAD
    if start.startswith("<"):
        return "an XML file", _DOWNLOAD
    return "a text file", _REMOVE
