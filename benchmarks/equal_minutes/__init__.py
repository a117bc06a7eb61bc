"""Bits/dim against minutes of training: this project's CIFAR-10 config, and diffusers' U-Net in PyTorch."""
