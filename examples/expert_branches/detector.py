"""What is wrong with an image: a classifier light enough to run before every inference."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from examples.fashion_mnist.data import Bytes, Split

from .distortions import KINDS, Ints, mixed

EPOCHS, BATCH, RATE = 6, 512, 0.01


def log_spectrum(images: Bytes) -> Tensor:
    """Return the logarithm of the magnitude of each image's Fourier spectrum, (n, 1, 28, 15).

    Blur takes the high frequencies away and noise raises them, whatever the image shows. Half of
    the spectrum is enough: that of a real image is symmetric.
    """
    pixels = torch.from_numpy(images).float().div(255)
    return torch.fft.rfft2(pixels, norm="ortho").abs().add(1e-3).log().unsqueeze(1)


class Detector(nn.Module):
    """Two small convolutions over the log spectrum, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(1, 8, 3, stride=2), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 6 * 3, len(KINDS)),
        )  # fmt: skip

    def forward(self, spectrum: Tensor) -> Tensor:
        """Return a logit per kind, (n, 3)."""
        return self.layers(spectrum)


def train_detector(split: Split, seed: int) -> Detector:
    """Train on images of which a third each is clean, blurred and noisy."""
    torch.manual_seed(seed)
    images, kind = mixed(split, seed=100 + seed)
    spectra, target = log_spectrum(images.images), torch.from_numpy(kind)
    model = Detector()
    per_epoch = max(len(target) // BATCH, 1)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS * per_epoch)
    for _ in range(EPOCHS):
        order = torch.randperm(len(target))
        for rows in order.split(BATCH)[:per_epoch]:
            loss = F.cross_entropy(model(spectra[rows]), target[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


@torch.inference_mode()
def detect(model: Detector, images: Bytes) -> Ints:
    """Return the kind that each image is taken for, (n,)."""
    parts = [
        model(log_spectrum(part)).argmax(1)
        for part in np.array_split(images, 1 + len(images) // 5000)
    ]
    return torch.cat(parts).numpy()


@torch.inference_mode()
def multiply_adds(model: Detector) -> float:
    """Return the million multiply-adds of one image: layers, spectrum and its logarithm.

    A fast Fourier transform of n real numbers takes 2.5 n log2 n operations, two to a multiply-add;
    magnitude and logarithm are counted as ten multiply-adds each.
    """
    spectrum = log_spectrum(np.zeros((1, 28, 28), np.uint8))
    with FlopCounterMode(display=False) as counter:
        model(spectrum)
    pixels = 28 * 28
    transform = 2.5 * pixels * np.log2(pixels) / 2
    return float(counter.get_total_flops() / 2 + transform + 20 * spectrum.numel()) / 1e6
