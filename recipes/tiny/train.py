"""The recipe of the embedded model: `python -m recipes.tiny.train --run RUN` (resumes where RUN stopped).

Masked-diffusion fine-tuning from nothing (LLaDA, section 2.3): hide a random share of the response, predict what was
hidden, weigh by 1/t. `--tokens` and `--minutes` bound the run and set the pace of curriculum and learning rate.
A file PAUSE in the run directory halts it until removed, a file STOP ends it. Runs on a CPU or a GPU unchanged.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tokenizers import Tokenizer

from dkv.tiny import MODEL_DIR
from recipes.tiny.batches import Batch, draw_masks, make_chunk
from recipes.tiny.curriculum import CURRICULA, Stage, learning_rate
from recipes.tiny.export import export
from recipes.tiny.graft import graft
from recipes.tiny.network import Network, Shape, initialise
from recipes.tiny.optimisers import Adam, Muon
from recipes.tiny.sampler import accuracy, quick_set
from recipes.tiny.tasks import EVALUATED
from recipes.tiny.tiny_tokenizer import MASK, load, special_id

SIZES = ("width", "layers", "heads", "hidden", "kv_heads", "shift")


@dataclass(frozen=True)
class Settings:
    """All that a run depends on."""

    run: Path
    tokens: float = 80e6
    minutes: float = 0.0  # 0 = no bound on time
    batch: int = 4096
    seed: int = 0
    muon_rate: float = 0.01
    adam_rate: float = 0.004
    flat: float = 0.5
    chunk: int = 4096
    compiled: bool = True
    bf16: bool = True
    device: str = "cpu"
    curriculum: str = "nothing"
    start: Path | None = None  # a model directory whose weights the run begins with
    workers: int = 0  # processes that make data ahead, for a GPU; 0 = made in place, which on a CPU costs 1.5%
    save_seconds: float = 240.0
    evaluate_tokens: float = 4e6
    evaluate_count: int = 24
    shape: Shape = field(default_factory=Shape)


@dataclass
class Clock:
    """Where a run is; saved with its weights."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    chunk: int = 0
    used: int = 0  # batches of the chunk already trained on
    chunk_progress: float = 0.0
    evaluated: int = 0

    def progress(self, settings: Settings) -> float:
        """The share of the run that is done, by tokens or by time, whichever is further."""
        by_time = self.seconds / (60 * settings.minutes) if settings.minutes else 0.0
        return min(1.0, max(self.tokens / settings.tokens, by_time))


class Trainer:
    """Weights, optimisers and clock of a run."""

    def __init__(self, settings: Settings, tokenizer: Tokenizer) -> None:
        self.settings, self.tokenizer, self.clock = settings, tokenizer, Clock()
        self.mask = special_id(tokenizer, MASK)
        self.network = Network(settings.shape)
        initialise(self.network, self.mask, settings.seed)
        if settings.start is not None:
            graft(self.network, tokenizer, settings.start)
        self.network.to(settings.device)
        named = dict(self.network.named_parameters())
        hidden = {name: p for name, p in named.items() if p.ndim == 2 and ".blocks." in name}
        self.muon = Muon(list(hidden.values()))
        self.adam = Adam({name: p for name, p in named.items() if name not in hidden})
        if settings.compiled:
            self.network.compile_blocks()
        settings.run.mkdir(parents=True, exist_ok=True)
        if self.checkpoint.exists():
            self.restore()

    @property
    def checkpoint(self) -> Path:
        """The one file that holds the whole state."""
        return self.settings.run / "state.safetensors"

    def save(self) -> None:
        """Write the state beside the old one and swap them, so that a crash leaves one of them whole."""
        tensors = {f"weight.{n}": t for n, t in self.network.state_dict().items()}
        tensors |= self.muon.state() | self.adam.state()
        fresh = self.checkpoint.with_suffix(".new")
        save_file(
            {n: t.contiguous() for n, t in tensors.items()}, fresh, metadata={"clock": json.dumps(vars(self.clock))}
        )
        fresh.replace(self.checkpoint)

    def restore(self) -> None:
        """Read the state back."""
        with safe_open(self.checkpoint, "pt") as file:
            self.clock = Clock(**json.loads(file.metadata()["clock"]))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        weights = {n.removeprefix("weight."): t for n, t in tensors.items() if n.startswith("weight.")}
        self.network.load_state_dict(weights)
        self.muon.restore(tensors)
        self.adam.restore(tensors)

    def autocast(self) -> contextlib.AbstractContextManager[None]:
        """bf16 products where the settings ask for them."""
        return torch.autocast(self.settings.device.split(":")[0], torch.bfloat16, enabled=self.settings.bf16)

    def train_on(self, batch: Batch) -> float:
        """One step; returns the loss per response token."""
        settings, clock = self.settings, self.clock
        generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + clock.step)
        hidden, weight = draw_masks(batch, generator)
        tokens, hidden = batch.tokens.to(settings.device), hidden.to(settings.device)
        with self.autocast():
            states = self.network(tokens.masked_fill(hidden, self.mask), batch.stop.to(settings.device))
            rows, positions = hidden.nonzero(as_tuple=True)
            logits = self.network.head(states[rows, self.network.rows(positions)])
        error = torch.nn.functional.cross_entropy(logits.float(), tokens[hidden], reduction="none")
        loss = (error * weight.to(settings.device)[rows]).sum() / (batch.stop - batch.start).sum()
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        factor = learning_rate(clock.progress(settings), clock.step, flat=settings.flat)
        self.muon.step(settings.muon_rate * factor)
        self.adam.step(settings.adam_rate * factor)
        self.network.zero_grad(set_to_none=True)
        clock.step += 1
        clock.tokens += int(batch.stop.sum())
        return float(loss.detach())

    def evaluate(self) -> dict[str, float]:
        """Quick accuracies, four tokens a step."""
        self.network.eval()
        with self.autocast():
            found = {
                name: accuracy(self.network, self.tokenizer, task, quick_set(task, self.settings.evaluate_count), 4)
                for name, task in EVALUATED.items()
            }
        self.network.train()
        return found


