"""A loaded model and the ways to generate with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from dkv.accel.backend import Backend, plain_backend
from dkv.accel.compile_report import CompileReport
from dkv.caches import make_cache
from dkv.checkpoints.safetensors_writer import parse_size
from dkv.checkpoints.tuned_settings import AUTO, find_tuned
from dkv.core.dtypes import named_dtype
from dkv.core.keywords import checked_keywords
from dkv.core.model import Model
from dkv.core.packing import Bucket
from dkv.core.policy import CachePolicy, Decoder
from dkv.core.values import ArrayLike, as_count, plain, plain_fields
from dkv.decoders import make_decoder
from dkv.engine import Engine, Request
from dkv.engine.infill import Infilling, Part, canvas_ids, infilled, region_of
from dkv.errors import CheckpointError, SettingError
from dkv.layers.tensor_parallel import ShardedTransformer
from dkv.models import Transformer
from dkv.models.saving import save
from dkv.outputs import Frame, Generation
from dkv.params import SamplingParams, drawn_seed, seed_of, texts_of
from dkv.tokenizer import Tokenizer
from dkv.tokenizer.prompts import Prompt, encoded, listed

__all__ = ["DiffusionLM"]


class DiffusionLM:
    """A loaded model: `model` (the network), `tokenizer` (or None), `directory` (where both came from, or None),
    `audit` (whether every read is checked), and the ways to generate."""

    def __init__(
        self,
        model: Model,
        tokenizer: Tokenizer | None,
        name: str = "",
        audit: bool = False,
        directory: Path | None = None,
        draw: Callable[[], int] = drawn_seed,
        backend: Backend | None = None,
    ) -> None:
        self.backend = backend or plain_backend(model)
        self.model, self.tokenizer, self.name, self.directory = model, tokenizer, name, directory
        self.audit, self._draw = audit, draw

    @property
    def bucket(self) -> Bucket:
        """How its row counts are rounded up."""
        return self.backend.bucket

    @property
    def network(self) -> Model:
        """The model without what records its forwards."""
        return self.backend.network

    @property
    def compile_report(self) -> dict[str, CompileReport]:
        """What preparing faster forwards took so far, by the argument of `load` that asked for them."""
        return self.backend.reports

    @property
    def quantize(self) -> str | None:
        """As what the weights are kept ("int8", "int4"), None = plain."""
        return self.network.quantize if isinstance(self.network, Transformer) else None

    @property
    def compiled(self) -> bool:
        """Whether `load` was asked to compile."""
        return self.backend.compiled

    def release_memory(self) -> None:
        """Give free memory of this process back to the system, where the C library can."""
        self.backend.release_memory()

    @checked_keywords
    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        gen_length: int = 128,
        block_length: int | None = None,
        steps: int | None = None,
        temperature: float = 0.0,
        top_p: float | None = None,
        top_k: int | None = None,
        cfg_scale: float = 0.0,
        seed: int | Sequence[int] | ArrayLike | None = None,
        cache: str | CachePolicy = "dkv-decode",
        decoder: str | Decoder | None = None,
        stop_at_eos: bool = True,
        cache_dtype: str | None = None,
        stop: str | Sequence[str] | None = None,
        trace: bool = False,
        progress: bool = False,
        chat: bool | None = None,
        batch_size: int = 32,
        eos_penalty: float = 0.0,
        min_tokens: int = 0,
        grow: bool = False,
        parse_special: bool = False,
    ) -> list[Generation]:
        """Generate a response of `gen_length` positions for each prompt; results come in the order of the prompts.

        prompts: a text, a list of token ids, a conversation (a list of {"role": ..., "content": ...} messages, the
        user's last), or a list of those. A text goes through the chat template if there is one (chat=False: as it is),
        a conversation always. block_length: tokens per block, None = gen_length. steps: denoising steps over the
        whole response, None = gen_length. seed: prompt i has seed + i, or give one for each; None draws one for each.
        A result's own `seed`, for its prompt alone, makes it again. cache, decoder: specs or objects; decoder None =
        the family's own; cache "auto" = both as `dkv tune` found them. stop_at_eos: finish a sequence once all before
        its first end-of-text is decided (the text is the same); False fills the canvas. cache_dtype: of keys and
        values, None = the model's. batch_size: prompts per batch; in float32 it never changes a sequence's tokens.
        eos_penalty: taken from the logits of the tokens that end a text when a token is chosen; min_tokens: the first
        positions of the response, at which none of them is chosen; grow: begin with one block, and add the next one
        only when it is complete without an end of the text, up to gen_length (docs/lengths.md); parse_special: a text
        is rendered already: no chat template, and the strings of control tokens in it are those tokens
        (docs/prompts.md).

        Raises SettingError, SpecError and PromptError, each one line naming the argument, its value and the fix; and
        RequestError where a policy or a decoder fails on the way, or logits are not finite.
        """
        each = listed(prompts)
        settings = self._settings(
            gen_length, block_length, steps, temperature, top_p, top_k, cfg_scale, seed, cache, decoder, stop_at_eos,
            cache_dtype, stop, eos_penalty, min_tokens, grow, len(each),
        )  # fmt: skip
        ids_of = [self._encode(p, chat, settings, parse_special) for p in each]
        seeds = settings.seeds(len(ids_of))
        engine, results = (
            Engine(self, active=as_count("batch_size", batch_size), waiting=len(ids_of)),
            dict[int, Generation](),
        )
        numbers = [
            engine.add(Request(tuple(ids), settings, seed, number, trace, deltas=False))
            for number, (ids, seed) in enumerate(zip(ids_of, seeds, strict=True))
        ]
        with _progress(len(ids_of), progress) as tell:
            while len(results) < len(numbers):
                for update in engine.step():
                    if update.error is not None:
                        raise update.error
                    if update.generation is not None:
                        results[update.request_id] = update.generation
                        tell(1)
        return [results[number] for number in numbers]

    @checked_keywords
    def stream(
        self,
        prompt: Prompt,
        gen_length: int = 128,
        block_length: int | None = None,
        steps: int | None = None,
        temperature: float = 0.0,
        top_p: float | None = None,
        top_k: int | None = None,
        cfg_scale: float = 0.0,
        seed: int | None = None,
        cache: str | CachePolicy = "dkv-decode",
        decoder: str | Decoder | None = None,
        stop_at_eos: bool = True,
        cache_dtype: str | None = None,
        stop: str | Sequence[str] | None = None,
        trace: bool = False,
        chat: bool | None = None,
        eos_penalty: float = 0.0,
        min_tokens: int = 0,
        grow: bool = False,
        parse_special: bool = False,
    ) -> Iterator[Frame]:
        """Generate for one prompt, a Frame a step; the last one carries the Generation. Arguments as in `generate`."""
        request = self.request(
            prompt, gen_length, block_length, steps, temperature, top_p, top_k, cfg_scale, seed, cache, decoder,
            stop_at_eos, cache_dtype, stop, trace, chat, frames=True, eos_penalty=eos_penalty, min_tokens=min_tokens,
            grow=grow, parse_special=parse_special,
        )  # fmt: skip
        engine = Engine(self, active=1)
        engine.add(request)
        return _frames(engine)

    @checked_keywords
    def request(
        self,
        prompt: Prompt,
        gen_length: int = 128,
        block_length: int | None = None,
        steps: int | None = None,
        temperature: float = 0.0,
        top_p: float | None = None,
        top_k: int | None = None,
        cfg_scale: float = 0.0,
        seed: int | None = None,
        cache: str | CachePolicy = "dkv-decode",
        decoder: str | Decoder | None = None,
        stop_at_eos: bool = True,
        cache_dtype: str | None = None,
        stop: str | Sequence[str] | None = None,
        trace: bool = False,
        chat: bool | None = None,
        frames: bool = False,
        eos_penalty: float = 0.0,
        min_tokens: int = 0,
        grow: bool = False,
        parse_special: bool = False,
        attend: Callable[[], None] | None = None,
    ) -> Request:
        """One prompt and its settings, checked, for an Engine or a Service. Arguments and errors as in `generate`;
        frames: whether each update carries a Frame; attend: called again and again while the prompt is encoded, so that
        it can end the work by raising."""
        settings = self._settings(
            gen_length, block_length, steps, temperature, top_p, top_k, cfg_scale, seed, cache, decoder, stop_at_eos,
            cache_dtype, stop, eos_penalty, min_tokens, grow,
        )  # fmt: skip
        if cache_dtype is not None:
            named_dtype("cache_dtype", cache_dtype)
        return Request(
            tuple(self._encode(prompt, chat, settings, parse_special, attend)),
            settings,
            settings.seeds(1)[0],
            0,
            trace,
            frames,
        )

    @checked_keywords
    def infill(
        self,
        prefix: str | Sequence[int] | ArrayLike,
        suffix: str | Sequence[int] | ArrayLike,
        gen_length: int = 32,
        block_length: int | None = None,
        steps: int | None = None,
        temperature: float = 0.0,
        top_p: float | None = None,
        top_k: int | None = None,
        cfg_scale: float = 0.0,
        seed: int | None = None,
        cache: str | CachePolicy = "dkv-decode",
        decoder: str | Decoder | None = None,
        cache_dtype: str | None = None,
        trace: bool = False,
        eos_penalty: float = 0.0,
        min_tokens: int | None = None,
    ) -> Generation:
        """Fill the `gen_length` positions between two texts, or lists of token ids; no chat template is used.

        min_tokens: None = gen_length, so that no end-of-text is chosen; nothing else would end a hole. Other arguments
        and errors as in `generate`.
        """
        gen_length, block_length = as_count("gen_length", gen_length), plain(block_length)
        if type(block_length) is int and block_length > 0 and gen_length % block_length:
            raise SettingError(f"gen_length={gen_length} must be a multiple of block_length={block_length}")
        return self.infill_canvas(
            [prefix, gen_length, suffix], block_length, steps, temperature, top_p, top_k, cfg_scale, seed, cache,
            decoder, cache_dtype, trace, eos_penalty, min_tokens,
        ).generation  # fmt: skip

    @checked_keywords
    def infill_canvas(
        self,
        canvas: str | Sequence[Part],
        block_length: int | None = None,
        steps: int | None = None,
        temperature: float = 0.0,
        top_p: float | None = None,
        top_k: int | None = None,
        cfg_scale: float = 0.0,
        seed: int | None = None,
        cache: str | CachePolicy = "dkv-decode",
        decoder: str | Decoder | None = None,
        cache_dtype: str | None = None,
        trace: bool = False,
        eos_penalty: float = 0.0,
        min_tokens: int | None = None,
    ) -> Infilling:
        """Fill the holes of a canvas: a text with `{mask}` or `{mask:12}` in it, or a list of texts (read literally),
        whole numbers (holes of so many positions) and lists of token ids. See `dkv.engine.infill` and docs/lengths.md.

        Blocks divide what lies between the first hole's start and the last one's end. steps: None = one for each
        position to fill. Other arguments and errors as in `infill`.
        """
        request = self.infill_request(
            canvas, block_length, steps, temperature, top_p, top_k, cfg_scale, seed, cache, decoder, cache_dtype, trace,
            eos_penalty, min_tokens,
        )  # fmt: skip
        engine = Engine(self, active=1)
        engine.add(replace(request, deltas=False))
        while updates := engine.step():
            if updates[0].error is not None:
                raise updates[0].error
            if updates[0].generation is not None:
                return infilled(request, updates[0].generation, self.tokenizer)
        raise RuntimeError("the engine stopped without a result")

    @checked_keywords
    def infill_request(
        self,
        canvas: str | Sequence[Part],
        block_length: int | None = None,
        steps: int | None = None,
        temperature: float = 0.0,
        top_p: float | None = None,
        top_k: int | None = None,
        cfg_scale: float = 0.0,
        seed: int | None = None,
        cache: str | CachePolicy = "dkv-decode",
        decoder: str | Decoder | None = None,
        cache_dtype: str | None = None,
        trace: bool = False,
        eos_penalty: float = 0.0,
        min_tokens: int | None = None,
        frames: bool = False,
    ) -> Request:
        """A canvas with holes, checked, for an Engine or a Service; `dkv.engine.infill.infilled` reads its result.
        Arguments
        and errors as in `infill_canvas`; frames: whether each update carries a Frame."""
        ids = canvas_ids(canvas, self.tokenizer, self.model.config)
        block_length = plain(block_length)
        start, gen_length = region_of(ids, block_length)
        if steps is None and block_length in (None, gen_length):
            steps = ids.count(None)
        settings = self._settings(
            gen_length, block_length, steps, temperature, top_p, top_k, cfg_scale, seed, cache, decoder, False,
            cache_dtype, None, eos_penalty, gen_length if min_tokens is None else min_tokens, False,
        )  # fmt: skip
        if cache_dtype is not None:
            named_dtype("cache_dtype", cache_dtype)
        prompt = tuple(token for token in ids[:start] if token is not None)
        return Request(prompt, settings, settings.seeds(1)[0], 0, trace, frames, given=tuple(ids[start:]))

    @checked_keywords
    def save(self, directory: str | Path, dtype: str | None = None, max_shard_size: str = "5GB") -> None:
        """Write the model in the published format to a directory that does not exist or is empty: all or nothing.

        dtype: of the weights, None = the model's. Config, tokenizer and chat template are those that it was loaded
        with. Raises SettingError, and CheckpointError where that cannot be read or the directory cannot be written.
        """
        model = self.network
        if self.directory is None or not isinstance(model, Transformer):
            raise CheckpointError("save: this model was not loaded from a directory, so its config is not known")
        if isinstance(model, ShardedTransformer):
            ranks = model.team.ranks
            raise SettingError(f"tensor_parallel={ranks}: this process has a share of the model; save it loaded whole")
        if self.quantize is not None:
            raise SettingError(f"quantize={self.quantize!r}: the published format has plain weights; load it without")
        kind = None if dtype is None else named_dtype("dtype", dtype)
        save(model, self.directory, Path(directory).expanduser(), kind, parse_size(max_shard_size))

    def __repr__(self) -> str:
        model = self.model
        dtype = str(model.dtype).removeprefix("torch.")
        return f"<DiffusionLM {self.name or 'without a name'}: {model.config.family}, {model.device}, {dtype}>"

    def __copy__(self) -> DiffusionLM:
        """A copy with the same network: weights never change."""
        return DiffusionLM(self.model, self.tokenizer, self.name, self.audit, self.directory, self._draw)

    def __deepcopy__(self, memo: dict[int, object]) -> DiffusionLM:
        """The same as a plain copy."""
        return self.__copy__()

    def __getstate__(self) -> object:
        raise SettingError(f"model={self.name!r}: a loaded model is not pickled; dkv.load it where it is needed")

    def _settings(
        self,
        gen_length: int,
        block_length: int | None,
        steps: int | None,
        temperature: float,
        top_p: float | None,
        top_k: int | None,
        cfg_scale: float,
        seed: int | Sequence[int] | ArrayLike | None,
        cache: str | CachePolicy,
        decoder: str | Decoder | None,
        stop_at_eos: bool,
        cache_dtype: str | None,
        stop: str | Sequence[str] | None,
        eos_penalty: float,
        min_tokens: int,
        grow: bool,
        prompts: int = 1,
    ) -> SamplingParams:
        if isinstance(cache, str) and cache == AUTO:
            tuned = find_tuned(self.directory, self.name, self.quantize)
            cache, decoder = tuned.cache, tuned.decoder if decoder is None else decoder
        if plain(grow) is True and block_length is None:
            raise SettingError(
                "grow=True needs block_length, by how many positions to grow at a time, such as 32", "block_length"
            )
        return SamplingParams(
            gen_length=gen_length,
            block_length=gen_length if block_length is None else block_length,
            steps=gen_length if steps is None else steps,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            cfg_scale=cfg_scale,
            seed=seed_of(seed, self._draw, prompts),
            cache=_policy(cache),
            decoder=_rule(self.model.config.default_decoder if decoder is None else decoder),
            stop_at_eos=stop_at_eos,
            cache_dtype=cache_dtype,
            stop=texts_of(stop),
            eos_penalty=eos_penalty,
            min_tokens=min_tokens,
            grow=grow,
        )

    def _encode(
        self,
        prompt: Prompt,
        chat: bool | None,
        settings: SamplingParams,
        parse_special: bool,
        attend: Callable[[], None] | None = None,
    ) -> list[int]:
        config = self.model.config
        return encoded(prompt, chat, settings.gen_length, self.tokenizer, config, parse_special, attend)


def _frames(engine: Engine) -> Iterator[Frame]:
    """The frames of an engine's one request; the last carries the result."""
    while updates := engine.step():
        for update in updates:
            if update.error is not None:
                raise update.error
            if update.frame is not None:
                yield replace(update.frame, generation=update.generation)


def _policy(cache: str | CachePolicy) -> CachePolicy:
    if isinstance(cache, str):
        return make_cache(cache)
    cache = plain_fields(cache)
    if not isinstance(cache, CachePolicy):
        fix = "give 'none' for no cache" if cache is None else "give it a method plan(step)"
        raise SettingError(f"cache={cache!r} is neither a spec nor a CachePolicy; {fix}", "cache")
    return cache


def _rule(decoder: str | Decoder) -> Decoder:
    if isinstance(decoder, str):
        return make_decoder(decoder)
    decoder = plain_fields(decoder)
    if not isinstance(decoder, Decoder):
        raise SettingError(
            f"decoder={decoder!r} is neither a spec nor a Decoder; it needs rank, wanted and commit", "decoder"
        )
    return decoder


@contextmanager
def _progress(total: int, show: bool) -> Iterator[Callable[[int], None]]:
    """A progress bar over `total` prompts on standard error, or nothing."""
    if not show:
        yield lambda _: None
        return
    bar = Progress(console=Console(stderr=True), transient=True, redirect_stdout=False, redirect_stderr=False)
    with bar:
        task = bar.add_task("denoising", total=total)
        yield lambda done: bar.advance(task, done)
