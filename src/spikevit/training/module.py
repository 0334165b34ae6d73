"""The Lightning module: what one step of training and of validation is, for any recipe."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator, Sized
from contextlib import nullcontext
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset

from spikevit.data import Augment, Batches, Data, make_loader, normalise
from spikevit.data.folder import FolderSet, RandomParts
from spikevit.models import SpikingModel
from spikevit.models.running import evaluating
from spikevit.profiling.calibrate import re_estimate
from spikevit.profiling.finite import refuse_non_finite
from spikevit.schema import wrong
from spikevit.training.backend import pl
from spikevit.training.budget import Budget
from spikevit.training.optimizer import make_optimizer
from spikevit.training.recipe import Recipe, ScheduleRecipe

RE_ESTIMATED = 8  # batches of all processes, of which statistics are made before validation


class NonFiniteLoss(RuntimeError):
    """The loss, a gradient, a weight or a statistic became NaN or infinite; nothing was saved with it."""


class InStep(Batches):
    """Batches of validation, as many for each process: wrapped models meet at every one. Who has one less gets the
    first images of all instead, which count for nothing.
    """

    def __len__(self) -> int:
        return -(-self.total // self.world_size)

    def __iter__(self) -> Iterator[list]:
        yield from super().__iter__()
        yield from [list(range(min(self.n, self.batch_size)))] * (len(self) - super().__len__())


class Classifier(pl.LightningModule):
    """Trains a model on a data set as its recipe says.

    Randomness of a step (augmentation) is a function of (seed, epoch, number of the batch), and so is the order of
    the images: a run that resumes at an epoch, or that is spread over processes, sees what one whole run sees.
    """

    def __init__(self, recipe: Recipe, model: SpikingModel, data: Data):
        super().__init__()
        self.recipe = recipe
        self.model = model
        self.data = data
        self.train_set = train_set(recipe, data)
        self._optimizer()  # whether it can be made, now and not when training starts
        self.val_set = data.split("val")
        self.validated: dict[str, float] = {}
        self.silent = ""  # how many layers of neurons never fired in validation, in short
        self.began = False
        most = -(-RE_ESTIMATED // (recipe.trainer.devices * recipe.trainer.nodes))
        self.newest: deque[tuple[tuple[Tensor, Tensor], int]] = deque(maxlen=most)  # batches of this epoch
        self.modes: dict[str, bool] = {}  # which modules train, by name
        self.augment = Augment(recipe.augmentation, data.info)
        self.budget = Budget(model, recipe.spikes) if recipe.spikes.target is not None else None
        self.average: AveragedModel | None = None
        if (decay := recipe.regularisation.ema_decay) is not None:
            self.average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)
            self.average.requires_grad_(False)

    @property
    def trained(self) -> SpikingModel:
        """The model that is validated, saved and tested: the averaged one where there is one."""
        return cast(SpikingModel, self.average.module) if self.average is not None else self.model

    def on_train_start(self) -> None:
        """Whatever the run goes on from has been read; its learning rate is that of this recipe's schedule."""
        self.began = True
        scheduler = cast(Any, self.lr_schedulers())
        rates = zip(scheduler.optimizer.param_groups, scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
        for group, lr, factor in rates:
            group["lr"] = lr * factor(scheduler.last_epoch)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Augments, classifies, and returns the loss; refuses to go on from one that is not finite."""
        if not batch_idx:
            self.modes = {name: module.training for name, module in self.model.named_modules()}
        self.newest.append((batch, batch_idx))
        images, targets = self._augmented(batch, batch_idx)
        with self.budget or nullcontext():
            loss, _ = self.model.loss(images, targets, self.recipe.regularisation.label_smoothing)
        if self.budget:
            loss = loss + self.budget.penalty(self.current_epoch + batch_idx / self.trainer.num_training_batches)
        if not torch.isfinite(loss):
            raise NonFiniteLoss(f"the loss is {loss.item()} at epoch {self.current_epoch}, step {self.global_step}")
        self.log("loss", loss.detach(), on_step=True, on_epoch=True, batch_size=len(images), sync_dist=True)
        return loss

    def _augmented(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> tuple[Tensor, Tensor]:
        """Images and targets of a batch, the same whenever it is asked for."""
        number = batch_idx * self.trainer.world_size + self.trainer.global_rank
        torch.manual_seed(hash((self.recipe.trainer.seed, self.current_epoch, number)) % 2**63)
        images, targets = self.augment.train()(*batch, epoch=self.current_epoch)
        return images.to(self.dtype), targets

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Refuses a step with gradients that are not finite, but where a scaler (16-mixed) leaves such steps out."""
        if getattr(self.trainer.precision_plugin, "scaler", None) is None:
            gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            norm = torch.nn.utils.get_total_norm(gradients)
            if not torch.isfinite(norm):
                where = f"epoch {self.current_epoch}, step {self.global_step}"
                raise NonFiniteLoss(f"the norm of the gradients is {norm.item()} at {where}")

    def on_train_batch_end(self, *_: Any) -> None:
        """Moves the average, once per step of the optimiser."""
        if self.average is not None and int(self.average.n_averaged) < self.global_step:
            self.average.update_parameters(self.model)

    def on_validation_start(self) -> None:
        """Statistics of batch norm are those of the weights that are validated and saved, on the epoch's last batches.

        Of several processes they are the mean.
        """
        batches = list(self.newest)
        self.newest.clear()
        if not batches:
            return
        with evaluating(self.trained), self.trainer.precision_plugin.forward_context():
            for name, module in self.trained.named_modules():
                module.training = self.modes.get(name, False)
            try:
                with refuse_non_finite(self.trained):
                    re_estimate(self.trained, (self._augmented(*batch)[0] for batch in batches))
            except ValueError as error:
                raise NonFiniteLoss(f"after epoch {self.current_epoch + 1}: {error}") from None
        self.augment.eval()
        if self.trainer.world_size > 1:
            for name, statistic in self.trained.named_buffers():
                if name.endswith(("running_mean", "running_var")):
                    statistic.copy_(self.trainer.strategy.reduce(statistic, reduce_op="mean"))

    def on_validation_epoch_start(self) -> None:
        """Nothing is counted yet."""
        dtype = torch.float32 if self.device.type == "mps" else torch.float64
        self.sums = torch.zeros(4, dtype=dtype, device=self.device)  # of loss, right, work, images

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        """Adds up loss, images right and work of the trained model."""
        if batch_idx * self.trainer.world_size + self.trainer.global_rank >= self.val_batches.total:
            return
        images, labels = batch
        x = normalise(images, self.data.info).to(self.dtype)
        try:
            with refuse_non_finite(self.trained) as finite:
                logits, work = self.trained.run(x)
                finite.see("logits", logits)
        except ValueError as error:
            raise NonFiniteLoss(f"in validation after epoch {self.current_epoch + 1}: {error}") from None
        found = F.cross_entropy(logits, labels, reduction="sum"), (logits.argmax(-1) == labels).sum(), work.sum()
        self.sums[:3] += torch.stack([value.to(self.sums) for value in found])
        self.sums[3] += len(labels)

    def on_validation_epoch_end(self) -> None:
        """Means over all images of all processes."""
        loss, right, work, images = self.trainer.strategy.reduce(self.sums, reduce_op="sum").tolist()
        self.validated = {"val_loss": loss / images, "val_accuracy": right / images, "val_work": work / images}
        self.log_dict(self.validated)

    def configure_optimizers(self) -> Any:
        """The optimiser of `make_optimizer`; the schedule moves every step."""
        lr = self.recipe.optimizer.lr
        optimizer = self._optimizer()
        # Not the trainer's own estimate: it would make the loader, before a resumed run knows its epoch.
        per_epoch = math.ceil(len(self._train_batches()) / self.recipe.trainer.accumulate)
        scheduler = LambdaLR(optimizer, lambda step: lr_at(step / per_epoch, lr, self.recipe.schedule) / lr)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def _optimizer(self) -> torch.optim.Optimizer:
        steps = self.recipe.time_steps
        return make_optimizer(self.recipe.optimizer, self.model, steps.lr if steps else None)

    def on_train_epoch_start(self) -> None:
        """The order of the images is that of this epoch."""
        self.newest.clear()
        self._batches.set_epoch(self.current_epoch)

    def train_dataloader(self) -> DataLoader:
        """Whole batches in the order of the epoch that the loop is at."""
        self._batches = self._train_batches()
        self._batches.set_epoch(self.trainer.fit_loop.epoch_progress.current.processed)  # workers read ahead at once
        return make_loader(self.train_set, self._batches, self.recipe.data.workers)

    def _train_batches(self) -> Batches:
        return Batches(
            len(cast(Sized, self.train_set)),
            self.recipe.data.batch_size,
            seed=self.recipe.trainer.seed,
            shuffle=True,
            drop_last=True,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
            repeats=self.recipe.augmentation.repeats,
            draws=isinstance(self.train_set, RandomParts),
        )

    def val_dataloader(self) -> DataLoader:
        """Every validation image once."""
        self.val_batches = InStep(
            len(cast(Sized, self.val_set)),
            self.recipe.data.batch_size,
            seed=0,
            shuffle=False,
            drop_last=False,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
        )
        return make_loader(self.val_set, self.val_batches, self.recipe.data.workers)


def train_set(recipe: Recipe, data: Data) -> Dataset:
    """The training images: as they are, or random parts of them where the recipe asks for these."""
    whole, scale = data.split("train"), recipe.augmentation.random_resized_crop
    images, processes = len(cast(Sized, whole)), recipe.trainer.devices * recipe.trainer.nodes
    if images < recipe.data.batch_size * processes:
        many = f" for each of {processes} processes" if processes > 1 else ""
        right = f"at most {images // processes}: there are {images} training images, and a step takes a batch{many}"
        raise wrong("data.batch_size", recipe.data.batch_size, right)
    if scale is None:
        return whole
    if not isinstance(whole, FolderSet):
        raise ValueError(
            f"augmentation.random_resized_crop={list(scale)} cuts image files as they are read (data.name=folder); "
            f"{data.info.name!r} has its images in memory: take augmentation.crop_padding"
        )
    return RandomParts(whole, scale, recipe.augmentation.aspect_ratio)


def lr_at(epoch: float, lr: float, schedule: ScheduleRecipe) -> float:
    """The learning rate after `epoch` epochs: linear warm-up, half a cosine, cool-down.

    A cosine over the whole run, entered after the warm-up (as timm's scheduler has it).
    """
    s = schedule
    end = s.epochs - s.cooldown_epochs
    if epoch < s.warmup_epochs:
        return s.warmup_lr + (lr - s.warmup_lr) * epoch / s.warmup_epochs
    if epoch >= end:
        return s.min_lr
    return s.min_lr + (lr - s.min_lr) * (1 + math.cos(math.pi * epoch / end)) / 2
