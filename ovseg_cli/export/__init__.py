"""A segmenter with its words baked in, as one ONNX file."""

from ovseg_cli.export.comparison import Agreement
from ovseg_cli.export.module import WordedSegmenter
from ovseg_cli.export.onnx_file import METADATA_KEY, missing_packages, write_onnx

__all__ = ["METADATA_KEY", "Agreement", "WordedSegmenter", "missing_packages", "write_onnx"]
