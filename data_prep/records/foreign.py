"""What a file is by its first bytes: the kinds of picture that are read, and the names of what is none.

extension_of(b"\\xff\\xd8\\xff\\xe0")        # ".jpg"
foreign_kind(b"%PDF-1.7 ...")             # "a PDF; ..."
"""

from __future__ import annotations

MAGIC = {
    b"\xff\xd8\xff": ".jpg", b"\x89PNG\r\n\x1a\n": ".png", b"GIF8": ".gif", b"RIFF": ".webp", b"II*\0": ".tif",
    b"MM\0*": ".tif", b"II+\0": ".tif", b"MM\0+": ".tif", b"BM": ".bmp", b"P4": ".ppm", b"P5": ".ppm", b"P6": ".ppm",
    b"\0\0\0\x0cjP": ".jp2", b"\xff\x4f\xff\x51": ".jp2",
}  # fmt: skip
"""How the bytes of each kind of picture begin, and the extension that says so (AVIF and HEIC: see `extension_of`)."""

ENDINGS = {
    **{mark: mark for mark in (".jpg", ".png", ".webp", ".gif", ".avif", ".heic", ".tif", ".bmp", ".ppm", ".jp2")},
    ".jpeg": ".jpg", ".jpe": ".jpg", ".jfif": ".jpg", ".mpo": ".jpg", ".tiff": ".tif", ".heif": ".heic",
    ".hif": ".heic", ".dib": ".bmp", ".pgm": ".ppm", ".pbm": ".ppm", ".pnm": ".ppm", ".jpx": ".jp2", ".j2k": ".jp2",
}  # fmt: skip
"""The endings of pictures' names that are read, and for each the one that its kind has here."""

HEAD = 512
"""Bytes of a file's beginning that tell its kind."""

HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
AVIF_BRANDS = {b"avif", b"avis"}

EXPORT = "export it as PNG with a program that shows it"
FRAME = "save the frames that you want as JPEG"
DEVELOP = "develop it to JPEG or TIFF"
UNPACK = "unpack it and name the files in it"
FOREIGN: tuple[tuple[int, bytes, str], ...] = (
    (128, b"DICM", f"a DICOM file of a medical scanner; {EXPORT}, in the window that shows what is asked"),
    (344, b"n+1\0", f"a NIfTI volume of a medical scanner; {EXPORT}, slice by slice"),
    (344, b"ni1\0", f"the header of a NIfTI volume; {EXPORT}, slice by slice"),
    (0, b"NRRD", f"an NRRD volume; {EXPORT}, slice by slice"),
    (0, b"ObjectType = Image", f"a MetaImage header; {EXPORT}, slice by slice"),
    (0, b"\x89HDF", f"an HDF5 file; {EXPORT}"),
    (0, b"CDF\x01", f"a NetCDF file; {EXPORT}"),
    (0, b"CDF\x02", f"a NetCDF file; {EXPORT}"),
    (0, b"SIMPLE  =", f"a FITS file; {EXPORT}"),
    (0, b"\x93NUMPY", f"a NumPy array; {EXPORT}"),
    (0, b"%PDF", f"a PDF; {EXPORT}, page by page"),
    (0, b"%!PS", f"PostScript; {EXPORT}"),
    (0, b"\xc5\xd0\xd3\xc6", f"PostScript (EPS); {EXPORT}"),
    (0, b"8BPS", f"a Photoshop file; {EXPORT}"),
    (0, b"gimp xcf", f"a GIMP file; {EXPORT}"),
    (0, b"\xff\x0a", f"a JPEG XL picture, which is not read; {EXPORT}"),
    (0, b"\0\0\0\x0cJXL ", f"a JPEG XL picture, which is not read; {EXPORT}"),
    (0, b"v/1\x01", f"an OpenEXR picture; {EXPORT}"),
    (0, b"#?RADIANCE", f"a Radiance HDR picture; {EXPORT}"),
    (0, b"\0\0\x01\0", f"an icon (ICO); {EXPORT}"),
    (0, b"\0\0\x02\0", f"a cursor (CUR); {EXPORT}"),
    (0, b"icns", f"an icon of macOS; {EXPORT}"),
    (0, b"DDS ", f"a DDS texture; {EXPORT}"),
    (0, b"\xd7\xcd\xc6\x9a", f"a Windows metafile (WMF); {EXPORT}"),
    (40, b" EMF", f"a Windows metafile (EMF); {EXPORT}"),
    (0, b"AT&TFORM", f"a DjVu file; {EXPORT}, page by page"),
    (0, b"FUJIFILMCCD-RAW", f"a camera's raw file (RAF); {DEVELOP}"),
    (0, b"IIRO", f"a camera's raw file (ORF); {DEVELOP}"),
    (0, b"IIU\0", f"a camera's raw file (RW2); {DEVELOP}"),
    (0, b"FOVb", f"a camera's raw file (X3F); {DEVELOP}"),
    (4, b"ftypcrx ", f"a camera's raw file (CR3); {DEVELOP}"),
    (8, b"CR\x02", f"a camera's raw file (CR2); {DEVELOP}"),
    (8, b"AVI ", f"a video (AVI); {FRAME}"),
    (8, b"WAVE", "a sound (WAV), no picture"),
    (0, b"\x1aE\xdf\xa3", f"a video (Matroska or WebM); {FRAME}"),
    (0, b"\0\0\x01\xba", f"a video (MPEG); {FRAME}"),
    (0, b"\0\0\x01\xb3", f"a video (MPEG); {FRAME}"),
    (0, b"FLV\x01", f"a video (Flash); {FRAME}"),
    (0, b"0&\xb2u\x8ef\xcf\x11", f"a video or a sound (ASF, WMV); {FRAME}"),
    (0, b"OggS", "an Ogg file: video or sound, no picture"),
    (0, b"ID3", "a sound (MP3), no picture"),
    (0, b"fLaC", "a sound (FLAC), no picture"),
    (0, b"PK\x03\x04", f"a ZIP archive (or an Office file); {UNPACK}"),
    (0, b"\x1f\x8b", f"a gzip archive; {UNPACK}"),
    (0, b"BZh", f"a bzip2 archive; {UNPACK}"),
    (0, b"\xfd7zXZ\0", f"an xz archive; {UNPACK}"),
    (0, b"\x28\xb5\x2f\xfd", f"a Zstandard archive; {UNPACK}"),
    (0, b"7z\xbc\xaf\x27\x1c", f"a 7-Zip archive; {UNPACK}"),
    (0, b"Rar!", f"a RAR archive; {UNPACK}"),
    (257, b"ustar", f"a tar archive; {UNPACK}"),
    (0, b"PAR1", "a parquet table; python -m data_prep hf reads it"),
    (0, b"ARROW1", "an Arrow table; python -m data_prep hf reads it"),
    (0, b"SQLite format 3", f"a SQLite database; {UNPACK}"),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Office file or Windows' Thumbs.db, no picture; drop the record"),
    (0, b"\0\x05\x16\x07", "macOS's notes on a file (._NAME), not the file itself; name the one without ._"),
    (0, b"\0\x05\x16\0", "macOS's notes on a file (._NAME), not the file itself; name the one without ._"),
    (0, b"version https://git-lfs", "a Git LFS pointer, not the picture; run git lfs pull"),
    (0, b"\x7fELF", "a program, no picture; drop the record"),
    (0, b"MZ", "a program of Windows, no picture; drop the record"),
)  # fmt: skip
"""(place, bytes there, what it is and what to do) of files that people name as pictures."""

