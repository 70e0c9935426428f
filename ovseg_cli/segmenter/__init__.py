"""The Python API: an image and words in, a segmentation out.

segmenter = Segmenter.from_run("run")
result = segmenter.predict("picture.png", "couch/sofa,dog,grass:stuff")
"""

from ovseg_cli.segmenter.of_run import options_of, text_key
from ovseg_cli.segmenter.segmenter import Segmenter
from ovseg_cli.segmenter.words import VocabularyOptions

__all__ = ["Segmenter", "VocabularyOptions", "options_of", "text_key"]
