"""The recipe's section `dataset`: annotations, classes, and what is learned of them."""

from pathlib import Path

import pytest

from ovseg_cli.errors import RecipeError, VocabularyError
from ovseg_cli.recipe import Recipe
from ovseg_cli.run import Run
from ovseg_cli.stages.make_shapes import ShapesOptions, make_shapes
from ovseg_cli.stages.proposal_examples import ProposalExamples
from ovseg_cli.stages.proposal_options import TrainProposalsOptions
from ovseg_cli.stages.session import Settings, dataset_of
from ovseg_cli.vocabulary import builtin_vocabulary


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The synthetic set, whose test split has unseen classes annotated too."""
    folder = tmp_path_factory.mktemp("data") / "shapes"
    options = ShapesOptions(
        seed=1, train=2, val=1, test=6, pairs_easy=1, pairs_crop=1, pairs_window=1
    )
    make_shapes(folder, options)
    return folder


def settings_of(folder: Path, root: Path, **options: object) -> Settings:
    return Settings(Run(folder), Recipe("r", sections={"dataset": {"root": str(root), **options}}))


@pytest.mark.parametrize("annotations", ["panoptic", "instances"])
def test_unseen_classes_are_left_out_where_a_stage_learns(
    tmp_path: Path, shapes: Path, annotations: str
) -> None:
    settings = settings_of(tmp_path, shapes, annotations=annotations, classes="shapes")
    whole, seen = dataset_of(settings, "test"), dataset_of(settings, "test", part="seen")
    assert not all(whole.vocabulary.seen)
    assert all(seen.vocabulary.seen)
    learned = ProposalExamples(seen, TrainProposalsOptions(batch_size=1, image_size=64), seed=0)
    counts = {sample.image_id: len(sample.masks) for sample in whole}
    fewer = [len(seen[i].masks) < counts[seen[i].image_id] for i in learned.images.indices]
    assert any(fewer)
    for sample in seen:
        assert 0 < len(sample.masks) <= counts[sample.image_id]


def test_a_builtin_vocabulary_gives_the_words(tmp_path: Path, shapes: Path) -> None:
    settings = settings_of(tmp_path, shapes, classes="shapes")
    assert dataset_of(settings, "test").vocabulary == builtin_vocabulary("shapes")


def test_the_section_is_checked(tmp_path: Path, shapes: Path) -> None:
    with pytest.raises(RecipeError, match=r"\[dataset\] annotations: expected one of panoptic, in"):
        dataset_of(settings_of(tmp_path, shapes, annotations="semantic"), "test")
    with pytest.raises(VocabularyError, match="no built-in vocabulary 'coco_49'"):
        dataset_of(settings_of(tmp_path, shapes, classes="coco_49"), "test")
    with pytest.raises(RecipeError, match=r"\[dataset\] root: no folder 'nowhere'"):
        dataset_of(settings_of(tmp_path, Path("nowhere")), "test")