VIDEO_BRANDS = ("isom", "iso", "mp4", "mp7", "avc", "qt  ", "M4V", "m4v", "3gp", "3g2", "dash", "MSNV")
BASE64 = (b"data:image", b"/9j/", b"iVBORw0KGgo", b"R0lGOD", b"UklGR")
RAW_ENDINGS = {".nef", ".nrw", ".arw", ".sr2", ".cr2", ".dng", ".pef", ".srw", ".3fr", ".iiq", ".erf", ".kdc", ".dcr"}
"""Camera files that are TIFF outside: a TIFF reader sees their preview, or their sensor's greys."""


def extension_of(head: bytes) -> str | None:
    """Return the extension that the first bytes of a picture ask for, or None for bytes that are no known picture.

    >>> extension_of(b"\\xff\\xd8\\xff\\xe0")
    '.jpg'
    """
    if head[4:8] == b"ftyp":
        brand = head[8:12]
        return ".avif" if brand in AVIF_BRANDS else None if _is_video(brand) or brand == b"crx " else ".heic"
    if head.startswith(b"RIFF") and head[8:12] != b"WEBP":
        return None
    return next((extension for mark, extension in MAGIC.items() if head.startswith(mark)), None)


def foreign_kind(head: bytes) -> str | None:
    """Return what a file is that is no picture, and what to do about it; None for what is not known here."""
    if not head.strip(b"\0"):
        return "nothing but zeros: a download or a copy that did not end; fetch it again"
    for place, mark, name in FOREIGN:
        if head.startswith(mark, place):
            return name
    if head[4:8] == b"ftyp" and _is_video(head[8:12]):
        return f"a video (MP4 or MOV); {FRAME}"
    if head[:2] == b"\x08\0" or head[:4] == b"\x02\0\0\0":
        return f"probably a DICOM file without its preamble; {EXPORT}"
    return _kind_of_text(head)


def _is_video(brand: bytes) -> bool:
    return brand.decode("latin-1").startswith(VIDEO_BRANDS)


def _kind_of_text(head: bytes) -> str | None:
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    lower = text[:300].lower()
    if lower.startswith((b"<!doctype html", b"<html", b"<head")):
        return "a web page, not a picture; the download failed: fetch it again"
    if b"<svg" in lower and lower.startswith((b"<svg", b"<?xml", b"<!--", b"<!doctype svg")):
        return f"an SVG drawing; {EXPORT}"
    if lower.startswith((b"<?xml", b"<error")):
        return "XML, not a picture; the download may have failed: fetch it again"
    if text.startswith(BASE64):
        return "a picture as base64 text; decode it (base64 --decode FILE > PICTURE)"
    if text.startswith((b"{", b"[")):
        return "JSON, not a picture; the download may have failed: fetch it again"
    return None