def chunks(trainer: Trainer) -> Iterator[list[Batch]]:
    """The run's chunks from where its clock stands.

    Progress is read when a chunk is begun and kept in the clock, so that a resumed run makes the same chunk again.
    """
    settings, clock = trainer.settings, trainer.clock

    stages = CURRICULA[settings.curriculum]

    def arguments(number: int, progress: float) -> tuple[Tokenizer, int, int, float, int, int, tuple[Stage, ...]]:
        return trainer.tokenizer, settings.seed, number, progress, settings.batch, settings.chunk, stages

    with contextlib.ExitStack() as stack:
        pool = stack.enter_context(ProcessPoolExecutor(settings.workers)) if settings.workers else None
        ahead: deque[tuple[float, Future[list[Batch]]]] = deque()
        while True:
            progress = clock.chunk_progress if clock.used else clock.progress(settings)
            if pool is None:
                batches = make_chunk(*arguments(clock.chunk, progress))
            else:
                while len(ahead) < 2 * settings.workers:
                    number = clock.chunk + len(ahead)
                    ahead.append((progress, pool.submit(make_chunk, *arguments(number, progress))))
                progress, future = ahead.popleft()
                batches = future.result()
            clock.chunk_progress = progress
            yield batches[clock.used :]
            clock.chunk, clock.used = clock.chunk + 1, 0


class Log:
    """Appends JSON lines to the run's log and repeats them on standard output."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, **values: object) -> None:
        """One line of values, floats to four places."""
        line = json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in values.items()})
        print(line, flush=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def run(settings: Settings, tokenizer: Tokenizer) -> Trainer:
    """Train until the bounds of the settings, or until STOP appears; saves and logs on the way."""
    trainer = Trainer(settings, tokenizer)
    clock, log = trainer.clock, Log(settings.run / "log.jsonl")
    saved = marked = time.monotonic()
    losses: list[float] = []
    since = clock.tokens
    for chunk in chunks(trainer):
        for batch in chunk:
            if clock.progress(settings) >= 1 or (settings.run / "STOP").exists():
                trainer.save()
                return trainer
            began = time.monotonic()
            losses.append(trainer.train_on(batch))
            clock.used += 1
            clock.seconds += time.monotonic() - began
            if clock.step % 50 == 0:
                now = time.monotonic()
                log.write(step=clock.step, tokens=clock.tokens, minutes=clock.seconds / 60,
                          loss=sum(losses) / len(losses), rate=(clock.tokens - since) / (now - marked),
                          progress=clock.progress(settings), at=time.strftime("%H:%M:%S"))  # fmt: skip
                losses, since, marked = [], clock.tokens, now
            if clock.tokens - clock.evaluated >= settings.evaluate_tokens:
                clock.evaluated = clock.tokens
                began = time.monotonic()
                log.write(tokens=clock.tokens, accuracy=trainer.evaluate(), took=time.monotonic() - began)
                clock.seconds += time.monotonic() - began
                marked = time.monotonic()
            if time.monotonic() - saved > settings.save_seconds:
                trainer.save()
                saved = time.monotonic()
            while (settings.run / "PAUSE").exists():
                time.sleep(1)
                marked = time.monotonic()
    return trainer


def main() -> None:
    """Command line of the recipe."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="directory of checkpoint and log")
    parser.add_argument("--start", type=Path, default=None, help="model directory to begin with; default: from nothing")
    parser.add_argument("--curriculum", choices=list(CURRICULA), default=Settings.curriculum)
    parser.add_argument("--export", type=Path, default=None, help="write the model here at the end")
    for name in ("tokens", "minutes", "muon-rate", "adam-rate", "flat", "save-seconds", "evaluate-tokens"):
        parser.add_argument(f"--{name}", type=float, default=getattr(Settings, name.replace("-", "_")))
    for name in ("batch", "seed", "chunk", "workers", "evaluate-count"):
        parser.add_argument(f"--{name}", type=int, default=getattr(Settings, name.replace("-", "_")))
    for name in SIZES:
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=getattr(Shape, name))
    parser.add_argument("--biased", action="store_true", help="biases on q, k and v, as Dream has them")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--tokenizer", type=Path, default=MODEL_DIR)
    given = vars(parser.parse_args())
    tokenizer, target = load(given.pop("tokenizer")), given.pop("export")
    sizes = {name: int(given.pop(name)) for name in SIZES}
    shape = Shape(**sizes, biased=given.pop("biased"), vocabulary=tokenizer.get_vocab_size())
    trainer = run(Settings(**given, shape=shape), tokenizer)
    if target is not None:
        export(trainer.network, tokenizer, target)


if __name__ == "__main__":
    main()
