"""The proposals that CLIP is tuned with, from every proposer that there is."""

from ovseg_cli.checkpoints.proposer_parts import proposer_of
from ovseg_cli.clip.encoder import ClipEncoder
from ovseg_cli.errors import RecipeError
from ovseg_cli.proposers import ReadsWords, TrainableProposer
from ovseg_cli.stages.learning import learned_words
from ovseg_cli.stages.session import Settings
from ovseg_cli.structures import Vocabulary


def tuning_proposer(
    settings: Settings, vocabulary: Vocabulary, clip: ClipEncoder
) -> TrainableProposer:
    """The recipe's frozen proposer, told the words that are learned where it reads words.

    Args:
        settings: run directory, recipe, device.
        vocabulary: the classes that are learned.
        clip: the frozen one; its text tower makes embeddings of the words.

    Raises:
        RunError: the run directory has no proposals artifact.
        CheckpointError: weights that cannot be had or used, see `proposer_of`.
        RecipeError: the proposer's masks lie on unchanged images alone.
    """
    proposer = proposer_of(settings.run, settings.recipe, device=settings.device, clip=clip)
    if isinstance(proposer, ReadsWords):
        return proposer.with_words(learned_words(settings, vocabulary, clip))
    if not isinstance(proposer, TrainableProposer):
        name = settings.recipe.section("proposer")["name"]
        raise RecipeError(
            f"[proposer] name: the masks of {name} lie on images as they are on disk, and training "
            "images are cut and mirrored; choose a proposer that looks at images"
        )
    return proposer
