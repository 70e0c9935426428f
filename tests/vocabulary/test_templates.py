from ovseg_cli.vocabulary import TEMPLATES, VILD


def test_every_template_has_one_place_for_the_name() -> None:
    assert all(template.count("{}") == 1 for group in TEMPLATES.values() for template in group)


def test_vilds_fourteen_sentences_differ_and_four_lack_the_period() -> None:
    assert len(set(VILD)) == 14
    without_period = [index for index, sentence in enumerate(VILD) if not sentence.endswith(".")]
    assert without_period[:4] == [1, 2, 3, 4]
