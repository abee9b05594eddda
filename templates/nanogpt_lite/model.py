"""The language model: a small GPT over characters, and how it reads streams one character at a time.

A block's first input is a mark, `start`, so that a character is predicted also where nothing was read before. `Reading`
keeps what each layer needs of the characters that were read; a change of the network must hold for both ways through
it, a whole block at once and one character after another, since a model is judged the second way. Where that is no
longer possible, `Reading` may give the network all of `tokens` each time.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

KEPT_LENGTH = 0.5  # of a full window, when reading goes on beyond it


@dataclass(frozen=True)
class Config:
    """Everything that can be set; each field is also a command-line argument."""

    n_layer: int = 6
    n_head: int = 6
    n_embd: int = 384
    block_size: int = 256
    """Characters that are predicted together, each from those before it in the block."""
    dropout: float = 0.2
    batch_size: int = 64
    iterations: int = 5000
    learning_rate: float = 1e-3
    """After the warm-up; it falls along a cosine to a tenth of that at the last iteration."""
    warmup: int = 100
    """Iterations in which the rate rises from zero."""
    weight_decay: float = 0.1
    beta2: float = 0.99
    clip_norm: float = 1.0
    evaluate_every: int = 250
    evaluation_blocks: int = 2048
    """The most blocks of a text that its loss is measured on; a shorter text is measured as a whole."""
    sample_characters: int = 500
    """Of each of the ten samples by which the speed is measured."""
    threads: int = 0
    """CPU threads; zero leaves the number to torch."""


class Cache:
    """The keys and values of one layer for the characters that were read."""

    def __init__(self) -> None:
        self.keys: Tensor | None = None  # (B, heads, read, head size)
        self.values: Tensor | None = None

    @property
    def length(self) -> int:
        return 0 if self.keys is None else self.keys.shape[2]

    def extend(self, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Add what is new and return everything."""
        if self.keys is not None:
            assert keys.shape[2] == 1, "after the first time, characters are read one by one"
            keys, values = torch.cat([self.keys, keys], dim=2), torch.cat([self.values, values], dim=2)
        self.keys, self.values = keys, values
        return keys, values


class Attention(nn.Module):
    """Causal self-attention with several heads."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        assert config.n_embd % config.n_head == 0, "the heads share the width evenly"
        self.heads = config.n_head
        self.dropout = config.dropout
        self.project = nn.Linear(config.n_embd, 3 * config.n_embd, bias=False)
        self.out = nn.Linear(config.n_embd, config.n_embd, bias=False)
        self.drop = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        batch, length, width = x.shape
        split = self.project(x).view(batch, length, 3, self.heads, width // self.heads)
        q, k, v = split.permute(2, 0, 3, 1, 4)  # (B, heads, T, head size) each
        if cache is not None:
            k, v = cache.extend(k, v)
        dropped = self.dropout if self.training else 0.0
        # A single character comes after all that are cached, so nothing has to be hidden from it.
        mixed = F.scaled_dot_product_attention(q, k, v, dropout_p=dropped, is_causal=length > 1)
        return self.drop(self.out(mixed.transpose(1, 2).reshape(batch, length, width)))  # (B, T, C)


class FeedForward(nn.Module):
    """Two linear maps with a GELU between them, for each character alone."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.widen = nn.Linear(config.n_embd, 4 * config.n_embd, bias=False)
        self.out = nn.Linear(4 * config.n_embd, config.n_embd, bias=False)
        self.drop = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop(self.out(F.gelu(self.widen(x))))  # (B, T, C)


class Block(nn.Module):
    """Attention and feed-forward, each added to what came in."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.norm_1 = nn.LayerNorm(config.n_embd, bias=False)
        self.attention = Attention(config)
        self.norm_2 = nn.LayerNorm(config.n_embd, bias=False)
        self.feed_forward = FeedForward(config)

    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        x = x + self.attention(self.norm_1(x), cache)
        return x + self.feed_forward(self.norm_2(x))  # (B, T, C)


class GPT(nn.Module):
    """Predicts each character of a block from those before it; `start`, one beyond the alphabet, begins a block."""

    def __init__(self, config: Config, symbols: int) -> None:
        super().__init__()
        self.config = config
        self.start = symbols
        self.embed = nn.Embedding(symbols + 1, config.n_embd)
        self.position = nn.Embedding(config.block_size, config.n_embd)
        self.drop = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.norm = nn.LayerNorm(config.n_embd, bias=False)
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                scale = (2 * config.n_layer) ** -0.5 if name.endswith("out.weight") else 1.0
                nn.init.normal_(weight, std=0.02 * scale)

    def forward(self, tokens: Tensor, caches: list[Cache] | None = None) -> Tensor:
        """What follows each of the tokens (B, T): logits (B, T, symbols)."""
        read = caches[0].length if caches else 0
        x = self.drop(self.embed(tokens) + self.position.weight[read : read + tokens.shape[1]])  # (B, T, C)
        for index, block in enumerate(self.blocks):
            x = block(x, caches[index] if caches else None)
        return F.linear(self.norm(x), self.embed.weight[: self.start])  # the embedding's weights, tied


class Reading:
    """Streams that a model reads beside each other, one character of each at a time."""

    def __init__(self, model: GPT, streams: int) -> None:
        self.model = model
        self.start = torch.full((streams, 1), model.start, device=model.embed.weight.device)
        self.tokens = self.start[:, :0]  # (B, read)
        self.caches = [Cache() for _ in model.blocks]

    @torch.inference_mode()
    def step(self, characters: Tensor | None = None) -> Tensor:
        """Take the next character of each stream (B,), none at the beginning; return what comes then (B, symbols)."""
        new = self.start if characters is None else characters.unsqueeze(1)  # (B, 1)
        self.tokens = torch.cat([self.tokens, new], dim=1)
        size = self.model.config.block_size
        if self.tokens.shape[1] > size:  # the window is full: begin another with the last half of it
            kept = self.tokens[:, -max(1, int(KEPT_LENGTH * size)) :]
            self.tokens = new = torch.cat([self.start, kept], dim=1)
            self.caches = [Cache() for _ in self.model.blocks]
        return self.model(new, self.caches)[:, -1].float()


@torch.inference_mode()
def sample(model: GPT, count: int, characters: int, generator: torch.Generator, temperature: float = 0.8) -> Tensor:
    """Draw texts from the model: (count, characters)."""
    reading, drawn = Reading(model, count), []
    logits = reading.step()
    for _ in range(characters):
        chances = F.softmax(logits / temperature, dim=-1)  # (count, symbols)
        drawn.append(torch.multinomial(chances.cpu(), 1, generator=generator)[:, 0])
        logits = reading.step(drawn[-1].to(chances.device))
    return torch.stack(drawn, dim=1)
