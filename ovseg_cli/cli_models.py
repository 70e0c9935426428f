"""`ovseg models`: weights and data that cannot be shipped."""

from typing import Annotated

import typer

from .cli_output import messages
from .errors import UsageError

models_app = typer.Typer(no_args_is_help=True, help="Get models and data.")


@models_app.command("pull")
def pull_model(
    name: Annotated[str, typer.Argument(help="nltk, the data of NLTK's English tagger.")],
) -> None:
    """Download what cannot be shipped into ovseg's cache."""
    from .mining.tagger_data import pull_tagger_data

    if name != "nltk":
        raise UsageError(f"models pull {name}: there is only 'nltk'")
    messages.print(f"nltk: {pull_tagger_data()}", markup=False, soft_wrap=True)
