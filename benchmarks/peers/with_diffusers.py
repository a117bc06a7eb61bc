"""The work in diffusers, on PyTorch, eager: its scheduler, its U-Net, its average of the parameters."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import torch
from diffusers import DDPMScheduler, UNet2DModel
from diffusers.training_utils import EMAModel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.peers import work


class MLP(torch.nn.Module):
    """Perceptron (x [B, 2], t) -> [B, 2]."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[Any] = []
        inputs = 3
        for _ in range(work.MLP_LAYERS):
            layers += [torch.nn.Linear(inputs, work.MLP_WIDTH), torch.nn.SiLU()]
            inputs = work.MLP_WIDTH
        self.layers = torch.nn.Sequential(*layers, torch.nn.Linear(inputs, 2))

    def forward(self, x: Any, t: Any) -> Any:
        times = (t.to(x.dtype) / work.NUM_TIMESTEPS).expand(x.shape[0])
        return self.layers(torch.cat([x, times[:, None]], -1))


class UNet(torch.nn.Module):
    """`UNet2DModel` of about 1.4 M parameters: its defaults otherwise, with groups that divide its channels."""

    def __init__(self, side: int = work.UNET_SIDE, channels: int = 1, outputs: int = 1) -> None:
        super().__init__()
        self.net = UNet2DModel(
            sample_size=side,
            in_channels=channels,
            out_channels=outputs,
            layers_per_block=1,
            block_out_channels=(32, 64, 80),
            down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
            up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
            norm_num_groups=8,
        )

    def forward(self, x: Any, t: Any) -> Any:
        return self.net(x, t).sample


def _both(net: Any, shape: tuple[int, ...], batch: int, steps: int) -> tuple[float, float, str]:
    """Seconds of a train step and of a reverse step, and the size."""
    scheduler = DDPMScheduler(
        num_train_timesteps=work.NUM_TIMESTEPS,
        beta_start=work.BETA_1,
        beta_end=work.BETA_FINAL,
        clip_sample=False,
    )
    optimizer = torch.optim.Adam(net.parameters(), lr=work.LEARNING_RATE)
    average = EMAModel(net.parameters(), decay=work.EMA_DECAY, foreach=True)
    x_0 = torch.randn(batch, *shape)

    def train() -> None:
        t = torch.randint(0, work.NUM_TIMESTEPS, (batch,))
        noise = torch.randn_like(x_0)
        loss = torch.nn.functional.mse_loss(net(scheduler.add_noise(x_0, noise, t), t), noise)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), work.CLIP_NORM)
        optimizer.step()
        average.step(net.parameters())

    training = work.taken(train, 1)
    scheduler.set_timesteps(steps)

    def draw() -> None:
        x = torch.randn(batch, *shape)
        with torch.inference_mode():
            for t in scheduler.timesteps:
                x = scheduler.step(net(x, t), t, x).prev_sample

    drawing = work.taken(draw, steps)
    with FlopCounterMode(display=False) as counter:
        net(x_0[:1], torch.zeros(1))
    num = sum(p.numel() for p in net.parameters()) / 1e6
    return training, drawing, f"{num:.2f} M, {counter.get_total_flops() / 1e6:.0f} MFLOP"


def main() -> None:
    """Measure, and tell."""
    torch.manual_seed(0)
    side = work.UNET_SIDE
    mlp_found = _both(MLP(), (2,), work.MLP_BATCH, work.NUM_TIMESTEPS)
    unet_found = _both(UNet(), (1, side, side), work.UNET_BATCH, work.UNET_STEPS)
    work.tell(f"diffusers {version('diffusers')}, PyTorch {torch.__version__}", mlp_found, unet_found)


if __name__ == "__main__":
    main()
