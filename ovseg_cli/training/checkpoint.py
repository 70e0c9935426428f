"""What a training needs to go on where it stopped, in one safetensors file."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ..errors import CheckpointError, RunError, TrainingError
from ..run import Run, load_tensors, save_tensors
from . import distributed


@dataclass
class TrainingState:
    """Where a training is.

    Attributes:
        step: steps taken.
        seconds: wall-clock time so far.
        skipped: non-finite steps so far.
        skipped_in_a_row: of them, those since the last good step.
        sums: of each loss over the last tenth of the steps.
        counted: the steps in the sums.
    """

    step: int = 0
    seconds: float = 0.0
    skipped: int = 0
    skipped_in_a_row: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    counted: int = 0

    def note(self, losses: dict[str, float] | None, *, steps: int, max_skipped: int) -> None:
        """Counts a step; losses of None are those of a skipped step.

        Raises:
            TrainingError: too many steps in a row were skipped.
        """
        self.step += 1
        if losses is None:
            self._note_skipped(max_skipped)
            return
        self.skipped_in_a_row = 0
        if self.step > 0.9 * steps:
            self.counted += 1
            for key, value in losses.items():
                self.sums[key] = self.sums.get(key, 0.0) + value

    def mean_losses(self) -> dict[str, float]:
        """The mean of each loss over the steps in the sums."""
        return {key: value / max(1, self.counted) for key, value in self.sums.items()}

    def _note_skipped(self, max_skipped: int) -> None:
        self.skipped += 1
        self.skipped_in_a_row += 1
        if self.skipped_in_a_row > max_skipped:
            raise TrainingError(
                f"the loss was not finite at {self.skipped_in_a_row} steps in a row, the last of "
                f"them step {self.step}; lower the learning rate or use --precision fp32"
            )


@dataclass(frozen=True)
class Checkpoint:
    """The checkpoint of a stage, checkpoints/<stage>.safetensors in the run directory."""

    run: Run
    stage: str
    fingerprint: str

    @property
    def path(self) -> Path:
        """The file; there may be none."""
        return self.run.path / "checkpoints" / f"{self.stage}.safetensors"

    def is_there(self) -> bool:
        """True if there is a file, and of these settings.

        Raises:
            CheckpointError: the file is damaged.
        """
        return self.path.is_file() and self._description()["fingerprint"] == self.fingerprint

    def save(
        self,
        state: TrainingState,
        module: nn.Module,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
    ) -> None:
        """Writes what is trained, the optimizer, the random state and the position."""
        if not distributed.is_main():
            return
        tensors = {f"module.{key}": value for key, value in _trained(module).items()}
        for index, slots in optimizer.state_dict()["state"].items():
            for key, value in slots.items():
                tensors[f"optimizer.{index}.{key}"] = torch.as_tensor(value)
        tensors["random_state"] = torch.get_rng_state()
        description = {
            "fingerprint": self.fingerprint,
            "state": state.__dict__,
            "scaler": scaler.state_dict(),
        }
        save_tensors(self.path, tensors, {"checkpoint": json.dumps(description)})

    def load(
        self, module: nn.Module, optimizer: torch.optim.Optimizer, scaler: torch.amp.GradScaler
    ) -> TrainingState:
        """Puts what was saved into module, optimizer and scaler; a fresh state if nothing was.

        Raises:
            CheckpointError: the file is damaged.
            RunError: the checkpoint belongs to other settings.
        """
        if not self.path.is_file():
            return TrainingState()
        description = self._description()
        tensors = load_tensors(self.path)
        if description["fingerprint"] != self.fingerprint:
            raise RunError(
                f"{self.path}: a checkpoint of other settings; use --restart to begin anew, "
                "or another --run"
            )
        torch.set_rng_state(tensors.pop("random_state"))
        _load_module(module, tensors)
        _load_optimizer(optimizer, tensors)
        if description["scaler"]:
            scaler.load_state_dict(description["scaler"])
        return TrainingState(**description["state"])

    def remove(self) -> None:
        """Deletes the checkpoint, if there is one."""
        if distributed.is_main():
            self.path.unlink(missing_ok=True)

    def _description(self) -> dict[str, Any]:
        try:
            with safe_open(self.path, "pt") as file:
                return dict(json.loads(file.metadata()["checkpoint"]))
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{self.path}: not a readable checkpoint of ovseg; use --restart to begin anew"
            ) from error


def _trained(module: nn.Module) -> dict[str, Tensor]:
    frozen = {name for name, p in module.named_parameters() if not p.requires_grad}
    return {key: value for key, value in module.state_dict().items() if key not in frozen}


def _load_module(module: nn.Module, tensors: dict[str, Tensor]) -> None:
    own = module.state_dict()
    with torch.no_grad():
        for key, value in tensors.items():
            if key.startswith("module."):
                own[key.removeprefix("module.")].copy_(value)


def _load_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    slots: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".", 2)
            slots.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": slots})
